package storetest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// historiesVar is the environment variable that says how many histories of each kind are
// made, in place of the few that fit into every run of the tests.
const historiesVar = "RATELIMITD_HISTORIES"

// A Linear checks that stores which share counters are linearizable: that their answers are
// those of the pure strategies to the same calls one after the other, in an order in which each
// call is between its begin and its end. Each answer says at which instant it was made, so
// every field of it is checked.
//
// It makes histories: in each, several clients ask at once about one identifier of their
// own, in every mode, and reset it.
type Linear struct {
	Stores []store.Store // the clients take turns
	Skew   strategy.Instant

	Histories int // how many, if the environment does not say so
	Clients   int // in each; 0 is 4
	Calls     int // of each client; 0 is 6

	// Strategies are those of the limits, of which none is in shadow mode then; nil is all.
	Strategies []strategy.Strategy
}

// Check fails the test if a history is not linearizable.
func (l Linear) Check(t *testing.T) {
	t.Helper()
	n := l.Histories
	if text := os.Getenv(historiesVar); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s=%q: %v; write a number, such as 100000", historiesVar, text, err)
		}
	}
	overlaps := 0
	for i := range n {
		h := l.history(t, uint64(i))
		if !h.linearizable(t) {
			t.Fatalf("history %d is not linearizable:\n%s", i, h)
		}
		overlaps += h.overlaps()
	}
	t.Logf("%d histories, in which %d calls overlapped another", n, overlaps)
	if overlaps == 0 && l.Clients != 1 {
		t.Error("no call overlapped another, so nothing was shown")
	}
}

// Finds fails the test if all histories are linearizable: it shows that Check finds a fault
// that the test has planted.
func (l Linear) Finds(t *testing.T) {
	t.Helper()
	for i := range l.Histories {
		if h := l.history(t, uint64(i)); !h.linearizable(t) {
			t.Logf("found in history %d of %d calls", i, len(h.calls))
			return
		}
	}
	t.Errorf("a fault was planted, and %d histories have not found it", l.Histories)
}

// FindsRace is Finds for a fault that shows only if clients ask at once: histories of one client
// must be linearizable.
func (l Linear) FindsRace(t *testing.T) {
	t.Helper()
	alone := l
	alone.Clients, alone.Histories = 1, 50
	alone.Check(t)
	l.Finds(t)
}

// A call is what one client asks once.
type call struct {
	limits []int // of the history
	ask    strategy.Ask
	reset  bool
	crash  bool // the store forgets everything
}

func (c call) String() string {
	switch {
	case c.crash:
		return "crash"
	case c.reset:
		return fmt.Sprint("reset ", c.limits)
	}
	return fmt.Sprintf("%v %d of %v, dry run %v, consumed at %d", c.ask.Mode, c.ask.Cost, c.limits, c.ask.DryRun, c.ask.ConsumedAt)
}

// An answer is what came back.
type answer struct {
	strategy.Decision
	err   error            // if not nil, the call may or may not have had an effect
	asked strategy.Instant // by our clock
}

// A history is calls about one identifier.
type history struct {
	limits []strategy.Limit
	skew   strategy.Instant
	begin  time.Time

	mu    sync.Mutex // protects the following
	calls []porcupine.Operation
}

// maxHistoryLimits is how many limits an identifier of a history has.
const maxHistoryLimits = 3

// run numbers histories, so that each has an identifier of its own.
var run struct {
	mu sync.Mutex
	n  int
}

func nextRun() int {
	run.mu.Lock()
	defer run.mu.Unlock()
	run.n++
	return run.n
}

// history makes one history.
func (l Linear) history(t *testing.T, seed uint64) *history {
	t.Helper()
	if l.Clients == 0 {
		l.Clients = 4
	}
	if l.Calls == 0 {
		l.Calls = 6
	}
	random := rand.New(rand.NewPCG(seed, 1))
	h := &history{skew: l.Skew, begin: time.Now(), limits: l.limits(t, random)}
	r := store.Request{Namespace: "linear", Identifier: fmt.Sprint(nextRun())}
	start := make(chan struct{})
	var clients sync.WaitGroup
	for c := range l.Clients {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(c)+2))
			var seen []strategy.Instant
			<-start
			for range l.Calls {
				in := h.draw(random, seen)
				if a := h.do(t.Context(), c, l.Stores[c%len(l.Stores)], r, in); a.err != nil {
					t.Errorf("%v: %v", in, a.err)
				} else if a.At > 0 {
					seen = append(seen, a.At)
				}
			}
		})
	}
	close(start)
	clients.Wait()
	return h
}

