package storetest

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// testModes has known sequences of all modes, for each strategy.
func testModes(t *testing.T, s Subject) {
	const (
		ms, sec, never = time.Millisecond, time.Second, strategy.Never

		take, charge, refund, overdraw = strategy.Take, strategy.Charge, strategy.Refund, strategy.Overdraw
	)
	type step struct {
		at         time.Duration
		mode       strategy.Mode
		cost       uint64
		consumedAt time.Duration // 0: none

		allowed   bool
		remaining uint64
		reset     time.Duration
		retry     time.Duration
	}
	for _, tt := range []struct {
		name  string
		spec  strategy.Spec
		steps []step
	}{
		{"fixed window", strategy.Spec{Rate: "10/s"}, []step{
			{at: 100 * ms, mode: charge, cost: 4, allowed: true, remaining: 6, reset: 900 * ms},
			{at: 200 * ms, mode: charge, cost: 10, reset: 800 * ms, retry: 800 * ms}, // a debt of 4
			{at: 200 * ms, mode: charge, cost: 11, reset: 800 * ms, retry: never},    // and of 15
			{at: 300 * ms, mode: take, cost: 1, reset: 700 * ms, retry: 700 * ms},
			{at: 300 * ms, mode: refund, cost: 16, allowed: true, remaining: 1, reset: 700 * ms},
			{at: 300 * ms, mode: overdraw, cost: 3, reset: 700 * ms, retry: 700 * ms}, // 12 are used
			{at: 300 * ms, mode: overdraw, cost: 3, reset: 700 * ms, retry: 700 * ms}, // and still
			{at: 300 * ms, mode: overdraw, cost: 0, reset: 700 * ms, retry: 700 * ms}, // it is in debt
			{at: 300 * ms, mode: take, cost: 0, allowed: true, reset: 700 * ms},
			{at: 400 * ms, mode: refund, cost: 2, consumedAt: 300 * ms, allowed: true, reset: 600 * ms},
			{at: 400 * ms, mode: overdraw, cost: 0, allowed: true, reset: 600 * ms},              // it is used up
			{at: sec, mode: refund, cost: 5, consumedAt: 400 * ms, allowed: true, remaining: 10}, // that window is over
			{at: 1100 * ms, mode: take, cost: 6, allowed: true, remaining: 4, reset: 900 * ms},   // and the debt with it
			{at: 1200 * ms, mode: refund, cost: 5, consumedAt: 999 * ms, allowed: true, remaining: 4, reset: 800 * ms},
			{at: 1200 * ms, mode: refund, cost: 5, consumedAt: sec, allowed: true, remaining: 9, reset: 800 * ms},
			{at: 1200 * ms, mode: refund, cost: math.MaxUint64, allowed: true, remaining: 10},
		}},
		{"fixed window with a greatest debt", strategy.Spec{Rate: "10/s", MaxDebt: strategy.AtMost(5)}, []step{
			{at: 100 * ms, mode: charge, cost: 100, reset: 900 * ms, retry: never},
			{at: 100 * ms, mode: refund, cost: 6, allowed: true, remaining: 1, reset: 900 * ms}, // of 15
		}},
		{"sliding window counter", strategy.Spec{Rate: "10/s", Strategy: strategy.SlidingWindowCounter}, []step{
			{at: 500 * ms, mode: charge, cost: 20, reset: 1500 * ms, retry: never},
			{at: 500 * ms, mode: take, cost: 1, reset: 1500 * ms, retry: 1050 * ms},                                      // 20 x (1 - t) + 1 <= 10 at t = 0.55 of the next
			{at: 1500 * ms, mode: charge, cost: 1, reset: 1500 * ms, retry: 100 * ms},                                    // 10 + 1, and another at 0.6
			{at: 1500 * ms, mode: refund, cost: 12, consumedAt: 500 * ms, allowed: true, remaining: 5, reset: 1500 * ms}, // 8 x 0.5 + 1
			{at: 1500 * ms, mode: refund, cost: 12, allowed: true, remaining: 6, reset: 500 * ms},
			{at: 2500 * ms, mode: refund, cost: 12, consumedAt: 500 * ms, allowed: true, remaining: 10},
		}},
		{"sliding window log", strategy.Spec{Rate: "10/s", Strategy: strategy.SlidingWindowLog}, []step{
			{at: 100 * ms, mode: take, cost: 4, allowed: true, remaining: 6, reset: sec},
			{at: 200 * ms, mode: charge, cost: 9, reset: sec, retry: sec},                                               // a debt of 3; 9 more once those 9 are gone
			{at: 300 * ms, mode: take, cost: 1, reset: 900 * ms, retry: 800 * ms},                                       // at 1.1 s there are 9
			{at: 400 * ms, mode: refund, cost: 6, consumedAt: 200 * ms, allowed: true, remaining: 3, reset: 800 * ms},   // 4 and 3
			{at: 400 * ms, mode: refund, cost: 5, consumedAt: 100 * ms, allowed: true, remaining: 8, reset: 800 * ms},   // 0 and 2
			{at: 500 * ms, mode: take, cost: 3, allowed: true, remaining: 5, reset: sec},                                // 2 and 3
			{at: 600 * ms, mode: refund, cost: 4, allowed: true, remaining: 9, reset: 600 * ms},                         // 1 and 0
			{at: 600 * ms, mode: refund, cost: 4, consumedAt: 201 * ms, allowed: true, remaining: 9, reset: 600 * ms},   // nothing is so young
			{at: 1200 * ms, mode: take, cost: 5, allowed: true, remaining: 5, reset: sec},                               // that one is too old
			{at: 1300 * ms, mode: refund, cost: 9, consumedAt: 300 * ms, allowed: true, remaining: 5, reset: 900 * ms},  // too old as well
			{at: 1300 * ms, mode: refund, cost: 9, consumedAt: 300*ms + time.Microsecond, allowed: true, remaining: 10}, // what came after
			{at: 1300 * ms, mode: overdraw, cost: 10, allowed: true, reset: sec},
			{at: 1300 * ms, mode: overdraw, cost: 1, reset: sec, retry: sec},
		}},
		{"token bucket", strategy.Spec{Rate: "10/s", Strategy: strategy.TokenBucket}, []step{
			{at: 0, mode: charge, cost: 25, reset: 2500 * ms, retry: never},
			{at: 100 * ms, mode: take, cost: 1, reset: 2400 * ms, retry: 1500 * ms},   // 24 are used
			{at: 200 * ms, mode: charge, cost: 2, reset: 2500 * ms, retry: 1700 * ms}, // 25
			{at: 200 * ms, mode: refund, cost: 20, allowed: true, remaining: 5, reset: 500 * ms},
			{at: 200 * ms, mode: overdraw, cost: 7, reset: 1200 * ms, retry: 900 * ms}, // 12
			{at: 200 * ms, mode: overdraw, cost: 7, reset: 1200 * ms, retry: 900 * ms},
			{at: 500 * ms, mode: overdraw, cost: 0, allowed: true, remaining: 1, reset: 900 * ms},
			{at: 1300 * ms, mode: take, cost: 9, allowed: true, remaining: 0, reset: sec}, // 1 and 9
			{at: 2300 * ms, mode: take, cost: 5, allowed: true, remaining: 5, reset: 500 * ms},
			{at: 2300 * ms, mode: refund, cost: 9, consumedAt: 1300 * ms, allowed: true, remaining: 5, reset: 500 * ms},    // these have drained
			{at: 2300 * ms, mode: refund, cost: 9, consumedAt: 1300*ms + 1*time.Microsecond, allowed: true, remaining: 10}, // never below unused
		}},
		{"token bucket with a greatest debt", strategy.Spec{Rate: "10/s", Strategy: strategy.TokenBucket, MaxDebt: strategy.AtMost(0)}, []step{
			{at: 0, mode: charge, cost: 9, allowed: true, remaining: 1, reset: 900 * ms},
			{at: 50 * ms, mode: charge, cost: 9, reset: sec, retry: 900 * ms},
			{at: 100 * ms, mode: take, cost: 1, reset: 950 * ms, retry: 50 * ms},
		}},
		{"leaky bucket", strategy.Spec{Rate: "10/s", Strategy: strategy.LeakyBucket, Burst: 3}, []step{
			{at: 0, mode: charge, cost: 3, allowed: true, reset: 300 * ms},
			{at: 0, mode: charge, cost: 3, reset: 600 * ms, retry: 600 * ms},
			{at: 100 * ms, mode: refund, cost: 3, consumedAt: 50 * ms, allowed: true, remaining: 1, reset: 200 * ms},
		}},
		{"gcra", strategy.Spec{Rate: "10/s", Strategy: strategy.GCRA}, []step{
			{at: 0, mode: charge, cost: 1, allowed: true, reset: 100 * ms},
			{at: 0, mode: charge, cost: 1, reset: 200 * ms, retry: 200 * ms},
			{at: 50 * ms, mode: refund, cost: 1, allowed: true, reset: 50 * ms},
			{at: 50 * ms, mode: overdraw, cost: 1, reset: 50 * ms, retry: 50 * ms},
			{at: 100 * ms, mode: overdraw, cost: 1, allowed: true, reset: 100 * ms},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := Limit(t, tt.spec)
			for i, step := range tt.steps {
				s.Set(at(step.at))
				r := request(l)
				r.Identifier, r.Cost, r.Mode = tt.name, step.cost, step.mode
				if step.consumedAt != 0 {
					r.ConsumedAt = at(step.consumedAt)
				}
				want := strategy.Decision{Allowed: step.allowed, At: at(step.at), RetryAfter: step.retry, Statuses: []strategy.Status{{
					Limit: uint64(l.Capacity), Remaining: step.remaining, ResetAfter: step.reset, RetryAfter: step.retry, Allowed: step.allowed,
				}}}
				s.wantDryRun(t, r, want)
				if d := s.decide(t, r); !equal(d, want) {
					t.Fatalf("step %d, %s of %d at %v:\n got %+v\nwant %+v", i, step.mode, step.cost, step.at, d, want)
				}
				if step.retry > 0 {
					s.wantExact(t, r, at(step.at), step.retry)
				}
			}
		})
	}
}

