package strategy_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A denied request changes nothing, whichever limits denied it. The status of each limit is
// that of the state before.
func TestDeniedRequestChangesNothing(t *testing.T) {
	denials := 0
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			before, unasked := c.memory(now), c.peek(now, 0)
			d := c.take(now, cost)
			all := true
			for i, st := range d.Statuses {
				was := unasked.Statuses[i]
				if st.Allowed != (cost <= was.Remaining) {
					t.Fatalf("cost %d: limit %d: %+v of %+v", cost, i, st, was)
				}
				all = all && st.Allowed
				if !d.Allowed && (st.Remaining != was.Remaining || st.ResetAfter != was.ResetAfter) {
					t.Fatalf("cost %d, denied: limit %d was %+v and is said to be %+v", cost, i, was, st)
				}
			}
			if d.Allowed != all {
				t.Fatalf("cost %d: %+v", cost, d)
			}
			if changed := !slices.Equal(before, c.memory(now)); changed != d.Allowed {
				t.Fatalf("cost %d: %+v, changed the state: %v", cost, d, changed)
			}
			if !d.Allowed {
				denials++
			}
		})
	})
	if denials == 0 && !t.Failed() {
		t.Error("no denial was seen")
	}
}

// A dry run gets the same answer as a real request, and changes nothing.
func TestDryRunChangesNothing(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			before, unasked := c.memory(now), c.peek(now, 0)
			dry := c.peek(now, cost)
			if !slices.Equal(before, c.memory(now)) {
				t.Fatalf("cost %d: a dry run changed the state", cost)
			}
			for i, st := range dry.Statuses {
				if was := unasked.Statuses[i]; st.Remaining != was.Remaining || st.ResetAfter != was.ResetAfter {
					t.Fatalf("cost %d, dry: limit %d was %+v and is said to be %+v", cost, i, was, st)
				}
			}
			d := c.take(now, cost)
			if dry.Allowed != d.Allowed || dry.RetryAfter != d.RetryAfter || dry.Delay != d.Delay {
				t.Fatalf("cost %d: dry %+v, and then %+v", cost, dry, d)
			}
			for i := range d.Statuses {
				if a, b := dry.Statuses[i], d.Statuses[i]; a.Allowed != b.Allowed || a.RetryAfter != b.RetryAfter || a.Limit != b.Limit {
					t.Fatalf("cost %d: limit %d: dry %+v, and then %+v", cost, i, a, b)
				}
			}
		})
	})
}

// After a consumption, a time up to a period earlier reads as the time of that
// consumption. So two equal counters stay equal if the clock of one of them steps back;
// only the waits are longer by the step.
func TestTimeNeverRunsBackwards(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		twin := newCounters(c.limits...)
		most := min(int64(now), rate.MaxPeriod.Microseconds())
		for i := range c.limits {
			most = min(most, c.limits[i].Rate.Period.Microseconds())
		}
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			twin.take(now, cost)
			if !c.take(now, cost).Allowed {
				return
			}
			back := rapid.OneOf(rapid.Int64Range(0, min(3, most)), rapid.Int64Range(0, most)).Draw(t, "back")
			cost = drawCost(t, c, now)
			if d, want := c.take(now-strategy.Instant(back), cost), waiting(twin.take(now, cost), time.Duration(back)*us); !same(d, want) {
				t.Fatalf("cost %d, back by %d µs:\n got %+v\nwant %+v", cost, back, d, want)
			}
			if !slices.Equal(c.memory(now), twin.memory(now)) {
				t.Fatalf("cost %d, back by %d µs: the states differ", cost, back)
			}
		})
	})
}

