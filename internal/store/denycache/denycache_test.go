package denycache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A countingStore counts what it is asked, and fails when it is told to.
type countingStore struct {
	store.Store
	asked atomic.Int64
	fails atomic.Bool
}

func (s *countingStore) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	s.asked.Add(int64(len(requests)))
	if s.fails.Load() {
		for i := range results {
			results[i].Err = errors.New("it fails")
		}
		return
	}
	s.Store.Decide(ctx, requests, results)
}

// newCache returns a cache in front of a memory store, both of one clock that
// is set by hand.
func newCache(t *testing.T, o Options) (c *Cache, counting *countingStore, set func(time.Duration)) {
	t.Helper()
	var now atomic.Int64
	s, err := memory.New(memory.Options{Now: func() strategy.Instant { return strategy.Instant(now.Load() / 1000) }})
	if err != nil {
		t.Fatal(err)
	}
	o.Now = func() time.Duration { return time.Duration(now.Load()) }
	counting = &countingStore{Store: s}
	c = New(counting, o)
	t.Cleanup(func() { _ = c.Close() })
	return c, counting, func(to time.Duration) { now.Store(int64(to)) }
}

// TestVerdictsAreExact compares a cache's verdicts with those of its store
// alone, on random requests that share limits, and resets.
func TestVerdictsAreExact(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Second})
	alone, _, setAlone := newCache(t, Options{})
	limits := []strategy.Limit{
		storetest.Limit(t, strategy.Spec{Rate: "20/10s"}),
		storetest.Limit(t, strategy.Spec{Rate: "5/s", Strategy: strategy.SlidingWindowCounter}),
		storetest.Limit(t, strategy.Spec{Rate: "7/s", Strategy: strategy.SlidingWindowLog}),
		storetest.Limit(t, strategy.Spec{Rate: "3/s", Strategy: strategy.TokenBucket, Burst: 10}),
		storetest.Limit(t, strategy.Spec{Rate: "4/s", Strategy: strategy.GCRA, Burst: 3}),
	}
	random := rand.New(rand.NewPCG(1, 2))
	now, asked := time.Duration(0), 0
	for step := range 50_000 {
		now += time.Duration(random.IntN(100)) * time.Millisecond / 4
		set(now)
		setAlone(now)
		r := store.Request{Namespace: "test", Identifier: fmt.Sprint(random.IntN(3)), Limits: limits[2*random.IntN(3):], Cost: uint64(1 + random.IntN(10)/9), DryRun: random.IntN(10) == 0}
		switch random.IntN(40) {
		case 0:
			r.Mode = strategy.Charge
		case 1:
			r.Mode = strategy.Refund
		case 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13:
			r.Mode = strategy.Overdraw
		}
		if random.IntN(200) == 0 {
			if err := errors.Join(c.Reset(t.Context(), &r), alone.Store.Reset(t.Context(), &r)); err != nil {
				t.Fatal(err)
			}
		}
		asked++
		got, want := make([]store.Result, 1), make([]store.Result, 1)
		c.Decide(t.Context(), []store.Request{r}, got)
		alone.Store.Decide(t.Context(), []store.Request{r}, want)
		if got[0].Err != nil || got[0].Allowed != want[0].Allowed || got[0].Refused != want[0].Refused {
			t.Fatalf("step %d at %v, %+v:\n got %+v\nwant %+v", step, now, r, got[0], want[0])
		}
	}
	if hits := asked - int(counting.asked.Load()); hits < 4000 {
		t.Errorf("only %d of %d requests were answered from memory", hits, asked)
	}
}

func ask(t *testing.T, s store.Store, identifier string, cost uint64, limits ...strategy.Limit) strategy.Decision {
	t.Helper()
	results := make([]store.Result, 1)
	s.Decide(t.Context(), []store.Request{{Namespace: "test", Identifier: identifier, Limits: limits, Cost: cost}}, results)
	if results[0].Err != nil {
		t.Fatal(results[0].Err)
	}
	return results[0].Decision
}

