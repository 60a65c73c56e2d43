// Package storetest is the conformance suite that every store must pass. Its tests say
// what the contract of store.Store means.
package storetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

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

// Run runs the suite. open opens a Subject and makes the test close it at its end.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"KnownAnswers", testKnownAnswers},
		{"AllOrNone", testAllOrNone},
		{"DryRunAndCostZero", testDryRunAndCostZero},
		{"Never", testNever},
		{"Unlimited", testUnlimited},
		{"ClockStepsBack", testClockStepsBack},
		{"CountersAreApart", testCountersAreApart},
		{"NamedLimitKeepsItsCounter", testNamedLimitKeepsItsCounter},
		{"RateChangesWithinAUnit", testRateChangesWithinAUnit},
		{"Reset", testReset},
		{"BatchIsInOrder", testBatchIsInOrder},
		{"Together", testTogether},
		{"MixedBatches", testMixedBatches},
		{"Race", testRace},
		{"AgreesWithTheAlgorithms", testAgreesWithTheAlgorithms},
		{"LongLog", testLongLog},
		{"Agree", testAgree},
		{"Modes", testModes},
		{"ModesAllOrNone", testModesAllOrNone},
		{"ModesOfNothing", testModesOfNothing},
		{"Overflow", testOverflow},
		{"RaceOfModes", testRaceOfModes},
		{"ClockWasWrong", testClockWasWrong},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
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