// wantDryRun checks that r as a dry run decides the same, and changes nothing.
func (s Subject) wantDryRun(t *testing.T, r store.Request, want strategy.Decision) {
	t.Helper()
	look := r
	look.Mode, look.Cost = strategy.Take, 0
	before := s.decide(t, look)
	r.DryRun = true
	if d := s.decide(t, r); d.Allowed != want.Allowed || d.RetryAfter != want.RetryAfter || d.Statuses[0].Remaining != before.Statuses[0].Remaining {
		t.Fatalf("dry run of %+v:\n got %+v\nwant %+v", r, d, want)
	}
	if after := s.decide(t, look); !equalStatus(after, before) {
		t.Fatalf("dry run of %+v: the state was %+v and is %+v", r, before, after)
	}
}

// testModesAllOrNone has each mode meet two limits, of which the second has too little left,
// and one in shadow mode.
func testModesAllOrNone(t *testing.T, s Subject) {
	s.Set(epoch)
	left := func(r store.Request) (left [3]uint64) {
		r.Mode, r.Cost = strategy.Take, 0
		for i, st := range s.decide(t, r).Statuses {
			left[i] = st.Remaining
		}
		return left
	}
	for _, second := range everyStrategy(t, "5/h", 5) {
		shadow := Limit(t, strategy.Spec{Rate: "3/h", Name: "shadow"})
		shadow.Shadow = true
		r := request(Limit(t, strategy.Spec{Rate: "10/h", Name: "wide"}), second, shadow)
		r.Identifier = "modes " + second.Strategy.String()
		for i, step := range []struct {
			mode    strategy.Mode
			cost    uint64
			allowed bool
			refused bool
			left    [3]uint64
		}{
			{strategy.Charge, 4, true, false, [3]uint64{6, 1, 0}}, // over the one in shadow mode
			{strategy.Take, 2, false, true, [3]uint64{6, 1, 0}},
			{strategy.Overdraw, 2, false, false, [3]uint64{4, 0, 0}}, // 6, 6; the shadow one had nothing left
			{strategy.Overdraw, 2, false, true, [3]uint64{4, 0, 0}},
			{strategy.Charge, 2, false, false, [3]uint64{2, 0, 0}}, // 8, 8, 6
			{strategy.Refund, 4, true, false, [3]uint64{6, 1, 1}},
			{strategy.Refund, 100, true, false, [3]uint64{10, 5, 3}},
		} {
			r.Mode, r.Cost = step.mode, step.cost
			d := s.decide(t, r)
			if d.Allowed != step.allowed || d.Refused != step.refused || left(r) != step.left {
				t.Fatalf("%s, step %d, %s of %d: %+v, left %v; want %+v", second.Strategy, i, step.mode, step.cost, d, left(r), step)
			}
		}
	}
}

