package decide

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// newCore returns a Core over a store in memory, at midnight UTC forever.
func newCore(tb testing.TB, o Options, namespaces string) *Core {
	tb.Helper()
	if o.Store == nil {
		s, err := memory.New(memory.Options{Now: func() strategy.Instant { return 1_767_225_600_000_000 }})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = s.Close() })
		o.Store = s
	}
	o.Book, o.Logger = account.New(Outcomes, time.Now), slog.New(slog.DiscardHandler)
	c := New(o)
	file, root := yamlfile.Parse("test.yaml", []byte(namespaces))
	policies := policy.Read(root, strategy.DefaultMaxLogCount)
	if err := file.Err(); err != nil {
		tb.Fatal(err)
	}
	c.SetPolicies(policies)
	return c
}

// decideAll returns the answers to requests, which are good until the next call.
func (c *Core) decideAll(ctx context.Context, together int, requests ...Request) []Answer {
	b := Batch{Requests: requests, Together: together}
	c.Decide(ctx, &b)
	return b.Answers
}

func fixed(count int64) []strategy.Limit {
	l, wrong := strategy.NewLimit(strategy.Spec{Rate: fmt.Sprint(count, "/day")}, strategy.DefaultMaxLogCount)
	if wrong != nil {
		panic(wrong)
	}
	return []strategy.Limit{l}
}

// TestCallerGone shows that a caller's own deadline is not a failure of the
// store.
func TestCallerGone(t *testing.T) {
	c := newCore(t, Options{Store: failingStore{}, OnError: policy.FailAllow}, "{}")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	r := Request{Namespace: "checkout", Identifier: "alice", Specs: []strategy.Spec{{Rate: "1/min"}}, Cost: 1}
	for ctx, want := range map[context.Context]error{cancelled: ErrCancelled, late: ErrDeadline} {
		if a := c.decideAll(ctx, 0, r)[0]; !errors.Is(a.Err, want) || a.Outcome != Undecided {
			t.Errorf("Decide: %v, %v, want %v", a.Outcome, a.Err, want)
		}
		if err := c.Reset(ctx, &r); !errors.Is(err, want) {
			t.Errorf("Reset: %v, want %v", err, want)
		}
	}
	if n := c.book.StoreErrors.Load(); n != 0 {
		t.Errorf("%v store errors, want none", n)
	}
}

// A failingStore fails.
type failingStore struct{ store.Store }

var errFails = errors.New("it fails")

func (failingStore) Decide(_ context.Context, _ []store.Request, results []store.Result) {
	for i := range results {
		results[i].Err = errFails
	}
}
func (failingStore) Reset(context.Context, *store.Request) error { return errFails }
func (failingStore) Health(context.Context) error                { return errFails }
func (failingStore) DecidesTogether(*store.Request) bool         { return false }

// TestFailurePolicy has the store fail for a namespace of each policy, and for
// limits that are in shadow mode.
func TestFailurePolicy(t *testing.T) {
	local, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = local.Close() }()
	c := newCore(t, Options{Store: failingStore{}, Fallback: local, OnError: policy.FailError}, `
allow: {on_error: allow}
deny: {on_error: deny}
local: {on_error: local}
`)
	shadow := fixed(1)
	shadow[0].Shadow = true
	for _, step := range []struct {
		namespace string
		limits    []strategy.Limit
		want      Outcome
	}{
		{"allow", fixed(1), FailedOpen}, {"deny", fixed(1), FailedClosed}, {"deny", shadow, FailedOpen}, {"unknown", shadow, FailedOpen},
		{"local", fixed(1), LocalAllowed}, {"local", fixed(1), LocalDenied}, {"unknown", fixed(1), Undecided},
	} {
		a := c.decideAll(t.Context(), 0, Request{Namespace: step.namespace, Identifier: "alice", Limits: step.limits, Cost: 1})[0]
		allowed := step.want == FailedOpen || step.want == LocalAllowed
		if a.Outcome != step.want || a.Decision.Allowed != allowed || (a.Err != nil) != (step.want == Undecided) {
			t.Errorf("%s: %s, allowed %t, %v; want %s", step.namespace, a.Outcome, a.Decision.Allowed, a.Err, step.want)
		}
		if a.Err != nil && !errors.Is(a.Err, ErrStore) {
			t.Errorf("%s: %v, want %v", step.namespace, a.Err, ErrStore)
		}
	}
}