// TestModesReachTheStore has a denial that is known met by each mode.
func TestModesReachTheStore(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Minute})
	l := storetest.Limit(t, strategy.Spec{Rate: "2/10s"})
	at := time.Second
	decide := func(mode strategy.Mode, cost uint64, dryRun bool) (d strategy.Decision, asked int64) {
		before := counting.asked.Load()
		results := make([]store.Result, 1)
		c.Decide(t.Context(), []store.Request{{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{l}, Cost: cost, Mode: mode, DryRun: dryRun}}, results)
		return results[0].Decision, counting.asked.Load() - before
	}
	const take, charge, refund, overdraw = strategy.Take, strategy.Charge, strategy.Refund, strategy.Overdraw
	for i, step := range []struct {
		mode    strategy.Mode
		cost    uint64
		dryRun  bool
		asked   int64
		allowed bool
	}{
		{take, 2, false, 1, true},
		{take, 1, false, 1, false},
		{take, 1, false, 0, false},
		{charge, 3, true, 1, false},
		{refund, 3, true, 1, true},
		{take, 1, false, 0, false}, // dry runs have changed nothing
		{charge, 1, false, 1, false},
		{take, 1, false, 1, false}, // whose wait may be longer now
		{take, 1, false, 0, false},
		{overdraw, 1, false, 1, false},
		{overdraw, 1, false, 0, false}, // which consumes nothing, as there is nothing left
		{refund, 2, false, 1, true},
		{overdraw, 5, false, 1, false}, // which consumes
		{overdraw, 5, false, 1, false},
		{overdraw, 5, false, 0, false},
		{take, 0, false, 1, true},
		{overdraw, 0, false, 1, false}, // in debt
		{overdraw, 0, false, 0, false},
		{refund, 4, false, 1, true},
		{overdraw, 0, false, 1, true},
		{take, 1, false, 1, false},
		{refund, 1, false, 1, true},
		{take, 1, false, 1, true}, // at once
	} {
		set(at)
		d, asked := decide(step.mode, step.cost, step.dryRun)
		if d.Allowed != step.allowed || asked != step.asked {
			t.Errorf("step %d, %s of %d: %+v, asked %d times; want %+v", i, step.mode, step.cost, d, asked, step)
		}
		if cached := asked == 0; cached != (d.At == 0) {
			t.Errorf("step %d: decided at %d", i, d.At)
		}
	}
}

// TestDebtIsDeniedUntilItIsPaid has a bucket in debt, which denies from memory until the
// instant at which the store allows.
func TestDebtIsDeniedUntilItIsPaid(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Hour})
	l := storetest.Limit(t, strategy.Spec{Rate: "10/s", Strategy: strategy.TokenBucket})
	results := make([]store.Result, 1)
	c.Decide(t.Context(), []store.Request{{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{l}, Cost: 40, Mode: strategy.Charge}}, results)
	ask(t, c, "alice", 1, l)
	for _, step := range []struct {
		at      time.Duration
		retry   time.Duration
		asked   int64
		allowed bool
	}{
		{time.Second, 2100 * time.Millisecond, 2, false},
		{3 * time.Second, 100 * time.Millisecond, 2, false},
		{3100*time.Millisecond - 2*time.Microsecond, 2 * time.Microsecond, 2, false},
		{3100 * time.Millisecond, 0, 3, true},
	} {
		set(step.at)
		d := ask(t, c, "alice", 1, l)
		if d.Allowed != step.allowed || d.RetryAfter != step.retry || counting.asked.Load() != step.asked {
			t.Errorf("at %v: %+v, asked %d times; want %+v", step.at, d, counting.asked.Load(), step)
		}
	}
}

// TestDenialBesideRefund has a request denied while a refund is under way: the denial is
// not remembered.
func TestDenialBesideRefund(t *testing.T) {
	c, counting, _ := newCache(t, Options{TTL: time.Hour})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	ask(t, c, "alice", 1, l)
	refund := store.Request{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{l}, Cost: 1, Mode: strategy.Refund}
	c.Store = &besideStore{counting, func() {
		c.Store = counting
		if d := ask(t, c, "alice", 1, l); d.Allowed {
			t.Errorf("before the refund: %+v", d)
		}
	}}
	c.Decide(t.Context(), []store.Request{refund}, make([]store.Result, 1))
	if d := ask(t, c, "alice", 1, l); !d.Allowed {
		t.Errorf("after the refund: %+v", d)
	}
}