func testKnownAnswers(t *testing.T, s Subject) {
	const ms, hour, day, never = time.Millisecond, time.Hour, 24 * time.Hour, strategy.Never
	berlin := zone(t, "Europe/Berlin")
	type step struct {
		at        time.Duration
		cost      uint64
		allowed   bool
		remaining uint64
		reset     time.Duration
		retry     time.Duration
		delay     time.Duration
	}
	for _, tt := range []struct {
		name  string
		spec  strategy.Spec
		steps []step
	}{
		{"fixed window", strategy.Spec{Rate: "3/100ms", Strategy: strategy.FixedWindow}, []step{
			{at: 0, cost: 2, allowed: true, remaining: 1, reset: 100 * ms},
			{at: 30 * ms, cost: 2, remaining: 1, reset: 70 * ms, retry: 70 * ms},
			{at: 40 * ms, cost: 1, allowed: true, remaining: 0, reset: 60 * ms},
			{at: 99 * ms, cost: 1, remaining: 0, reset: 1 * ms, retry: 1 * ms},
			{at: 100 * ms, cost: 3, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 150 * ms, cost: 4, remaining: 0, reset: 50 * ms, retry: never},
			{at: 250 * ms, cost: 0, allowed: true, remaining: 3},
		}},
		{"month of the calendar", strategy.Spec{Rate: "3/month"}, []step{
			{at: 0, cost: 2, allowed: true, remaining: 1, reset: 31 * day},
			{at: 31*day - ms, cost: 2, remaining: 1, reset: ms, retry: ms},
			{at: 31 * day, cost: 3, allowed: true, remaining: 0, reset: 28 * day},
			{at: 58 * day, cost: 1, remaining: 0, reset: day, retry: day},
			{at: 59 * day, cost: 1, allowed: true, remaining: 2, reset: 31 * day},
		}},
		{"quarter with an anchor", strategy.Spec{Rate: "3/3 months", AnchorDay: 15}, []step{
			{at: 0, cost: 3, allowed: true, remaining: 0, reset: 14 * day},
			{at: 14*day - ms, cost: 1, remaining: 0, reset: ms, retry: ms},
			{at: 14 * day, cost: 1, allowed: true, remaining: 2, reset: 90 * day},
			{at: 14 * day, cost: 4, remaining: 2, reset: 90 * day, retry: never},
		}},
		{"days in a zone", strategy.Spec{Rate: "3/day", Zone: berlin}, []step{
			{at: 0, cost: 3, allowed: true, remaining: 0, reset: 23 * hour},
			{at: 23*hour - ms, cost: 1, remaining: 0, reset: ms, retry: ms},
			{at: 23 * hour, cost: 1, allowed: true, remaining: 2, reset: day},
			{at: 87*day - hour, cost: 1, allowed: true, remaining: 2, reset: 23 * hour}, // summer time begins
			{at: 87*day + 22*hour, cost: 1, allowed: true, remaining: 2, reset: day},
		}},
		{"sliding window counter", strategy.Spec{Rate: "4/s", Strategy: strategy.SlidingWindowCounter}, []step{
			{at: 500 * ms, cost: 4, allowed: true, remaining: 0, reset: 1500 * ms},
			{at: 600 * ms, cost: 1, remaining: 0, reset: 1400 * ms, retry: 650 * ms}, // 4 x (1 - t) + 1 <= 4 at t = 0.25 of the next window
			{at: 1250 * ms, cost: 1, allowed: true, remaining: 0, reset: 1750 * ms},
			{at: 1250 * ms, cost: 1, remaining: 0, reset: 1750 * ms, retry: 250 * ms},
			{at: 1500 * ms, cost: 1, allowed: true, remaining: 0, reset: 1500 * ms},
			{at: 2000 * ms, cost: 2, allowed: true, remaining: 0, reset: 2000 * ms},
			{at: 4000 * ms, cost: 0, allowed: true, remaining: 4},
		}},
		{"sliding window log", strategy.Spec{Rate: "3/100ms", Strategy: strategy.SlidingWindowLog}, []step{
			{at: 10 * ms, cost: 1, allowed: true, remaining: 2, reset: 100 * ms},
			{at: 50 * ms, cost: 2, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 60 * ms, cost: 1, remaining: 0, reset: 90 * ms, retry: 50 * ms},
			{at: 60 * ms, cost: 2, remaining: 0, reset: 90 * ms, retry: 90 * ms},
			{at: 110 * ms, cost: 1, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 150 * ms, cost: 3, remaining: 2, reset: 60 * ms, retry: 60 * ms},
			{at: 210 * ms, cost: 3, allowed: true, remaining: 0, reset: 100 * ms},
		}},
		{"token bucket", strategy.Spec{Rate: "10/s", Strategy: strategy.TokenBucket, Burst: 5}, []step{
			{at: 0, cost: 5, allowed: true, remaining: 0, reset: 500 * ms},
			{at: 0, cost: 1, remaining: 0, reset: 500 * ms, retry: 100 * ms},
			{at: 250 * ms, cost: 3, remaining: 2, reset: 250 * ms, retry: 50 * ms},
			{at: 300 * ms, cost: 3, allowed: true, remaining: 0, reset: 500 * ms},
			{at: 300 * ms, cost: 6, remaining: 0, reset: 500 * ms, retry: never},
			{at: 800 * ms, cost: 0, allowed: true, remaining: 5},
		}},
		{"token bucket of thirds", strategy.Spec{Rate: "3/s", Strategy: strategy.TokenBucket, Burst: 1}, []step{
			{at: 0, cost: 1, allowed: true, remaining: 0, reset: 333334 * time.Microsecond},
			{at: 333333 * time.Microsecond, cost: 1, remaining: 0, reset: time.Microsecond, retry: time.Microsecond},
			{at: 333334 * time.Microsecond, cost: 1, allowed: true, remaining: 0, reset: 333334 * time.Microsecond},
		}},
		{"leaky bucket", strategy.Spec{Rate: "10/s", Strategy: strategy.LeakyBucket, Burst: 3}, []step{
			{at: 0, cost: 1, allowed: true, remaining: 2, reset: 100 * ms},
			{at: 0, cost: 1, allowed: true, remaining: 1, reset: 200 * ms, delay: 100 * ms},
			{at: 50 * ms, cost: 1, allowed: true, remaining: 0, reset: 250 * ms, delay: 150 * ms},
			{at: 50 * ms, cost: 1, remaining: 0, reset: 250 * ms, retry: 50 * ms},
			{at: 100 * ms, cost: 1, allowed: true, remaining: 0, reset: 300 * ms, delay: 200 * ms},
		}},
		{"gcra", strategy.Spec{Rate: "10/s", Strategy: strategy.GCRA}, []step{
			{at: 0, cost: 1, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 99 * ms, cost: 1, remaining: 0, reset: 1 * ms, retry: 1 * ms},
			{at: 100 * ms, cost: 1, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 150 * ms, cost: 2, remaining: 0, reset: 50 * ms, retry: never},
		}},
		{"gcra with a burst", strategy.Spec{Rate: "10/s", Strategy: strategy.GCRA, Burst: 2}, []step{
			{at: 0, cost: 1, allowed: true, remaining: 1, reset: 100 * ms},
			{at: 50 * ms, cost: 1, allowed: true, remaining: 0, reset: 150 * ms},
			{at: 50 * ms, cost: 1, remaining: 0, reset: 150 * ms, retry: 50 * ms},
			{at: 100 * ms, cost: 1, allowed: true, remaining: 0, reset: 200 * ms},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := Limit(t, tt.spec)
			for i, step := range tt.steps {
				s.Set(at(step.at))
				r := request(l)
				r.Cost = step.cost
				d := s.decide(t, r)
				want := strategy.Decision{Allowed: step.allowed, At: at(step.at), RetryAfter: step.retry, Delay: step.delay, Statuses: []strategy.Status{{
					Limit: uint64(l.Capacity), Remaining: step.remaining, ResetAfter: step.reset, RetryAfter: step.retry, Allowed: step.allowed,
				}}}
				if !equal(d, want) {
					t.Fatalf("step %d, cost %d at %v:\n got %+v\nwant %+v", i, step.cost, step.at, d, want)
				}
			}
		})
	}
}