// TestUnlimitedNeedsNoStore has the store fail for requests that have no counter in
// it: they are allowed whatever the failure policy is, and say nothing of the store.
func TestUnlimitedNeedsNoStore(t *testing.T) {
	for _, onError := range policy.OnErrors {
		c := newCore(t, Options{Store: failingStore{}, OnError: onError}, "{n: {policies: {free: {limits: [{rate: unlimited}]}}}}")
		two := []strategy.Spec{{Rate: "unlimited"}, {Rate: "unlimited", Strategy: strategy.TokenBucket}}
		limits := []strategy.Limit{{Strategy: strategy.FixedWindow, Rate: rate.Rate{Count: rate.Unlimited}}}
		for i, r := range []Request{{Policy: "free"}, {Specs: two}, {Limits: limits}} {
			r.Namespace, r.Identifier, r.Cost = "n", "alice", 1<<40
			a := c.decideAll(t.Context(), 0, r)[0]
			if a.Err != nil || a.Outcome != Unlimited || !a.Decision.Allowed || len(a.Decision.Statuses) != len(a.Limits) || len(a.Limits) == 0 {
				t.Fatalf("%s, request %d: %s, %+v, %v", onError, i, a.Outcome, a.Decision, a.Err)
			}
			for _, st := range a.Decision.Statuses {
				if want := (strategy.Status{Limit: math.MaxUint64, Remaining: math.MaxUint64, Allowed: true}); st != want {
					t.Errorf("%s, request %d: %+v, want %+v", onError, i, st, want)
				}
			}
			if err := c.Reset(t.Context(), &r); err != nil {
				t.Errorf("%s, request %d: Reset: %v", onError, i, err)
			}
		}
		if n := c.book.StoreErrors.Load(); n != 0 {
			t.Errorf("%s: %d store errors, want none", onError, n)
		}
	}
}

// TestTogether has requests decided together, with one that is exempt, one that
// is refused and one apart among them.
func TestTogether(t *testing.T) {
	c := newCore(t, Options{}, `n: {exempt: ["staff"]}`)
	ask := func(identifier string, limits []strategy.Limit, cost uint64) Request {
		return Request{Namespace: "n", Identifier: identifier, Limits: limits, Cost: cost}
	}
	requests := func() []Request {
		return []Request{
			ask("a", fixed(2), 1), ask("staff", fixed(0), 9), {Namespace: "n"}, ask("b", fixed(3), 2),
			ask("a", fixed(7), 1), // apart
		}
	}
	for _, step := range []struct {
		outcomes  [5]Outcome
		remaining [5]uint64
	}{
		{[5]Outcome{Allowed, Exempt, 0, Allowed, Allowed}, [5]uint64{1, 0, 0, 1, 6}},
		{[5]Outcome{Allowed, Exempt, 0, Denied, Allowed}, [5]uint64{1, 0, 0, 1, 5}}, // so a has not consumed
		{[5]Outcome{Allowed, Exempt, 0, Denied, Allowed}, [5]uint64{1, 0, 0, 1, 4}},
	} {
		answers := c.decideAll(t.Context(), 4, requests()...)
		for i, a := range answers {
			if i == 2 {
				if invalid := (*InvalidError)(nil); !errors.As(a.Err, &invalid) {
					t.Errorf("request 2: %v, want it refused", a.Err)
				}
				continue
			}
			if a.Err != nil || a.Outcome != step.outcomes[i] {
				t.Errorf("request %d: %s, %v; want %s", i, a.Outcome, a.Err, step.outcomes[i])
			}
			if len(a.Decision.Statuses) > 0 && a.Decision.Statuses[0].Remaining != step.remaining[i] {
				t.Errorf("request %d: %d remain, want %d", i, a.Decision.Statuses[0].Remaining, step.remaining[i])
			}
		}
	}
}