// TestSettledBefore has a reservation settled again and again: the denial that says so does
// not push out that of the identifier, but a charge beside it may have moved that.
func TestSettledBefore(t *testing.T) {
	c, counting, _ := newCache(t, Options{TTL: time.Hour})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	once := storetest.Limit(t, strategy.Spec{Rate: "1/h", Name: store.OncePrefix + "x", Strategy: strategy.GCRA})
	for i, want := range []bool{true, false, false} {
		results := make([]store.Result, 1)
		c.Decide(t.Context(), []store.Request{{
			Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{once}, Cost: 1,
			With: []store.Request{{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{l}, Cost: 1, Mode: strategy.Charge}},
		}}, results)
		if results[0].Allowed != want || results[0].Repeated || len(results[0].With) != 1 || results[0].With[0].Statuses[0].Remaining != 0 {
			t.Errorf("settlement %d: %+v", i, results[0])
		}
	}
	if n := len(c.shard(&store.Request{Namespace: "test", Identifier: "alice"}).denials); n != 0 {
		t.Errorf("%d denials are remembered of what nobody asks alone", n)
	}
	ask(t, c, "alice", 1, l)
	counting.asked.Store(0)
	if d := ask(t, c, "alice", 1, l); d.Allowed || counting.asked.Load() != 0 {
		t.Errorf("%+v, and the store was asked %d times", d, counting.asked.Load())
	}
}

// A besideStore calls a function before it decides.
type besideStore struct {
	store.Store
	before func()
}

func (s *besideStore) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	s.before()
	s.Store.Decide(ctx, requests, results)
}

func TestDenialIsRepeated(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Minute})
	second, minute := storetest.Limit(t, strategy.Spec{Rate: "1/10s"}), storetest.Limit(t, strategy.Spec{Rate: "5/min"})
	ask(t, c, "alice", 1, second, minute)
	set(4 * time.Second)
	ask(t, c, "alice", 1, second, minute)
	counting.asked.Store(0)

	set(7*time.Second + 500*time.Nanosecond)
	d := ask(t, c, "alice", 1, second, minute)
	want := []strategy.Status{
		{Limit: 1, ResetAfter: 3 * time.Second, RetryAfter: 3 * time.Second},
		{Limit: 5, Remaining: 4, ResetAfter: 53 * time.Second, Allowed: true},
	}
	if counting.asked.Load() != 0 || d.Allowed || d.RetryAfter != 3*time.Second || d.Statuses[0] != want[0] || d.Statuses[1] != want[1] {
		t.Errorf("%+v after %d questions, want denied for 3 s with statuses %+v after none", d, counting.asked.Load(), want)
	}

	for name, other := range map[string]func() strategy.Decision{
		"another cost":       func() strategy.Decision { return ask(t, c, "alice", 2, second, minute) },
		"cost 0":             func() strategy.Decision { return ask(t, c, "alice", 0, second, minute) },
		"other limits":       func() strategy.Decision { return ask(t, c, "alice", 1, minute) },
		"another identifier": func() strategy.Decision { return ask(t, c, "bob", 1, second, minute) },
	} {
		counting.asked.Store(0)
		if other(); counting.asked.Load() != 1 {
			t.Errorf("%s: the store was asked %d times, want once", name, counting.asked.Load())
		}
	}

	ask(t, c, "alice", 1, second, minute) // the last denial was of another request
	set(10*time.Second - time.Microsecond)
	if d := ask(t, c, "alice", 1, second, minute); d.Allowed {
		t.Error("allowed a microsecond before the window ends")
	}
	set(10 * time.Second)
	if d := ask(t, c, "alice", 1, second, minute); !d.Allowed {
		t.Error("denied in the next window")
	}
}

// TestWhatIsLeftIsNotStale has a request consume what a denial of a greater one said
// was left.
func TestWhatIsLeftIsNotStale(t *testing.T) {
	c, counting, _ := newCache(t, Options{TTL: time.Hour})
	l := storetest.Limit(t, strategy.Spec{Rate: "5/h"})
	for _, step := range []struct {
		cost  uint64
		left  uint64
		asked int64 // in all
	}{{9, 5, 1}, {9, 5, 1}, {3, 2, 2}, {9, 2, 3}, {9, 2, 3}, {2, 0, 4}, {9, 0, 5}, {9, 0, 5}} {
		if d := ask(t, c, "alice", step.cost, l); d.Statuses[0].Remaining != step.left || counting.asked.Load() != step.asked {
			t.Errorf("cost %d: %d remain after %d questions, want %d after %d", step.cost, d.Statuses[0].Remaining, counting.asked.Load(), step.left, step.asked)
		}
	}
}