func testAllOrNone(t *testing.T, s Subject) {
	s.Set(epoch)
	wide := Limit(t, strategy.Spec{Rate: "10/min"})
	for i, spec := range []strategy.Spec{
		{Rate: "2/s"},
		{Rate: "2/s", Strategy: strategy.SlidingWindowCounter},
		{Rate: "2/s", Strategy: strategy.SlidingWindowLog},
		{Rate: "2/s", Strategy: strategy.TokenBucket},
		{Rate: "2/s", Strategy: strategy.LeakyBucket},
		{Rate: "2/s", Strategy: strategy.GCRA, Burst: 2},
	} {
		r := request(wide, Limit(t, spec))
		r.Identifier = fmt.Sprint("all or none ", i)
		for range 2 {
			if d := s.decide(t, r); !d.Allowed {
				t.Fatalf("%+v: %+v, want allowed", spec, d)
			}
		}
		for range 3 {
			d := s.decide(t, r)
			if d.Allowed || d.RetryAfter <= 0 || d.RetryAfter != d.Statuses[1].RetryAfter {
				t.Fatalf("%+v: %+v, want denied", spec, d)
			}
			if wide, narrow := d.Statuses[0], d.Statuses[1]; !wide.Allowed || wide.Remaining != 8 || narrow.Allowed || narrow.Remaining != 0 {
				t.Fatalf("%+v: statuses %+v, want the first untouched and the second to deny", spec, d.Statuses)
			}
		}
	}
}

// decideTogether decides requests together, if the store does that, and
// otherwise each on its own. It reports which.
func (s Subject) decideTogether(t *testing.T, requests []store.Request) ([]store.Result, bool) {
	one := together(requests)
	if !s.Store.DecidesTogether(&one[0]) {
		results := make([]store.Result, len(requests))
		s.Store.Decide(t.Context(), requests, results)
		return results, false
	}
	results := make([]store.Result, 1)
	s.Store.Decide(t.Context(), one, results)
	return append(results, results[0].With...), true
}

// together returns the one request that is all of requests.
func together(requests []store.Request) []store.Request {
	first := requests[0]
	first.With = requests[1:]
	return []store.Request{first}
}

// testTogether has random requests decided together: of several identifiers, or of one.
func testTogether(t *testing.T, s Subject) {
	model := newModel(s)
	run, together := 0, map[bool]int{}
	rapid.Check(t, func(rt *rapid.T) {
		run++ // identifiers of its own, so that no run finds what another has left
		alone := rapid.Bool().Draw(rt, "of one identifier")
		limits := everyStrategy(t, "3/h", 3)
		for step := range rapid.IntRange(1, 12).Draw(rt, "steps") {
			now := epoch + strategy.Instant(step*1000)
			s.Set(now)
			dry := rapid.IntRange(0, 5).Draw(rt, "dry run") == 0
			requests := make([]store.Request, rapid.IntRange(1, 4).Draw(rt, "requests"))
			for i := range requests {
				r := &requests[i]
				n := rapid.IntRange(1, 3).Draw(rt, "limits")
				from := rapid.IntRange(0, len(limits)-n).Draw(rt, "from")
				*r = store.Request{
					Namespace: "joined", Identifier: fmt.Sprint(run, " ", i), Limits: slices.Clone(limits[from : from+n]),
					Cost: rapid.Uint64Range(0, 2).Draw(rt, "cost"), DryRun: dry, Mode: drawMode().Draw(rt, "mode"),
				}
				if rapid.IntRange(0, 5).Draw(rt, "unlimited") == 0 {
					r.Limits = []strategy.Limit{Limit(t, strategy.Spec{Rate: "unlimited"})}
				}
				if alone {
					r.Identifier = fmt.Sprint(run, " alone")
					for j := range r.Limits { // no counter in common
						r.Limits[j].Name = fmt.Sprint(i)
					}
				}
			}
			results, joined := s.decideTogether(t, requests)
			if alone && !joined {
				rt.Fatal("requests of one identifier are not decided together")
			}
			together[alone]++
			for i, want := range model.decideRun(requests, now, joined) {
				if results[i].Err != nil || !equal(results[i].Decision, want) {
					rt.Fatalf("step %d, request %d of %+v:\n got %+v\nwant %+v", step, i, requests, results[i], want)
				}
			}
		}
	})
	if (together[true] == 0 || together[false] == 0) && !t.Failed() {
		t.Errorf("of one identifier, and not: %v", together)
	}
}