// A named limit keeps what was consumed when its rate changes. What that is:
//
//   - FIXED_WINDOW: the units of the window that held the last consumption, as
//     long as that instant is in the present window of the new period.
//   - SLIDING_WINDOW_COUNTER: the same, and those of the window before it, as
//     if windows had always had the new length.
//   - SLIDING_WINDOW_LOG: the entries, as long as they are younger than the new
//     period; but what an old, shorter period has dropped does not come back.
//   - TOKEN_BUCKET, LEAKY_BUCKET, GCRA: the level in units after the last
//     consumption; since then it has drained at the new rate. Of a unit that
//     had drained in part, some of the part may be lost or gained.
//
// A count or burst below what was consumed denies until enough has passed.
func TestRateChangeKeepsWhatWasConsumed(t *testing.T) {
	type change struct {
		rate  string
		burst uint64
		step
	}
	// Three strategies share one meter. A leaky bucket also has delays at some steps.
	bucket := func(delays map[int]time.Duration) []change {
		steps := []change{
			{"10/s", 10, step{at: 0, cost: 8, allowed: true, remaining: 2, reset: 800 * ms}},
			{"100/s", 20, step{at: 0, cost: 0, allowed: true, remaining: 12, reset: 80 * ms}},
			{"100/s", 20, step{at: 50 * ms, cost: 0, allowed: true, remaining: 17, reset: 30 * ms}},
			{"10/s", 10, step{at: 50 * ms, cost: 0, allowed: true, remaining: 2, reset: 750 * ms}},
			{"10/s", 5, step{at: 50 * ms, cost: 1, remaining: 0, reset: 750 * ms, retry: 350 * ms}},
			{"10/s", 5, step{at: 400 * ms, cost: 1, allowed: true, remaining: 0, reset: 500 * ms}},
			{"0/s", 5, step{at: 400 * ms, cost: 1, retry: never}},
			{"10/s", 5, step{at: 400 * ms, cost: 0, allowed: true, remaining: 0, reset: 500 * ms}},
			// 5 units, half of one drained, and 1 more: 500,000 millionths of a unit.
			{"10/s", 6, step{at: 450 * ms, cost: 1, allowed: true, remaining: 0, reset: 550 * ms}},
			{"10/2s", 6, step{at: 450 * ms, cost: 0, allowed: true, remaining: 0, reset: 1150 * ms}},      // of 2 million: a quarter
			{"10/100ms", 6, step{at: 450 * ms, cost: 0, allowed: true, remaining: 0, reset: 50_001 * us}}, // of 100,000: all but one
			{"10/s", 6, step{at: 450 * ms, cost: 0, allowed: true, remaining: 0, reset: 550 * ms}},
		}
		for i, delay := range delays {
			steps[i].delay = delay
		}
		return steps
	}
	tables := map[strategy.Strategy][]change{
		strategy.FixedWindow: {
			{"10/m", 0, step{at: 30 * sec, cost: 7, allowed: true, remaining: 3, reset: 30 * sec}},
			{"20/m", 0, step{at: 30 * sec, cost: 0, allowed: true, remaining: 13, reset: 30 * sec}},
			{"5/m", 0, step{at: 30 * sec, cost: 1, remaining: 0, reset: 30 * sec, retry: 30 * sec}},
			{"10/h", 0, step{at: 30 * sec, cost: 0, allowed: true, remaining: 3, reset: time.Hour - 30*sec}},
			{"10/s", 0, step{at: 31 * sec, cost: 0, allowed: true, remaining: 10}},
			{"0/m", 0, step{at: 31 * sec, cost: 1, retry: never}},
			{"10/m", 0, step{at: 31 * sec, cost: 0, allowed: true, remaining: 3, reset: 29 * sec}},
		},
		strategy.SlidingWindowCounter: {
			{"10/s", 0, step{at: 0, cost: 8, allowed: true, remaining: 2, reset: 2 * sec}},
			{"10/s", 0, step{at: 1500 * ms, cost: 2, allowed: true, remaining: 4, reset: 1500 * ms}},
			{"20/s", 0, step{at: 1500 * ms, cost: 0, allowed: true, remaining: 14, reset: 1500 * ms}},
			{"5/s", 0, step{at: 1500 * ms, cost: 1, remaining: 0, reset: 1500 * ms, retry: 250 * ms}},
			{"1/s", 0, step{at: 1500 * ms, cost: 1, remaining: 0, reset: 1500 * ms, retry: 1500 * ms}},
			{"11/m", 0, step{at: 1500 * ms, cost: 0, allowed: true, remaining: 1, reset: 118_500 * ms}}, // 8 weigh 7.8
			{"10/s", 0, step{at: 2 * sec, cost: 0, allowed: true, remaining: 8, reset: sec}},
		},
		strategy.SlidingWindowLog: {
			{"10/s", 0, step{at: 0, cost: 4, allowed: true, remaining: 6, reset: sec}},
			{"10/s", 0, step{at: 500 * ms, cost: 3, allowed: true, remaining: 3, reset: sec}},
			{"20/s", 0, step{at: 500 * ms, cost: 0, allowed: true, remaining: 13, reset: sec}},
			{"5/s", 0, step{at: 500 * ms, cost: 1, remaining: 0, reset: sec, retry: 500 * ms}},
			{"10/m", 0, step{at: 1200 * ms, cost: 0, allowed: true, remaining: 3, reset: 59_300 * ms}},
			{"10/s", 0, step{at: 1200 * ms, cost: 1, allowed: true, remaining: 6, reset: sec}}, // drops the first
			{"10/m", 0, step{at: 1200 * ms, cost: 0, allowed: true, remaining: 6, reset: time.Minute}},
		},
		strategy.TokenBucket: bucket(nil),
		strategy.LeakyBucket: bucket(map[int]time.Duration{5: 400 * ms, 8: 450 * ms}),
		strategy.GCRA:        bucket(nil),
	}
	for _, s := range strategy.All {
		var c *counters
		for i, tt := range tables[s] {
			l := newLimit(t, strategy.Spec{Name: "n", Rate: tt.rate, Strategy: s, Burst: tt.burst})
			if c == nil {
				c = newCounters(l)
			}
			if !l.SameCounter(&c.limits[0]) {
				t.Fatalf("%v: %+v is of another counter than %+v", s, l, c.limits[0])
			}
			c.limits[0] = l
			want := strategy.Status{Limit: uint64(l.Capacity), Remaining: tt.remaining, ResetAfter: tt.reset, RetryAfter: tt.retry, Allowed: tt.allowed}
			d := c.take(after(start, tt.at), tt.cost)
			want.Debt = d.Statuses[0].Debt // TestOverdrawIsAChargeOrNothing checks it
			if shown(d.Statuses[0]) != want || d.Delay != tt.delay {
				t.Errorf("%v, step %d, %s at %v, cost %d:\n got %+v\nwant %+v, delay %v", s, i, tt.rate, tt.at, tt.cost, d, want, tt.delay)
			}
		}
	}
}