// TestTwoRates has one named limit sent with two rates: what one of them
// consumes may free the other sooner.
func TestTwoRates(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Hour})
	slow := storetest.Limit(t, strategy.Spec{Rate: "1/h", Name: "api", Strategy: strategy.TokenBucket})
	fast := storetest.Limit(t, strategy.Spec{Rate: "100/s", Name: "api", Strategy: strategy.TokenBucket})
	other := storetest.Limit(t, strategy.Spec{Rate: "100/s", Name: "other", Strategy: strategy.TokenBucket})
	ask(t, c, "alice", 1, slow)
	set(time.Second)
	ask(t, c, "alice", 1, slow)
	counting.asked.Store(0)
	ask(t, c, "alice", 1, other)
	if ask(t, c, "alice", 1, slow); counting.asked.Load() != 1 {
		t.Error("another limit made the denial forgotten")
	}
	ask(t, c, "alice", 1, fast) // drains what the slow one had counted
	if ask(t, c, "alice", 1, slow); counting.asked.Load() != 3 {
		t.Errorf("the store was asked %d times, want it asked again after the limit's other rate", counting.asked.Load())
	}
}

// TestWhoAsksLeaves has the one caller leave who was sent to ask again: the
// next is sent.
func TestWhoAsksLeaves(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Second})
	limit := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	ask(t, c, "alice", 1, limit)
	ask(t, c, "alice", 1, limit)
	set(2 * time.Second)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	counting.fails.Store(true)
	results := make([]store.Result, 1)
	c.Decide(gone, []store.Request{{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{limit}, Cost: 1}}, results)
	counting.fails.Store(false)
	counting.asked.Store(0)
	if !results[0].Repeated {
		t.Error("the denial that stands is not said to be repeated")
	}
	if ask(t, c, "alice", 1, limit); counting.asked.Load() != 1 {
		t.Error("the next caller was not sent to ask")
	}
	if ask(t, c, "alice", 1, limit); counting.asked.Load() != 1 {
		t.Error("two were sent to ask")
	}
}

func TestStoreIsAskedOnceATTL(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Second})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	ask(t, c, "alice", 1, l)
	counting.asked.Store(0)
	for i := range 10_000 {
		set(time.Duration(i) * time.Millisecond)
		if d := ask(t, c, "alice", 1, l); d.Allowed {
			t.Fatal("allowed")
		}
	}
	if n := counting.asked.Load(); n != 10 {
		t.Errorf("in 10 s the store was asked %d times, want 10", n)
	}
}

// TestFloodAtRedis counts the commands that a real server gets while many
// callers hammer one limit: none within the TTL, and one for each that passes.
func TestFloodAtRedis(t *testing.T) {
	server := redistest.Start(t)
	s, err := redis.New(redis.Options{URLs: []string{server.URL}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var now atomic.Int64
	c := New(s, Options{TTL: time.Second, Now: func() time.Duration { return time.Duration(now.Load()) }})
	defer c.Close()
	l := storetest.Limit(t, strategy.Spec{Rate: "3/366d"})
	for range 4 {
		ask(t, c, "alice", 1, l)
	}
	client := server.Client(t)
	if err := client.ConfigResetStat(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for ttls := range 5 {
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				for range 250 {
					if d := ask(t, c, "alice", 1, l); d.Allowed {
						t.Error("allowed")
					}
				}
			})
		}
		callers.Wait()
		info, err := client.InfoMap(t.Context(), "commandstats").Result()
		stat := info["Commandstats"]["cmdstat_evalsha"]
		if err != nil || (ttls == 0) != (stat == "") || ttls > 0 && !strings.HasPrefix(stat, fmt.Sprintf("calls=%d,", ttls)) {
			t.Errorf("after %d TTLs, with 2000 requests over the limit in each, Redis has had these decisions: %q, %v", ttls, stat, err)
		}
		now.Add(int64(time.Second))
	}
}

// TestDenialOutlivesTheStore has the store fail when it is asked again.
func TestDenialOutlivesTheStore(t *testing.T) {
	c, counting, set := newCache(t, Options{})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/min"})
	ask(t, c, "alice", 1, l)
	ask(t, c, "alice", 1, l)
	counting.fails.Store(true)
	for at := time.Duration(0); at < time.Minute; at += 100 * time.Millisecond {
		set(at)
		if d := ask(t, c, "alice", 1, l); d.Allowed || d.RetryAfter != time.Minute-at {
			t.Fatalf("at %v: %+v, want denied for %v", at, d, time.Minute-at)
		}
	}
	set(time.Minute)
	results := make([]store.Result, 1)
	c.Decide(t.Context(), []store.Request{{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{l}, Cost: 1}}, results)
	if results[0].Err == nil {
		t.Errorf("after the window: %+v, want the store's error", results[0])
	}
}