// testMixedBatches decides batches about few identifiers, with few and many limits,
// together and not. Each decision must be the same as if they were decided one after
// the other.
func testMixedBatches(t *testing.T, s Subject) {
	model := newModel(s)
	limits := append(everyStrategy(t, "3/h", 3), everyStrategy(t, "5/min", 5)...)
	batch := 0
	rapid.Check(t, func(rt *rapid.T) {
		batch++ // identifiers of its own: the clock of another batch may be later, and have let them expire
		now := epoch + strategy.Instant(rapid.IntRange(0, 1<<40).Draw(rt, "now"))
		var requests []store.Request
		var want []strategy.Decision
		for range rapid.IntRange(2, 30).Draw(rt, "runs") {
			run := make([]store.Request, 1)
			if rapid.IntRange(0, 3).Draw(rt, "together") == 0 {
				run = make([]store.Request, rapid.IntRange(2, 4).Draw(rt, "length"))
			}
			first := rapid.IntRange(0, 3).Draw(rt, "first")
			for i := range run {
				n := rapid.IntRange(1, len(limits)).Draw(rt, "limits")
				from := rapid.IntRange(0, len(limits)-n).Draw(rt, "from")
				run[i] = store.Request{
					Namespace: "mixed", Identifier: fmt.Sprint(batch, " ", first+i),
					Limits: limits[from : from+n], Cost: 1, Mode: drawMode().Draw(rt, "mode"),
				}
			}
			one := together(run)
			joined := s.Store.DecidesTogether(&one[0])
			want = append(want, model.decideRun(run, now, joined)...)
			if joined {
				run = one
			}
			requests = append(requests, run...)
		}
		s.Set(now)
		inTurn := make([]store.Result, len(requests))
		s.Store.Decide(t.Context(), requests, inTurn)
		var results []store.Result
		for i := range inTurn {
			results = append(append(results, inTurn[i]), inTurn[i].With...)
		}
		for i := range results {
			if results[i].Err != nil || !equal(results[i].Decision, want[i]) {
				rt.Fatalf("request %d of %+v:\n got %+v\nwant %+v", i, requests, results[i], want[i])
			}
		}
	})
}

func testDryRunAndCostZero(t *testing.T, s Subject) {
	s.Set(epoch)
	for _, l := range everyStrategy(t, "5/s", 5) {
		r := request(l)
		for _, dry := range []store.Request{
			{Namespace: r.Namespace, Identifier: r.Identifier, Limits: r.Limits, Cost: 5, DryRun: true},
			{Namespace: r.Namespace, Identifier: r.Identifier, Limits: r.Limits, Cost: 0},
		} {
			for range 2 {
				if d := s.decide(t, dry); !d.Allowed || d.Statuses[0].Remaining != 5 || d.Statuses[0].ResetAfter != 0 || d.Delay != 0 {
					t.Fatalf("%s, %+v: %+v, want allowed and nothing consumed", l.Strategy, dry, d)
				}
			}
		}
		r.Cost = 5
		s.decide(t, r)
		r.Cost, r.DryRun = 1, true
		if d := s.decide(t, r); d.Allowed || d.RetryAfter <= 0 {
			t.Fatalf("%s: dry run over the limit: %+v, want denied", l.Strategy, d)
		}
		r.Cost, r.DryRun = 0, false
		if d := s.decide(t, r); !d.Allowed || d.Statuses[0].Remaining != 0 {
			t.Fatalf("%s: cost 0 over the limit: %+v, want allowed", l.Strategy, d)
		}
	}
}

func testNever(t *testing.T, s Subject) {
	s.Set(epoch)
	for _, l := range append(everyStrategy(t, "5/s", 5), everyStrategy(t, "0/s", 100)...) {
		for _, cost := range []uint64{6, 1e9, 1e9 + 1, math.MaxUint64} {
			r := request(l)
			r.Cost = cost
			if d := s.decide(t, r); d.Allowed || d.RetryAfter != strategy.Never || d.Statuses[0].Remaining != uint64(l.Capacity) {
				t.Fatalf("%s %s, cost %d: %+v, want denied forever", l.Rate, l.Strategy, cost, d)
			}
		}
	}
}

func testUnlimited(t *testing.T, s Subject) {
	s.Set(epoch)
	unlimited, one := Limit(t, strategy.Spec{Rate: "unlimited"}), Limit(t, strategy.Spec{Rate: "1/s"})
	r := request(unlimited)
	r.Cost = math.MaxUint64
	want := strategy.Status{Limit: math.MaxUint64, Remaining: math.MaxUint64, Allowed: true}
	if d := s.decide(t, r); !d.Allowed || d.Statuses[0] != want {
		t.Errorf("unlimited: %+v", d)
	}
	r = request(unlimited, one)
	for i, allowed := range []bool{true, false} {
		if d := s.decide(t, r); d.Allowed != allowed || d.Statuses[0] != want || d.Statuses[1].Allowed != allowed {
			t.Errorf("request %d to unlimited and 1/s: %+v", i, d)
		}
	}
}