// limits draws the limits of a history. They are so small, and their periods so short, that a
// few calls fill them and some see time pass.
func (l Linear) limits(t *testing.T, random *rand.Rand) []strategy.Limit {
	from := l.Strategies
	if from == nil {
		from = strategy.All[:]
	}
	var limits []strategy.Limit
	for i := range 1 + random.IntN(maxHistoryLimits) {
		spec := strategy.Spec{
			Name: fmt.Sprint(i), Strategy: from[random.IntN(len(from))],
			Rate: fmt.Sprintf("%d/%s", 1+random.IntN(6), []string{"2ms", "20ms", "1s", "h"}[random.IntN(4)]),
		}
		switch spec.Strategy {
		case strategy.TokenBucket, strategy.LeakyBucket, strategy.GCRA:
			spec.Burst = uint64(1 + random.IntN(6))
		}
		if random.IntN(2) == 0 {
			spec.MaxDebt = strategy.AtMost(uint64(random.IntN(4)))
		}
		limit := Limit(t, spec)
		limit.Shadow = l.Strategies == nil && random.IntN(8) == 0
		limits = append(limits, limit)
	}
	return limits
}

// draw draws a call. seen are the instants of earlier answers of the same client.
func (h *history) draw(random *rand.Rand, seen []strategy.Instant) call {
	var in call
	for i := range h.limits {
		if random.IntN(2) == 0 {
			in.limits = append(in.limits, i)
		}
	}
	if in.limits == nil {
		in.limits = []int{random.IntN(len(h.limits))}
	}
	in.ask = strategy.Ask{Cost: uint64(random.IntN(4)), DryRun: random.IntN(8) == 0}
	switch random.IntN(10) {
	case 0:
		in.reset = true
	case 1, 2:
		in.ask.Mode = strategy.Charge
	case 3:
		in.ask.Mode = strategy.Refund
		if len(seen) > 0 && random.IntN(2) == 0 {
			in.ask.ConsumedAt = seen[random.IntN(len(seen))]
		}
	case 4:
		in.ask.Mode = strategy.Overdraw
	}
	return in
}

// do puts a call to s, and notes it with what comes back.
func (h *history) do(ctx context.Context, client int, s store.Store, r store.Request, in call) answer {
	for _, i := range in.limits {
		r.Limits = append(r.Limits, h.limits[i])
	}
	r.Cost, r.Mode, r.DryRun, r.ConsumedAt = in.ask.Cost, in.ask.Mode, in.ask.DryRun, in.ask.ConsumedAt
	out := answer{asked: strategy.InstantOf(time.Now())}
	called := time.Since(h.begin)
	if in.reset {
		out.err = s.Reset(ctx, &r)
	} else {
		results := make([]store.Result, 1)
		s.Decide(ctx, []store.Request{r}, results)
		out.Decision, out.err = results[0].Decision, results[0].Err
	}
	h.note(client, in, out, called)
	return out
}

// note notes a call that ends now.
func (h *history) note(client int, in call, out answer, called time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, porcupine.Operation{ClientId: client, Input: in, Output: out, Call: int64(called), Return: int64(time.Since(h.begin))})
}

// overlaps returns how many calls began before an earlier one had ended.
func (h *history) overlaps() (n int) {
	var last int64
	for i, c := range h.calls { // in the order of their ends
		if i > 0 && c.Call < last {
			n++
		}
		last = c.Return
	}
	return n
}