// While a named limit is unlimited, it consumes nothing and forgets nothing.
func TestRateChangeToUnlimitedAndBack(t *testing.T) {
	for _, spec := range everySpec() {
		limited, unlimited := newLimit(t, spec), newLimit(t, strategy.Spec{Rate: "unlimited", Strategy: spec.Strategy})
		c := newCounters(limited)
		c.take(start, 5)
		before := c.memory(start)
		c.limits[0] = unlimited
		if d := c.take(after(start, sec), 1000); !d.Allowed {
			t.Errorf("%+v, unlimited: %+v", spec, d)
		}
		c.limits[0] = limited
		if !slices.Equal(c.memory(start), before) {
			t.Errorf("%+v: a request to it while unlimited changed the state", spec)
		}
	}
}

// While the period stays the same, a window keeps all that was consumed, and a
// bucket all that was left at the last consumption; whatever the new count and
// burst.
func TestRateChangeKeepsAllWithinThePeriod(t *testing.T) {
	used := func(st strategy.Status) uint64 { return st.Limit - st.Remaining }
	for _, s := range strategy.All {
		t.Run(s.String(), rapid.MakeCheck(func(t *rapid.T) {
			c, now := anyCounters(t, s)
			now = live(t, c, now, func(now strategy.Instant, cost uint64) { c.take(now, cost) })
			if s >= strategy.TokenBucket {
				now = c.states[0].Last
			}
			before := used(c.status(0, now))
			l := &c.limits[0]
			l.Rate.Count = counts.Draw(t, "new count")
			l.Capacity = l.Rate.Count
			if s >= strategy.TokenBucket {
				l.Capacity = rapid.Int64Range(1, strategy.MaxBurst).Draw(t, "new capacity")
			}
			st := c.status(0, now)
			if want := min(before, st.Limit); used(st) != want {
				t.Fatalf("%d were used; now it is %+v", before, st)
			}
		}))
	}
}