// testClockStepsBack has the clock step back by up to a period: time stands still until
// it is there again, so that all waits are longer by the step.
func testClockStepsBack(t *testing.T, s Subject) {
	for _, l := range everyStrategy(t, "5/min", 5) {
		s.Set(at(10 * time.Minute))
		r := request(l)
		r.Cost = 4
		before := s.decide(t, r)
		for _, back := range []time.Duration{time.Microsecond, time.Second, time.Minute} {
			s.Set(at(10*time.Minute - back))
			r.Cost = 0
			want := before
			want.Statuses = slices.Clone(before.Statuses)
			want.Statuses[0].ResetAfter += back
			if d := s.decide(t, r); !equalStatus(d, want) {
				t.Fatalf("%s: %v back: %+v, want it to stand still: %+v", l.Strategy, back, d, want)
			}
			r.Cost = 2
			d := s.decide(t, r)
			if d.Allowed || d.RetryAfter < back {
				t.Fatalf("%s: %v back: %+v, want denied for longer than that", l.Strategy, back, d)
			}
			s.wantExact(t, r, at(10*time.Minute-back), d.RetryAfter)
		}
	}
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

func testCountersAreApart(t *testing.T, s Subject) {
	s.Set(epoch)
	names := []struct{ namespace, identifier string }{
		{"a:b", "c"}, {"a", "b:c"}, {"a", "b"}, {"a", "b}"}, {"a", "{b}"}, {"a}", "b"}, {"a%3Ab", "c"}, {"a%3ab", "c"},
		{"a", "b\x00"}, {"a\x00", "b"}, {"a", " b"}, {"a ", "b"}, {"A", "b"}, {"a", "é"}, {"a", "e\u0301"}, {"a", "b:fixed_window:1/1h"},
	}
	limits := []strategy.Limit{
		Limit(t, strategy.Spec{Rate: "1/h"}),
		Limit(t, strategy.Spec{Rate: "1/2h"}),
		Limit(t, strategy.Spec{Rate: "1/31d"}),
		Limit(t, strategy.Spec{Rate: "1/month"}),
		Limit(t, strategy.Spec{Rate: "1/month", AnchorDay: 2}),
		Limit(t, strategy.Spec{Rate: "1/month", Zone: zone(t, "Europe/Berlin")}),
		Limit(t, strategy.Spec{Rate: "1/month", Zone: zone(t, "Europe/Paris")}),
		Limit(t, strategy.Spec{Rate: "1/h", Name: "x"}),
		Limit(t, strategy.Spec{Rate: "1/h", Name: "fixed_window:1/1h"}),
		Limit(t, strategy.Spec{Rate: "1/h", Name: "fixed_window"}),
		Limit(t, strategy.Spec{Rate: "1/h", Name: "x", Strategy: strategy.TokenBucket}),
		Limit(t, strategy.Spec{Rate: "1/h", Strategy: strategy.TokenBucket}),
		Limit(t, strategy.Spec{Rate: "1/h", Strategy: strategy.LeakyBucket}),
		Limit(t, strategy.Spec{Rate: "2/h", Strategy: strategy.LeakyBucket, Burst: 1}),
	}
	for _, allowed := range []bool{true, false} {
		for _, n := range names {
			for _, l := range limits {
				r := store.Request{Namespace: n.namespace, Identifier: n.identifier, Limits: []strategy.Limit{l}, Cost: 1}
				if d := s.decide(t, r); d.Allowed != allowed {
					t.Errorf("%q, %q, %+v: allowed %t, want %t", n.namespace, n.identifier, l, d.Allowed, allowed)
				}
			}
		}
	}
}

func testNamedLimitKeepsItsCounter(t *testing.T, s Subject) {
	s.Set(epoch)
	for _, strat := range strategy.All {
		spec := strategy.Spec{Name: "api", Rate: "10/min", Strategy: strat}
		if strat == strategy.GCRA {
			spec.Burst = 10
		}
		r := request(Limit(t, spec))
		r.Cost = 6
		s.decide(t, r)

		spec.Rate = "20/min"
		if strat == strategy.GCRA {
			spec.Burst = 20
		}
		r = request(Limit(t, spec))
		r.Cost = 0
		if d := s.decide(t, r); d.Statuses[0].Remaining != 14 {
			t.Errorf("%s: after 6 of 10, a limit of 20 has %d left, want 14", strat, d.Statuses[0].Remaining)
		}
		spec.Rate = "5/min"
		if strat == strategy.GCRA {
			spec.Burst = 5
		}
		r = request(Limit(t, spec))
		if d := s.decide(t, r); d.Allowed || d.Statuses[0].Remaining != 0 {
			t.Errorf("%s: after 6 of 10, a limit of 5: %+v, want denied", strat, d)
		}
	}
}

// testRateChangesWithinAUnit changes a bucket's rate while a part of a unit has
// drained. With the shorter period, that part must not count as many units.
func testRateChangesWithinAUnit(t *testing.T, s Subject) {
	for _, strat := range []strategy.Strategy{strategy.TokenBucket, strategy.LeakyBucket, strategy.GCRA} {
		spec := strategy.Spec{Name: "api", Rate: "1/h", Strategy: strat, Burst: 10}
		r := request(Limit(t, spec))
		s.Set(epoch)
		r.Cost = 5
		s.decide(t, r)
		s.Set(at(30 * time.Minute))
		r.Cost = 1
		s.decide(t, r) // 5.5 are used
		spec.Rate = "1/s"
		r = request(Limit(t, spec))
		r.Cost = 5
		if d := s.decide(t, r); d.Allowed || d.Statuses[0].Remaining != 4 {
			t.Errorf("%s: %+v, want denied with 4 left", strat, d)
		}
	}
}

func testReset(t *testing.T, s Subject) {
	s.Set(epoch)
	limits := everyStrategy(t, "2/h", 2)
	r := request(limits...)
	r.Cost = 2
	other := r
	other.Identifier = "bob"
	for _, r := range []store.Request{r, other} {
		if d := s.decide(t, r); !d.Allowed {
			t.Fatalf("%+v, want allowed", d)
		}
	}
	some := r
	some.Limits = limits[:3]
	for range 2 { // a reset may be repeated
		if err := s.Store.Reset(t.Context(), &some); err != nil {
			t.Fatal(err)
		}
	}
	for i, st := range s.decide(t, r).Statuses {
		if want := i < 3; st.Allowed != want {
			t.Errorf("after a reset of the first three, %s is allowed: %t", limits[i].Strategy, st.Allowed)
		}
	}
	if err := s.Store.Reset(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
	if d := s.decide(t, r); !d.Allowed {
		t.Errorf("after a reset: %+v, want allowed", d)
	}
	if d := s.decide(t, other); d.Allowed {
		t.Errorf("after a reset of %s, %s is allowed too", r.Identifier, other.Identifier)
	}
}

func testBatchIsInOrder(t *testing.T, s Subject) {
	s.Set(epoch)
	l := Limit(t, strategy.Spec{Rate: "3/h"})
	requests := make([]store.Request, 100)
	for i := range requests {
		requests[i] = request(l)
		if i%2 == 1 {
			requests[i].Identifier = "bob"
		}
	}
	results := make([]store.Result, len(requests))
	s.Store.Decide(t.Context(), requests, results)
	for i, res := range results {
		if allowed := i < 6; res.Err != nil || res.Allowed != allowed {
			t.Errorf("request %d of the batch: %+v, want allowed %t", i, res, allowed)
		}
	}
}

func testRace(t *testing.T, s Subject) {
	s.Set(epoch)
	const racers, each, capacity = 16, 40, 100
	for _, l := range everyStrategy(t, fmt.Sprint(capacity, "/h"), capacity) {
		second := Limit(t, strategy.Spec{Name: "second", Rate: fmt.Sprint(capacity+50, "/h")})
		r := request(l, second)
		r.Identifier = l.Strategy.String()
		var allowed atomic.Int64
		var wg sync.WaitGroup
		for range racers {
			wg.Go(func() {
				results := make([]store.Result, 1)
				for range each {
					s.Store.Decide(t.Context(), []store.Request{r}, results)
					if results[0].Err != nil {
						t.Errorf("%s: %v", l.Strategy, results[0].Err)
					} else if results[0].Allowed {
						allowed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if allowed.Load() != capacity {
			t.Errorf("%s: %d of %d got through, want %d", l.Strategy, allowed.Load(), racers*each, capacity)
		}
		r.Limits, r.Cost = []strategy.Limit{second}, 0
		if d := s.decide(t, r); d.Statuses[0].Remaining != 50 {
			t.Errorf("%s: the second limit has %d left, want 50", l.Strategy, d.Statuses[0].Remaining)
		}
	}
}

// endOfTime is when random sequences end at the latest. A store may keep microseconds as
// doubles, which are exact only up to the year 2255.
var endOfTime = strategy.InstantOf(time.Date(2250, 1, 1, 0, 0, 0, 0, time.UTC))

// testAgreesWithTheAlgorithms compares the store with internal/strategy on random
// sequences. All fields of all decisions must be equal.
func testAgreesWithTheAlgorithms(t *testing.T, s Subject) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		limits := rapid.SliceOfNDistinct(drawLimit(t), 1, 4, counterOf).Draw(rt, "limits")
		changed := changedRates(rt, t, limits)
		model := newModel(s)
		now := at(time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(rt, "start")))
		times := []strategy.Instant{now}
		for range rapid.IntRange(20, 150).Draw(rt, "steps") {
			now = min(now+strategy.Instant(drawPause(limits).Draw(rt, "pause")), endOfTime)
			times = append(times, now)
			r := store.Request{
				Namespace: "differential", Identifier: fmt.Sprint(run),
				Limits: rapid.SampledFrom([][]strategy.Limit{limits, limits, changed}).Draw(rt, "rates")[rapid.IntRange(0, len(limits)-1).Draw(rt, "from"):],
				Cost:   drawCost(limits).Draw(rt, "cost"), DryRun: rapid.IntRange(0, 9).Draw(rt, "dry run") == 0,
				Mode: drawMode().Draw(rt, "mode"),
			}
			if r.Mode == strategy.Refund && rapid.IntRange(0, 2).Draw(rt, "with its time") > 0 {
				r.ConsumedAt = rapid.SampledFrom(times[max(0, len(times)-8):]).Draw(rt, "consumed at") + strategy.Instant(rapid.IntRange(-1, 1).Draw(rt, "beside"))
			}
			s.Set(now)
			got, want := s.decide(t, r), model.decide(r, now)
			if !equal(got, want) {
				rt.Fatalf("at %d, %+v:\n got %+v\nwant %+v", now, r, got, want)
			}
		}
	})
}

// drawMode draws a mode: mostly Take.
func drawMode() *rapid.Generator[strategy.Mode] {
	return rapid.SampledFrom([]strategy.Mode{strategy.Take, strategy.Take, strategy.Take, strategy.Charge, strategy.Refund, strategy.Refund, strategy.Overdraw})
}

// testLongLog does the same with one sliding window log, over many times its period.
func testLongLog(t *testing.T, s Subject) {
	l := Limit(t, strategy.Spec{Rate: "200/100ms", Strategy: strategy.SlidingWindowLog, MaxDebt: strategy.AtMost(300)})
	model, now, random := newModel(s), epoch, rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		now += strategy.Instant(random.IntN(4) * random.IntN(1000)) // sometimes 0
		r := request(l)
		r.Cost = uint64(random.IntN(3))
		switch random.IntN(10) {
		case 0:
			r.Mode = strategy.Charge
		case 1:
			r.Mode, r.ConsumedAt = strategy.Refund, now-strategy.Instant(random.IntN(100_000))
		case 2:
			r.Mode = strategy.Refund
		}
		if i%500 == 499 {
			now += 200_000
		}
		s.Set(now)
		if got, want := s.decide(t, r), model.decide(r, now); !equal(got, want) {
			t.Fatalf("step %d, cost %d at %d:\n got %+v\nwant %+v", i, r.Cost, now, got, want)
		}
	}
}

// drawLimit draws limits of all strategies. To decide some of them takes numbers of
// more than 53 bits.
func drawLimit(tb testing.TB) *rapid.Generator[strategy.Limit] {
	return rapid.Custom(func(rt *rapid.T) strategy.Limit {
		spec := strategy.Spec{Strategy: rapid.SampledFrom(strategy.All[:]).Draw(rt, "strategy")}
		if rapid.IntRange(0, 3).Draw(rt, "named") == 0 {
			spec.Name = rapid.SampledFrom([]string{"a", "b", "{c}:"}).Draw(rt, "name")
		}
		counts := []uint64{0, 1, 2, 3, 7, 10, 97, 100, 1000, 9973}
		if spec.Strategy != strategy.SlidingWindowLog {
			counts = append(counts, 1_000_000, 999_999_937, 1_000_000_000)
		}
		count := rapid.SampledFrom(counts).Draw(rt, "count")
		period := rapid.SampledFrom([]string{"1ms", "7ms", "100ms", "s", "min", "h", "d", "w", "366d", "31622399999ms"}).Draw(rt, "period")
		if spec.Strategy == strategy.FixedWindow && rapid.IntRange(0, 2).Draw(rt, "calendar") == 0 {
			period = rapid.SampledFrom([]string{"d", "w", "3d", "month", "2 months", "year"}).Draw(rt, "period of the calendar")
			spec.Zone = zone(tb, rapid.SampledFrom([]string{"", "UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Chatham"}).Draw(rt, "zone"))
			if strings.HasSuffix(period, "month") || strings.HasSuffix(period, "months") || period == "year" {
				spec.AnchorDay = rapid.Uint32Range(0, strategy.MaxAnchorDay).Draw(rt, "anchor")
			}
		}
		spec.Rate = fmt.Sprintf("%d/%s", count, period)
		switch spec.Strategy {
		case strategy.TokenBucket, strategy.LeakyBucket, strategy.GCRA:
			spec.Burst = rapid.SampledFrom([]uint64{0, 1, 2, 5, 100, 999_999_937, 1_000_000_000}).Draw(rt, "burst")
		}
		if rapid.IntRange(0, 1).Draw(rt, "bounded debt") == 0 {
			spec.MaxDebt = strategy.AtMost(rapid.SampledFrom([]uint64{0, 1, 5, 1000, 1_000_000_000, strategy.MaxUnits}).Draw(rt, "max debt"))
		}
		l := Limit(tb, spec)
		l.Shadow = rapid.IntRange(0, 4).Draw(rt, "shadow") == 0
		return l
	})
}

// counterOf returns the same limit for all limits that share l's counter.
func counterOf(l strategy.Limit) strategy.Limit {
	if l.Name != "" {
		return strategy.Limit{Name: l.Name, Strategy: l.Strategy}
	}
	l.Shadow, l.MaxDebt = false, strategy.Bound(0)
	return l
}

// changedRates returns limits, with other rates for the named ones. A log keeps its
// period: when the period gets longer, it depends on the store how much of what is
// older than the short period is still there.
func changedRates(rt *rapid.T, tb testing.TB, limits []strategy.Limit) []strategy.Limit {
	changed := slices.Clone(limits)
	for i, l := range limits {
		if l.Name != "" {
			other := drawLimit(tb).Filter(func(m strategy.Limit) bool { return m.Strategy == l.Strategy }).Draw(rt, "changed")
			if l.Strategy == strategy.SlidingWindowLog {
				other.Rate.Period = l.Rate.Period
			}
			changed[i].Rate, changed[i].Capacity, changed[i].MaxDebt = other.Rate, other.Capacity, other.MaxDebt
			changed[i].Zone, changed[i].AnchorDay = other.Zone, other.AnchorDay
		}
	}
	return changed
}

// drawPause draws the microseconds between two decisions. They are about as long as a
// unit or a period of the limits takes, and sometimes negative.
func drawPause(limits []strategy.Limit) *rapid.Generator[int64] {
	var unit, period int64 = 1, 1
	for _, l := range limits {
		if p := int64(l.Rate.Period / time.Microsecond); p > period {
			period, unit = p, p/max(1, l.Rate.Count)
		}
	}
	return rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 3*unit), rapid.Int64Range(0, 2*period), rapid.Int64Range(-unit, 0), rapid.Int64Range(-2*period, 0), rapid.Just(10*period))
}