// testModesOfNothing has every mode meet limits without a counter, and a cost of 0.
func testModesOfNothing(t *testing.T, s Subject) {
	s.Set(epoch)
	unlimited := Limit(t, strategy.Spec{Rate: "unlimited"})
	for _, l := range append(everyStrategy(t, "0/h", 9), unlimited) {
		for mode := strategy.Take; mode <= strategy.Overdraw; mode++ {
			for _, cost := range []uint64{0, 1, math.MaxUint64} {
				r := request(l)
				r.Cost, r.Mode = cost, mode
				allowed := cost == 0 || mode == strategy.Refund || l.Rate.IsUnlimited()
				want := strategy.Decision{Allowed: allowed, At: epoch, Statuses: []strategy.Status{{Allowed: allowed}}}
				if st := &want.Statuses[0]; l.Rate.IsUnlimited() {
					want.At, st.Limit, st.Remaining = 0, math.MaxUint64, math.MaxUint64
				} else if !allowed {
					want.RetryAfter, st.RetryAfter = strategy.Never, strategy.Never
				}
				if d := s.decide(t, r); !equal(d, want) {
					t.Errorf("%s of %s, %s of %d:\n got %+v\nwant %+v", l.Strategy, l.Rate, mode, cost, d, want)
				}
			}
		}
	}
	for _, l := range everyStrategy(t, "5/h", 5) {
		r := request(l)
		r.Mode, r.Cost = strategy.Charge, 7
		s.decide(t, r)
		for _, mode := range []strategy.Mode{strategy.Take, strategy.Charge, strategy.Refund} {
			r.Mode, r.Cost = mode, 0
			if d := s.decide(t, r); !d.Allowed || d.Statuses[0].Remaining != 0 {
				t.Errorf("%s, %s of 0 in debt: %+v", l.Strategy, mode, d)
			}
		}
		r.Mode, r.Cost = strategy.Refund, 3
		if d := s.decide(t, r); d.Statuses[0].Remaining != 1 {
			t.Errorf("%s: 3 of 7 given back: %+v", l.Strategy, d)
		}
	}
}