func (h *history) String() string {
	var text strings.Builder
	for i, l := range h.limits {
		fmt.Fprintf(&text, "limit %d: %s %s, capacity %d, max debt %d, shadow %v\n", i, l.Strategy, l.Rate, l.Capacity, l.MaxDebt, l.Shadow)
	}
	for _, c := range h.calls {
		fmt.Fprintf(&text, "%9d to %9d ns, client %d: %v: %+v\n", c.Call, c.Return, c.ClientId, c.Input, c.Output)
	}
	return text.String()
}

// clockSlack is how far the clock of a store may be from ours, on one machine: clocks of virtual
// machines are put right by tens of milliseconds at once.
const clockSlack = strategy.Instant(time.Second / time.Microsecond)

// linearizable reports whether there is an order of the calls in which the pure strategies give the
// same answers.
func (h *history) linearizable(t *testing.T) bool {
	t.Helper()
	for _, c := range h.calls { // decided_at is the instant of the decision, so it is during the call
		out := c.Output.(answer)
		if took := strategy.Instant((c.Return - c.Call) / 1000); out.err == nil && out.At > 0 && (out.At < out.asked-clockSlack || out.At > out.asked+took+clockSlack) {
			t.Errorf("asked at %d, answered after %d us, decided at %d", out.asked, took, out.At)
		}
	}
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{counts{}} },
		Step: func(state, input, output any) []any { return h.step(state.(counts), input.(call), output.(answer)) },
	}
	switch porcupine.CheckOperationsTimeout(model.ToModel(), h.calls, 30*time.Second) {
	case porcupine.Ok:
		return true
	case porcupine.Unknown:
		t.Fatalf("whether this history is linearizable is not found out:\n%s", h)
	}
	return false
}

// counts are what the counters of a history remember. They can be compared.
type counts [maxHistoryLimits]struct {
	state strategy.State
	log   string // as Append writes it
}

// step returns what the counters may remember after a call that had that answer, or nothing
// if it could not have.
func (h *history) step(state counts, in call, out answer) (next []any) {
	if out.err != nil { // it may have had no effect
		next = append(next, state)
	}
	switch {
	case in.crash:
		return []any{counts{}}
	case in.reset:
		for _, i := range in.limits {
			state[i] = counts{}[i]
		}
		return append(next, state)
	}
	ask := in.ask
	if ask.Now = out.At; out.err != nil {
		ask.Now = out.asked
	}
	limits, states := make([]strategy.Limit, len(in.limits)), make([]strategy.State, len(in.limits))
	logs := make([]strategy.Log, len(in.limits))
	for j, i := range in.limits {
		l := &h.limits[i]
		limits[j] = *l
		if l.Strategy == strategy.SlidingWindowLog {
			if err := logs[j].Parse([]byte(state[i].log)); err != nil {
				panic(err)
			}
			logs[j].Settle(l, ask.Now, h.skew)
			state[i].log = string(logs[j].Append(nil))
			states[j] = logs[j].View(l, ask)
			continue
		}
		state[i].state.Settle(l, ask.Now, h.skew)
		states[j] = state[i].state
	}
	var d strategy.Decision
	consumed := d.Decide(limits, states, ask)
	if out.err == nil && !equal(d, out.Decision) {
		return nil
	}
	unchanged := state
	for j, i := range in.limits {
		switch l := &h.limits[i]; {
		case !consumed.From(l):
		case l.Strategy == strategy.SlidingWindowLog:
			logs[j].Apply(l, ask)
			state[i].log = string(logs[j].Append(nil))
		default:
			state[i].state = states[j]
		}
	}
	may := []counts{state}
	for j, i := range in.limits {
		if in.ask.Mode == strategy.Refund && d.Statuses[j].ResetAfter == 0 && state[i] != unchanged[i] {
			// It may have found nothing to give back, and so have changed nothing. A decision of
			// an earlier instant may come after it, for which the counter was not unused yet.
			for _, other := range slices.Clone(may) {
				other[i] = unchanged[i]
				may = append(may, other)
			}
		}
	}
	for _, state := range may {
		next = append(next, state)
	}
	return next
}

// A Split is a fault to plant: a store that decides in two steps that are not one. It asks
// whether a request may consume, and then has it consume.
type Split struct{ store.Store }