func TestNeverIsRepeated(t *testing.T) {
	c, counting, set := newCache(t, Options{TTL: time.Second})
	l := storetest.Limit(t, strategy.Spec{Rate: "5/s"})
	for i := range 10 {
		set(time.Duration(i) * 99 * time.Millisecond)
		if d := ask(t, c, "alice", 6, l); d.Allowed || d.RetryAfter != strategy.Never || d.Statuses[0].RetryAfter != strategy.Never {
			t.Fatalf("%+v, want denied forever", d)
		}
	}
	if n := counting.asked.Load(); n != 1 {
		t.Errorf("the store was asked %d times, want once", n)
	}
}

func TestResetForgets(t *testing.T) {
	c, _, _ := newCache(t, Options{})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	for range 3 {
		ask(t, c, "alice", 1, l)
	}
	if err := c.Reset(t.Context(), &store.Request{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{l}}); err != nil {
		t.Fatal(err)
	}
	if d := ask(t, c, "alice", 1, l); !d.Allowed {
		t.Errorf("after a reset: %+v, want allowed", d)
	}
}

// A slowStore answers when it is let.
type slowStore struct {
	store.Store
	deciding, answer chan struct{}
}

func (s slowStore) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	s.Store.Decide(ctx, requests, results)
	s.deciding <- struct{}{}
	<-s.answer
}

// TestResetWhileAsking resets between the store's denial and its arrival: that
// denial is not remembered.
func TestResetWhileAsking(t *testing.T) {
	m, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	slow := slowStore{m, make(chan struct{}), make(chan struct{})}
	c := New(slow, Options{TTL: time.Hour})
	defer c.Close()
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: []strategy.Limit{storetest.Limit(t, strategy.Spec{Rate: "1/366d"})}, Cost: 1}
	for _, reset := range []bool{false, true, false} {
		result := make(chan bool)
		go func() {
			results := make([]store.Result, 1)
			c.Decide(t.Context(), []store.Request{r}, results)
			result <- results[0].Allowed
		}()
		<-slow.deciding
		if reset {
			if err := c.Reset(t.Context(), &r); err != nil {
				t.Error(err)
			}
		}
		slow.answer <- struct{}{}
		if allowed := <-result; allowed == reset {
			t.Errorf("before the reset, or after it: allowed is %t", allowed)
		}
	}
}

func TestBatch(t *testing.T) {
	c, counting, _ := newCache(t, Options{})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	for _, name := range []string{"a", "c", "e"} {
		ask(t, c, name, 1, l)
		ask(t, c, name, 1, l)
	}
	counting.asked.Store(0)
	requests := make([]store.Request, 6)
	for i := range requests {
		requests[i] = store.Request{Namespace: "test", Identifier: string(rune('a' + i)), Limits: []strategy.Limit{l}, Cost: 1}
	}
	results := make([]store.Result, len(requests))
	c.Decide(t.Context(), requests, results)
	for i, res := range results {
		if allowed := i%2 == 1; res.Err != nil || res.Allowed != allowed {
			t.Errorf("request %d: %+v, want allowed %t", i, res, allowed)
		}
	}
	if n := counting.asked.Load(); n != 3 {
		t.Errorf("the store was asked %d times, want 3", n)
	}
}

func TestBound(t *testing.T) {
	c, _, set := newCache(t, Options{MaxKeys: 640})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	for i := range 5000 {
		set(time.Duration(i) * time.Millisecond)
		ask(t, c, fmt.Sprint(i), 1, l)
		ask(t, c, fmt.Sprint(i), 1, l)
	}
	keys := 0
	for i := range c.shards {
		keys += len(c.shards[i].denials)
	}
	if keys > 640 || keys < 600 {
		t.Errorf("%d denials are remembered, want nearly 640", keys)
	}
}