// testOverflow charges as much as there is, again and again.
func testOverflow(t *testing.T, s Subject) {
	for _, l := range everyStrategy(t, "1000/100ms", 1000) {
		r := request(l)
		for i, cost := range []uint64{math.MaxUint64, strategy.MaxUnits, 1, math.MaxInt64} {
			s.Set(epoch + strategy.Instant(i))
			r.Mode, r.Cost = strategy.Charge, cost
			if d := s.decide(t, r); d.Allowed || d.Statuses[0].Remaining != 0 || d.Statuses[0].ResetAfter <= 0 {
				t.Fatalf("%s, charge of %d: %+v", l.Strategy, cost, d)
			}
		}
		// What is left of the most that it can hold is 3 units over the limit.
		r.Mode, r.Cost = strategy.Refund, strategy.MaxUnits-1003
		s.decide(t, r)
		r.Mode, r.Cost = strategy.Take, 1
		if d := s.decide(t, r); d.Allowed {
			t.Fatalf("%s, in a debt of 3: %+v", l.Strategy, d)
		}
		r.Mode, r.Cost = strategy.Refund, 13
		if d := s.decide(t, r); d.Statuses[0].Remaining != 10 {
			t.Fatalf("%s, 10 below the limit: %+v", l.Strategy, d)
		}
	}
}

