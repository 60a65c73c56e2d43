package storetest

import (
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
)

// A Subject is a store under test. It is empty at first.
type Subject struct {
	Store store.Store
	Set   func(now strategy.Instant) // sets the clock by which the store decides
	Skew  strategy.Instant           // how far apart the clocks of its daemons may be
}

// Limit returns the limit that spec describes.
func Limit(tb testing.TB, spec strategy.Spec) strategy.Limit {
	tb.Helper()
	l, wrong := strategy.NewLimit(spec, strategy.DefaultMaxLogCount)
	if wrong != nil {
		tb.Fatalf("limit %+v: %v", spec, wrong)
	}
	return l
}

// zone returns the time zone called name.
func zone(tb testing.TB, name string) *time.Location {
	tb.Helper()
	z, err := timezone.Load(name)
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

// epoch is midnight UTC on a Thursday. At that time, windows of all usual periods
// start.
var epoch = strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))

func at(d time.Duration) strategy.Instant { return epoch + strategy.Instant(d/time.Microsecond) }

// decide decides one request.
func (s Subject) decide(tb testing.TB, r store.Request) strategy.Decision {
	tb.Helper()
	results := make([]store.Result, 1)
	s.Store.Decide(tb.Context(), []store.Request{r}, results)
	if results[0].Err != nil {
		tb.Fatalf("Decide(%+v): %v", r, results[0].Err)
	}
	return results[0].Decision
}

func request(limits ...strategy.Limit) store.Request {
	return store.Request{Namespace: "checkout", Identifier: "alice", Limits: limits, Cost: 1}
}

// wantExact checks that r is denied until wait after an instant, and then allowed.
func (s Subject) wantExact(t *testing.T, r store.Request, from strategy.Instant, wait time.Duration) {
	t.Helper()
	r.DryRun = true
	if r.Cost > 0 {
		r.Mode = strategy.Take
	}
	then := from + strategy.Instant(wait/time.Microsecond)
	s.Set(then - 1)
	if d := s.decide(t, r); d.Allowed {
		t.Fatalf("%+v: allowed earlier than after %v: %+v", r, wait, d)
	}
	s.Set(then)
	if d := s.decide(t, r); !d.Allowed {
		t.Fatalf("%+v: denied still after %v: %+v", r, wait, d)
	}
}

// everyStrategy returns a limit of rate for each strategy. Strategies that have a burst
// get that burst.
func everyStrategy(tb testing.TB, rate string, burst uint64) []strategy.Limit {
	tb.Helper()
	var limits []strategy.Limit
	for _, s := range strategy.All {
		spec := strategy.Spec{Rate: rate, Strategy: s}
		switch s {
		case strategy.TokenBucket, strategy.LeakyBucket, strategy.GCRA:
			spec.Burst = burst
		}
		limits = append(limits, Limit(tb, spec))
	}
	return limits
}

func equal(a, b strategy.Decision) bool {
	return a.Allowed == b.Allowed && a.RetryAfter == b.RetryAfter && a.Delay == b.Delay && a.At == b.At && equalStatus(a, b)
}

func equalStatus(a, b strategy.Decision) bool {
	if len(a.Statuses) != len(b.Statuses) {
		return false
	}
	for i := range a.Statuses {
		if told(a.Statuses[i]) != told(b.Statuses[i]) {
			return false
		}
	}
	return true
}

// told returns what callers are told of st. The rest follows from the state that this
// shows too.
func told(st strategy.Status) strategy.Status {
	st.Debt, st.Previous = 0, 0
	return st
}
