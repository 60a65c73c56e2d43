// Package storetest is the conformance suite that every store must pass. Its tests say
// what the contract of store.Store means.
package storetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

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