// Decide implements store.Store.
func (s Split) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	for i := range requests {
		r := requests[i : i+1 : i+1]
		if r[0].Mode != strategy.Take || !r[0].Changes() {
			s.Store.Decide(ctx, r, results[i:i+1])
			continue
		}
		ask := r[0]
		ask.DryRun = true
		s.Store.Decide(ctx, []store.Request{ask}, results[i:i+1])
		if results[i].Err != nil || !results[i].Allowed {
			continue
		}
		runtime.Gosched()
		consume := r[0]
		consume.Mode = strategy.Charge
		s.Store.Decide(ctx, []store.Request{consume}, results[i:i+1])
		results[i].Allowed, results[i].RetryAfter = true, 0
		for j := range results[i].Statuses {
			results[i].Statuses[j].Allowed, results[i].Statuses[j].RetryAfter = true, 0
		}
	}
}

// SplitStrategies are those for which a Split that is asked by one client alone answers as
// a store does.
var SplitStrategies = []strategy.Strategy{strategy.FixedWindow, strategy.TokenBucket, strategy.SlidingWindowCounter}

// CheckCrashes is Check for a store whose server is killed and comes back, with what it knew or
// without. crash does that, and returns when the server answers again.
//
// Calls that fail may have had an effect before they returned. All limits have one long
// window, as nobody knows at which instant such a call would have been decided.
func (l Linear) CheckCrashes(t *testing.T, keeps bool, crash func()) {
	t.Helper()
	if h := l.crashed(t, keeps, crash); h != nil {
		t.Fatalf("a history is not linearizable:\n%s", h)
	}
}

// FindsLoss fails the test if CheckCrashes does not notice that the server forgets.
func (l Linear) FindsLoss(t *testing.T, crash func()) {
	t.Helper()
	if l.crashed(t, true, crash) == nil {
		t.Error("a server has forgotten everything, and no history has found it")
	}
}

// crashed makes histories over a crash, and returns one that is not linearizable, or nil.
//
// How much it asks before and after the crash is counted in answers and not in time, so that on a
// slow machine too there is something to forget, and something to notice it by.
func (l Linear) crashed(t *testing.T, keeps bool, crash func()) *history {
	t.Helper()
	const identifiers, clients, after = 100, 8, 1000
	before := 500 + rand.Int64N(500)
	begin := time.Now()
	histories := make([]*history, identifiers)
	var prefix = nextRun()
	for i := range histories {
		histories[i] = &history{skew: l.Skew, begin: begin}
		for j := range 2 {
			histories[i].limits = append(histories[i].limits, Limit(t, strategy.Spec{Name: fmt.Sprint(j), Rate: fmt.Sprintf("%d/366d", 20+10*j)}))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var answered, enough atomic.Int64
	enough.Store(math.MaxInt64)
	moment, up := make(chan struct{}), make(chan struct{}) // closed when the server may crash, and when it is back
	var asking sync.WaitGroup
	failed := make([]int, clients)
	for c := range clients {
		asking.Go(func() {
			random := rand.New(rand.NewPCG(uint64(prefix), uint64(c)))
			for ctx.Err() == nil && answered.Load() < enough.Load() {
				i := random.IntN(identifiers)
				in := histories[i].draw(random, nil)
				r := store.Request{Namespace: "crash", Identifier: fmt.Sprint(prefix, " ", i)}
				if a := histories[i].do(t.Context(), c, l.Stores[c%len(l.Stores)], r, in); a.err != nil {
					failed[c]++
					<-up
				} else if answered.Add(1) == before {
					close(moment)
				}
			}
		})
	}
	select {
	case <-moment:
	case <-ctx.Done():
	}
	called := time.Since(begin)
	crash()
	for _, h := range histories {
		if !keeps {
			h.note(clients, call{crash: true}, answer{}, called)
		}
	}
	enough.Store(answered.Load() + after)
	close(up)
	asking.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%d answers in 30 s, where %d before a crash and %d after it were asked for", answered.Load(), before, after)
	}
	for _, h := range histories {
		if !h.linearizable(t) {
			return h
		}
	}
	t.Logf("%d histories over a crash, in which calls of each client have failed: %v", identifiers, failed)
	return nil
}