func drawCost(limits []strategy.Limit) *rapid.Generator[uint64] {
	capacity := uint64(1)
	for _, l := range limits {
		capacity = max(capacity, uint64(l.Capacity))
	}
	return rapid.OneOf(rapid.Just(uint64(1)), rapid.Uint64Range(0, 3), rapid.Uint64Range(0, capacity), rapid.Just(capacity/3+1), rapid.Uint64())
}

// A model is the simplest possible store: the algorithms and a map.
type model struct {
	counters map[modelKey]*modelCounter
	skew     strategy.Instant
}

// A modelKey identifies a counter. It has no namespace, because each test uses only one.
type modelKey struct {
	identifier string
	limit      strategy.Limit
}

type modelCounter struct {
	state strategy.State
	log   strategy.Log
}

func newModel(of Subject) *model { return &model{map[modelKey]*modelCounter{}, of.Skew} }

// decideRun decides requests, together or each on its own.
func (m *model) decideRun(requests []store.Request, now strategy.Instant, together bool) []strategy.Decision {
	decide := func(dryRun bool) (decisions []strategy.Decision, refused bool) {
		for _, r := range requests {
			r.DryRun = r.DryRun || dryRun
			d := m.decide(r, now)
			decisions, refused = append(decisions, d), refused || d.Refused
		}
		return decisions, refused
	}
	if together && len(requests) > 1 {
		if decisions, refused := decide(true); refused {
			return decisions
		}
	}
	decisions, _ := decide(false)
	return decisions
}

func (m *model) decide(r store.Request, now strategy.Instant) strategy.Decision {
	counters := make([]*modelCounter, len(r.Limits))
	states := make([]strategy.State, len(r.Limits))
	for i, l := range r.Limits {
		known := modelKey{r.Identifier, counterOf(l)}
		if m.counters[known] == nil {
			m.counters[known] = &modelCounter{}
		}
		c := m.counters[known]
		c.state.Settle(&l, now, m.skew)
		counters[i], states[i] = c, c.state
		if l.Strategy == strategy.SlidingWindowLog {
			c.log.Settle(&l, now, m.skew)
			states[i] = c.log.View(&l, r.Ask(now))
		}
	}
	var d strategy.Decision
	consumed := d.Decide(r.Limits, states, r.Ask(now))
	for i := range r.Limits {
		l := &r.Limits[i]
		if !consumed.From(l) {
			continue
		}
		counters[i].state = states[i]
		if l.Strategy == strategy.SlidingWindowLog && !l.Rate.IsUnlimited() {
			counters[i].log.Apply(l, r.Ask(now))
		}
	}
	return d
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