// TestBatchIsUsedAgain has a batch used for others, which find nothing of what
// it had.
func TestBatchIsUsedAgain(t *testing.T) {
	c := newCore(t, Options{}, "{}")
	b := NewBatch()
	for i, n := range []int{5, 1, 3} {
		for j := range n {
			b.Requests = append(b.Requests, Request{Namespace: "n", Identifier: fmt.Sprint(i, j), Specs: []strategy.Spec{{Rate: fmt.Sprint(n, "/day")}}, Cost: 1})
		}
		b.Together = n
		c.Decide(t.Context(), b)
		if len(b.Answers) != n {
			t.Fatalf("%d answers, want %d", len(b.Answers), n)
		}
		for j, a := range b.Answers {
			if a.Err != nil || a.Limits[0].Capacity != int64(n) || a.Decision.Statuses[0].Remaining != uint64(n)-1 {
				t.Errorf("batch %d, answer %d: %+v", i, j, a)
			}
		}
		b.Clear()
		if len(b.Requests) != 0 || b.Together != 0 {
			t.Errorf("a batch that is clear: %+v", b)
		}
	}
	b.Free()
}

// TestKnownLimits has requests bring limits that those before them had too, or had not:
// the limits of each are its own, whatever its caller does with its memory after, and they
// are checked by the Core that is asked.
func TestKnownLimits(t *testing.T) {
	generous, strict := newCore(t, Options{MaxLogCount: 1000}, "{}"), newCore(t, Options{MaxLogCount: 10}, "{}")
	b := new(Batch)
	ask := func(c *Core, rates ...string) []Answer {
		b.Clear()
		var texts [][]byte
		for _, text := range rates {
			text := []byte(text)
			texts = append(texts, text)
			spec := strategy.Spec{Rate: unsafe.String(&text[0], len(text)), Strategy: strategy.SlidingWindowLog}
			b.Requests = append(b.Requests, Request{Namespace: "n", Identifier: fmt.Sprint(rates), Specs: []strategy.Spec{spec}, Cost: 1})
		}
		c.Decide(t.Context(), b)
		for i := range texts {
			b.Requests[i].Specs[0].Rate = "99/day"
			copy(texts[i], "99/day")
		}
		return b.Answers
	}
	for round := range 3 * patience {
		for i, rates := range [][]string{{"20/day"}, {"20/day", "30/day", "20/day"}, {"30/day"}, {"99/day"}} {
			for j, a := range ask(generous, rates...) {
				if want := fmt.Sprint(a.Limits[0].Capacity, "/day"); a.Err != nil || a.Limits[0].Name != "" || want != rates[j] {
					t.Fatalf("round %d, batch %d, request %d of %s: %+v", round, i, j, rates[j], a)
				}
			}
		}
		if a := ask(strict, "20/day")[0]; !errors.As(a.Err, new(*InvalidError)) {
			t.Fatalf("round %d: a log of 20 where 10 are allowed: %+v", round, a)
		}
	}
}

// An untouchedStore must not be asked.
type untouchedStore struct {
	store.Store
	b *testing.B
}

func (s untouchedStore) Decide(context.Context, []store.Request, []store.Result) {
	s.b.Error("the store was asked")
}

// BenchmarkDecide times an exempt decision, which asks the store nothing and
// takes no lock of ours, against one that is allowed and one that is denied.
func BenchmarkDecide(b *testing.B) {
	for _, kind := range []string{"exempt", "allowed", "denied"} {
		b.Run(kind, func(b *testing.B) {
			c := newCore(b, Options{}, `
checkout:
  exempt: ["internal-*"]
  policies: {allowed: {limits: [{rate: 1_000_000_000/s}]}, denied: {limits: [{rate: 0/h}]}}
`)
			r, want := Request{Namespace: "checkout", Identifier: "user:42", Policy: kind, Cost: 1}, Allowed
			switch kind {
			case "exempt":
				r.Identifier, r.Policy, want = "internal-cron", "allowed", Exempt
				c.store = untouchedStore{c.store, b}
			case "denied":
				want = Denied
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				var batch Batch
				for pb.Next() {
					batch.Requests = append(batch.Requests, r)
					if c.Decide(context.Background(), &batch); batch.Answers[0].Outcome != want { //nolint:usetesting // b.Context takes a lock
						b.Fatalf("%+v", batch.Answers[0])
					}
					batch.Clear()
				}
			})
		})
	}
}