// TestBytes has denials remembered of many shapes, and compares what the cache counts with
// what the heap has grown by.
func TestBytes(t *testing.T) {
	pad := func(s string, n int) string { return s + strings.Repeat("x", n-len(s)) }
	for _, tt := range []struct {
		name              string
		limits, nameBytes int
		idBytes           int
		denials, atLeast  int // how many are made and are kept
	}{
		{"usual", 1, 8, 12, 60_000, 49_000},
		{"several limits", 4, 10, 36, 45_000, 30_000},
		{"the worst", strategy.MaxLimits, strategy.MaxNameBytes, 1024, 15_000, 5000},
		{"the longest identifiers", 1, 0, 1024, 25_000, 15_000},
		{"few", 2, 8, 12, 1000, 1000},
	} {
		c, _, _ := newCache(t, Options{})
		var limits []strategy.Limit
		for i := range tt.limits {
			spec := strategy.Spec{Rate: fmt.Sprintf("1/%dh", i+1)}
			if tt.nameBytes > 0 {
				spec.Name = pad(fmt.Sprint(i), tt.nameBytes)
			}
			limits = append(limits, storetest.Limit(t, spec))
		}
		res := store.Result{Decision: strategy.Decision{RetryAfter: time.Hour, Statuses: make([]strategy.Status, tt.limits)}}
		for i := range res.Statuses {
			res.Statuses[i] = strategy.Status{Limit: 1, RetryAfter: time.Hour}
		}
		before := heap()
		for i := range tt.denials {
			r := store.Request{Namespace: pad("test", min(128, tt.idBytes)), Identifier: pad(fmt.Sprint(i), tt.idBytes), Limits: limits, Cost: 1}
			c.learn(t.Context(), &r, &res, 0, 0)
		}
		grown := heap() - before
		keys, bytes := 0, 0
		for i := range c.shards {
			sum := 0
			for _, d := range c.shards[i].denials {
				sum += d.bytes
			}
			if sum != c.shards[i].bytes {
				t.Fatalf("%s: a shard counts %d bytes, its denials have %d", tt.name, c.shards[i].bytes, sum)
			}
			bytes += sum
			keys += len(c.shards[i].denials)
		}
		t.Logf("%s: %d denials, counted as %.1f MB, take %.1f MB", tt.name, keys, float64(bytes)/1e6, float64(grown)/1e6)
		if bytes > DefaultMaxBytes || float64(grown) > 1.02*float64(bytes) || float64(grown) < 0.85*float64(bytes) {
			t.Errorf("%s: %d bytes are counted, %d are used, want no more than %d", tt.name, bytes, grown, DefaultMaxBytes)
		}
		if keys < tt.atLeast {
			t.Errorf("%s: %d denials are remembered, want at least %d", tt.name, keys, tt.atLeast)
		}
		runtime.KeepAlive(c)
	}
}

// heap returns how many bytes of the heap are in use.
func heap() int {
	runtime.GC()
	runtime.GC() // what the first has freed
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestTooLarge has a denial that is larger than the room of a shard.
func TestTooLarge(t *testing.T) {
	c, counting, _ := newCache(t, Options{MaxBytes: shards * 1000})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	for _, id := range []string{"alice", strings.Repeat("x", 1024)} {
		for range 3 {
			ask(t, c, id, 1, l)
		}
	}
	if n := counting.asked.Load(); n != 5 {
		t.Errorf("the store was asked %d times, want 5: twice about the short, each time about the long", n)
	}
}

func TestMetrics(t *testing.T) {
	c, _, _ := newCache(t, Options{})
	l := storetest.Limit(t, strategy.Spec{Rate: "1/h"})
	for range 5 {
		ask(t, c, "alice", 1, l)
	}
	want := fmt.Sprintf(`
# HELP ratelimitd_deny_cache_bytes Memory of the denials that are remembered, in bytes.
# TYPE ratelimitd_deny_cache_bytes gauge
ratelimitd_deny_cache_bytes %d
# HELP ratelimitd_deny_cache_hits_total Denials that were repeated without asking the store.
# TYPE ratelimitd_deny_cache_hits_total counter
ratelimitd_deny_cache_hits_total 3
# HELP ratelimitd_deny_cache_keys Identifiers whose denial is remembered; those whose denial is over are counted until others need the room.
# TYPE ratelimitd_deny_cache_keys gauge
ratelimitd_deny_cache_keys 1
`, c.shard(&store.Request{Namespace: "test", Identifier: "alice"}).bytes)
	if err := testutil.CollectAndCompare(c.Collector(), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