// testRaceOfModes has takes, charges and refunds race. What is left in the end must be
// exactly the difference.
func testRaceOfModes(t *testing.T, s Subject) {
	s.Set(epoch)
	const racers, each, capacity = 12, 30, 10_000
	for _, l := range everyStrategy(t, fmt.Sprint(capacity, "/366d"), capacity) {
		r := request(l)
		r.Identifier = l.Strategy.String()
		r.Mode, r.Cost = strategy.Charge, uint64(l.Capacity)/2
		s.decide(t, r)
		var used atomic.Int64
		used.Store(l.Capacity / 2)
		var wg sync.WaitGroup
		for racer := range racers {
			wg.Go(func() {
				r, results := r, make([]store.Result, 1)
				for i := range each {
					r.Mode, r.Cost = []strategy.Mode{strategy.Take, strategy.Charge, strategy.Refund}[(racer+i)%3], uint64(1+(racer+i)%5)
					s.Store.Decide(t.Context(), []store.Request{r}, results)
					switch {
					case results[0].Err != nil || !results[0].Allowed:
						t.Errorf("%s: %+v", l.Strategy, results[0])
					case r.Mode == strategy.Refund:
						used.Add(-int64(r.Cost))
					default:
						used.Add(int64(r.Cost))
					}
				}
			})
		}
		wg.Wait()
		r.Mode, r.Cost = strategy.Take, 0
		if left := s.decide(t, r).Statuses[0].Remaining; int64(left) != l.Capacity-used.Load() {
			t.Errorf("%s: %d are left, want %d", l.Strategy, left, l.Capacity-used.Load())
		}
	}
}

// testClockWasWrong has the clock be ten years ahead for a moment. What was consumed by then
// must count for a period at most, or as long as it takes to drain; and all waits be exact.
func testClockWasWrong(t *testing.T, s Subject) {
	const ahead = 10 * 365 * 24 * time.Hour
	period := max(time.Minute, 2*time.Duration(s.Skew)*time.Microsecond)
	for _, l := range everyStrategy(t, fmt.Sprintf("6/%dms", period/time.Millisecond), 6) {
		for _, debt := range []uint64{0, 3} {
			longest := 2 * period // of a sliding window counter, whose windows count twice
			r := request(l)
			r.Identifier = fmt.Sprint("was wrong ", debt)
			r.Mode = strategy.Charge
			charge := func(cost uint64, before time.Duration) {
				r.Cost = cost
				s.Set(at(ahead - before))
				s.decide(t, r)
			}
			if l.Strategy == strategy.SlidingWindowLog { // which holds on to what is too old to count
				charge(12, period)
				charge(1, period/2)
				charge(5+debt, 0)
			} else {
				charge(6+debt, 0)
			}
			s.Set(epoch)
			r.Mode, r.Cost = strategy.Take, 1
			d := s.decide(t, r)
			if d.Allowed || d.RetryAfter > longest || d.Statuses[0].ResetAfter > longest {
				t.Fatalf("%s: %+v, want denied, and for %v at most", l.Strategy, d, longest)
			}
			s.wantExact(t, r, epoch, d.RetryAfter)
			// And with nobody asking in between, it is as if it had been consumed at that time.
			s.Set(epoch + strategy.Instant(d.Statuses[0].ResetAfter/time.Microsecond))
			r.Cost = 6
			if d := s.decide(t, r); !d.Allowed || d.Statuses[0].Remaining != 0 {
				t.Fatalf("%s: %+v, want wholly unused before", l.Strategy, d)
			}
		}
	}
}
