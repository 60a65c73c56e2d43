package strategy_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// forEveryStrategy checks property on random limits of each strategy, and on mixed limits,
// for which it passes 0.
func forEveryStrategy(t *testing.T, property func(t *rapid.T, s strategy.Strategy)) {
	for _, s := range append([]strategy.Strategy{0}, strategy.All[:]...) {
		name := "mixed"
		if s != 0 {
			name = s.String()
		}
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) { property(t, s) }))
	}
}

// Retried at now + retry_after, with nobody else consuming, the request is
// allowed; a microsecond earlier it is denied. The same holds for each limit
// alone. Only a cost above a capacity has no retry_after.
func TestRetryAfterIsExact(t *testing.T) {
	waits := map[strategy.Strategy]int{}
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			d := c.peek(now, cost)
			if never := cost > c.capacity(); never != (d.RetryAfter == strategy.Never) || never && d.Allowed {
				t.Fatalf("cost %d of at most %d: %+v", cost, c.capacity(), d)
			}
			if d.Allowed != (d.RetryAfter == 0) {
				t.Fatalf("cost %d: %+v: a wait is for the denied", cost, d)
			}

			for i := range d.Statuses {
				st := &d.Statuses[i]
				if st.Allowed != (st.RetryAfter == 0) || (st.RetryAfter == strategy.Never) != (cost > uint64(c.limits[i].Capacity)) {
					t.Fatalf("cost %d: limit %d: %+v", cost, i, st)
				}
				if st.RetryAfter <= 0 {
					continue
				}
				then := after(now, st.RetryAfter)
				if st.RetryAfter == longest {
					if c.peek(then, cost).Statuses[i].Allowed {
						t.Fatalf("cost %d: limit %d: allowed within the longest duration", cost, i)
					}
					continue
				}
				if st.RetryAfter%us != 0 {
					t.Fatalf("cost %d: limit %d: %v is not whole microseconds", cost, i, st.RetryAfter)
				}
				if early := c.peek(then-1, cost).Statuses[i]; early.Allowed || early.RetryAfter != us {
					t.Fatalf("cost %d: limit %d: %+v, but a microsecond before: %+v", cost, i, st, early)
				}
				if on := c.peek(then, cost).Statuses[i]; !on.Allowed {
					t.Fatalf("cost %d: limit %d: %+v, but then: %+v", cost, i, st, on)
				}
			}

			if d.RetryAfter > 0 && d.RetryAfter != longest { // which was seen to be so in its limit
				waits[s]++
				then := after(now, d.RetryAfter)
				if early := c.peek(then-1, cost); early.Allowed {
					t.Fatalf("cost %d: %+v, but a microsecond before: %+v", cost, d, early)
				}
				if on := c.peek(then, cost); !on.Allowed {
					t.Fatalf("cost %d: %+v, but then: %+v", cost, d, on)
				}
			}
			c.take(now, cost)
		})
	})
	for _, s := range append([]strategy.Strategy{0}, strategy.All[:]...) {
		if waits[s] == 0 && !t.Failed() {
			t.Errorf("%v: no wait was seen", s)
		}
	}
}

// RetryAfter and Decide agree.
func TestRetryAfterOfAState(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			statuses := c.peek(now, cost).Statuses // which views the logs, too
			for i := range c.limits {
				if got := strategy.RetryAfter(&c.limits[i], c.states[i], cost, now); got != statuses[i].RetryAfter {
					t.Fatalf("RetryAfter = %v, want %v", got, statuses[i].RetryAfter)
				}
			}
			c.take(now, cost)
		})
	})
}

// Remaining is the largest cost that would be allowed now.
func TestRemainingIsExact(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			d := c.peek(now, cost)
			for i := range d.Statuses {
				left := d.Statuses[i].Remaining
				if left > d.Statuses[i].Limit {
					t.Fatalf("limit %d: %d of %d remain", i, left, d.Statuses[i].Limit)
				}
				if !c.peek(now, left).Statuses[i].Allowed {
					t.Fatalf("limit %d: %d remain, but are denied", i, left)
				}
				if c.peek(now, left+1).Statuses[i].Allowed {
					t.Fatalf("limit %d: %d remain, but one more is allowed", i, left)
				}
			}
			for i, st := range c.take(now, cost).Statuses {
				want := d.Statuses[i].Remaining
				if d.Allowed {
					want -= cost
				}
				if st.Remaining != want {
					t.Fatalf("limit %d: %d remained, and after a cost of %d, %d", i, d.Statuses[i].Remaining, cost, st.Remaining)
				}
			}
		})
	})
}

// At now + reset_after a limit is unused, and not a microsecond before.
func TestResetAfterIsExact(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			for i, st := range c.peek(now, cost).Statuses {
				if unused := st.Remaining == st.Limit; unused != (st.ResetAfter == 0) || st.ResetAfter < 0 {
					t.Fatalf("limit %d: %+v", i, st)
				}
				if st.ResetAfter == 0 {
					continue
				}
				then := after(now, st.ResetAfter)
				if st.ResetAfter == longest {
					if c.status(i, then).ResetAfter == 0 {
						t.Fatalf("limit %d: unused within the longest duration", i)
					}
					continue
				}
				if early := c.status(i, then-1); early.ResetAfter != us || early.Remaining == early.Limit {
					t.Fatalf("limit %d: %+v, but a microsecond before: %+v", i, st, early)
				}
				if on := c.status(i, then); on.ResetAfter != 0 || on.Remaining != on.Limit {
					t.Fatalf("limit %d: %+v, but then: %+v", i, st, on)
				}
			}
			c.take(now, cost)
		})
	})
}

// An unused counter is like a new one: from then on, all answers are those of counters that
// were never used.
func TestResetCounterIsAsGoodAsNew(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		now = live(t, c, now, func(now strategy.Instant, cost uint64) { c.take(now, cost) })
		idle := c.idle(now)
		if idle == longest {
			return // and who would wait for that
		}
		fresh := newCounters(c.limits...)
		live(t, c, after(now, idle), func(now strategy.Instant, cost uint64) {
			if d, want := c.take(now, cost), fresh.take(now, cost); !same(d, want) {
				t.Fatalf("cost %d: %+v, of counters never used %+v", cost, d, want)
			}
		})
	})
}
