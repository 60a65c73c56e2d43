package strategy_test

import (
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	charge   = strategy.Charge
	refund   = strategy.Refund
	overdraw = strategy.Overdraw
)

// mode asks c as a request of mode does.
func (c *counters) mode(m strategy.Mode, now strategy.Instant, cost uint64) strategy.Decision {
	return clone(c.ask(strategy.Ask{Mode: m, Cost: cost, Now: now}))
}

// copyOf returns counters that remember the same as c.
func copyOf(c *counters) *counters {
	other := newCounters(slices.Clone(c.limits)...)
	copy(other.states, c.states)
	for i := range c.logs {
		if err := other.logs[i].Parse(c.logs[i].Append(nil)); err != nil {
			panic(err)
		}
	}
	return other
}

// boundDebts gives some of c's limits a greatest debt.
func boundDebts(t *rapid.T, c *counters) {
	for i := range c.limits {
		if rapid.Bool().Draw(t, "bounded debt") {
			c.limits[i].MaxDebt = strategy.AtMost(rapid.OneOf(
				rapid.SampledFrom([]uint64{0, 1, uint64(c.limits[i].Capacity), strategy.MaxUnits}), rapid.Uint64Range(0, strategy.MaxUnits),
			).Draw(t, "max debt"))
		}
	}
}

// drawAnyCost draws a cost as drawCost does, or a much greater one.
func drawAnyCost(t *rapid.T, c *counters, now strategy.Instant) uint64 {
	return rapid.OneOf(rapid.Just(drawCost(t, c, now)), rapid.Uint64Range(1, 5*c.capacity()), rapid.Uint64Range(1, math.MaxUint64)).Draw(t, "any cost")
}

// used returns how many units the i-th limit of c holds: with a capacity that is greater,
// and so with the debt.
func (c *counters) used(i int, now strategy.Instant) uint64 {
	wide := copyOf(c)
	wide.limits[i].Capacity = math.MaxInt64
	return math.MaxInt64 - wide.status(i, now).Remaining
}

// A charge is said to be allowed as a take of that cost would be. It adds its cost to what
// each limit holds, but leaves no more debt than it may. A take of the same cost is allowed
// after its retry_after, and not before.
func TestChargeIsExact(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		boundDebts(t, c)
		live(t, c, now, func(now strategy.Instant, _ uint64) {
			cost := drawAnyCost(t, c, now)
			would := c.peek(now, cost)
			before := copyOf(c)
			dry := clone(c.ask(strategy.Ask{Mode: charge, Cost: cost, Now: now, DryRun: true}))
			if !slices.Equal(c.memory(now), before.memory(now)) {
				t.Fatalf("charge of %d: a dry run changed the state", cost)
			}
			d := c.mode(charge, now, cost)
			if d.Allowed != would.Allowed || dry.Allowed != d.Allowed || dry.RetryAfter != d.RetryAfter || d.Refused || d.Delay != 0 {
				t.Fatalf("charge of %d: %+v, dry %+v, a take would get %+v", cost, d, dry, would)
			}
			for i, st := range d.Statuses {
				l := &c.limits[i]
				was, is := before.used(i, now), c.used(i, now)
				if want := max(was, min(was+min(cost, strategy.MaxUnits), uint64(l.Ceiling()))); is != want {
					t.Fatalf("charge of %d: limit %d held %d and holds %d, want %d", cost, i, was, is, want)
				}
				if st.Allowed != would.Statuses[i].Allowed || st.Remaining != st.Limit-min(st.Limit, is) || st.Allowed != (st.RetryAfter == 0) {
					t.Fatalf("charge of %d: limit %d: %+v", cost, i, st)
				}
				wantWait(t, c, strategy.Ask{Cost: cost, Now: now}, st.RetryAfter, func(d strategy.Decision) bool { return d.Statuses[i].Allowed })
			}
			wantWait(t, c, strategy.Ask{Cost: cost, Now: now}, d.RetryAfter, func(d strategy.Decision) bool { return d.Allowed })
		})
	})
}

// wantWait checks that a take of the cost of a is allowed after wait, and not before.
func wantWait(t *rapid.T, c *counters, a strategy.Ask, wait time.Duration, allowed func(strategy.Decision) bool) {
	cost := a.Cost
	switch then := after(a.Now, wait); {
	case wait == 0:
	case wait == never:
		if cost <= c.capacity() {
			t.Fatalf("cost %d is never allowed again", cost)
		}
	case allowed(c.peek(then-1, cost)):
		t.Fatalf("cost %d is allowed before %v", cost, wait)
	case wait != longest && !allowed(c.peek(then, cost)):
		t.Fatalf("cost %d is not allowed after %v", cost, wait)
	}
}

// An overdraw is a charge if each limit has anything left, and otherwise changes nothing.
// Its answer is that of a take but for the waits.
func TestOverdrawIsAChargeOrNothing(t *testing.T) {
	charged, refused := 0, 0
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		boundDebts(t, c)
		live(t, c, now, func(now strategy.Instant, _ uint64) {
			cost := drawAnyCost(t, c, now)
			would, left := c.peek(now, cost), c.peek(now, 1)
			other := copyOf(c)
			d := c.mode(overdraw, now, cost)
			if d.Allowed != would.Allowed || d.Refused == left.Allowed || d.Delay != would.Delay {
				t.Fatalf("overdraw of %d: %+v, a take would get %+v", cost, d, would)
			}
			if d.Refused {
				refused++
				if d.RetryAfter != would.RetryAfter || !slices.Equal(d.Statuses, would.Statuses) {
					t.Fatalf("overdraw of %d: %+v, a take would get %+v", cost, d, would)
				}
			} else {
				charged++
				want := other.mode(charge, now, cost)
				if want.Delay = would.Delay; !same(d, want) {
					t.Fatalf("overdraw of %d: %+v, a charge gets %+v", cost, d, want)
				}
			}
			if !slices.Equal(c.memory(now), other.memory(now)) {
				t.Fatalf("overdraw of %d: another state than that of a charge or of nothing", cost)
			}
			inDebt := false
			for i := range c.limits {
				used, capacity := c.used(i, now), uint64(c.limits[i].Capacity)
				inDebt = inDebt || used > capacity
				if st := c.status(i, now); st.Debt != max(used, capacity)-capacity {
					t.Fatalf("overdraw of %d: %d of %d are used, and the debt is %d", cost, used, capacity, st.Debt)
				}
			}
			if zero := c.mode(overdraw, now, 0); zero.Allowed == inDebt || zero.Refused != inDebt {
				t.Fatalf("overdraw of 0, in debt %t: %+v", inDebt, zero)
			}
			if rapid.IntRange(0, 2).Draw(t, "then") == 0 {
				c.mode(refund, now, drawAnyCost(t, c, now))
			}
		})
	})
	if (charged == 0 || refused == 0) && !t.Failed() {
		t.Errorf("%d were charged and %d refused", charged, refused)
	}
}

// A take or a charge, and then a refund of it with its instant, leaves every later decision
// as if nothing had been taken; whatever was consumed before, and however much time has
// passed. The charge is one within the limit, or of more than the limit ever allows: of
// another, that has left a bucket in debt, a part is not given back if it comes late.
func TestRefundUndoes(t *testing.T) {
	for _, s := range strategy.All {
		t.Run(s.String(), rapid.MakeCheck(func(t *rapid.T) {
			c, now := anyCounters(t, s)
			now = live(t, c, now, func(now strategy.Instant, cost uint64) { c.take(now, cost) })
			now++ // as a ConsumedAt of 0 is none
			never := copyOf(c)
			cost, how := drawCost(t, c, now), strategy.Take
			if rapid.Bool().Draw(t, "charge") {
				how = charge
				if cost = min(cost, remaining(c.peek(now, 0))); rapid.Bool().Draw(t, "more than ever") {
					cost = c.capacity() + rapid.Uint64Range(1, 4*c.capacity()).Draw(t, "over")
				}
				if s == strategy.SlidingWindowLog && remaining(c.peek(now, 0)) == 0 {
					return // it would join another entry
				}
			}
			d := c.mode(how, now, cost)
			if how == strategy.Take && !d.Allowed {
				return
			}
			consumedAt := d.At
			for range rapid.IntRange(0, 3).Draw(t, "gaps") {
				now = drawNext(t, c, now)
			}
			c.ask(strategy.Ask{Mode: refund, Cost: cost, Now: now, ConsumedAt: consumedAt})
			live(t, never, now, func(now strategy.Instant, cost uint64) {
				if d, want := c.take(now, cost), never.take(now, cost); !same(d, want) {
					t.Fatalf("%s of %d at %d:\n got %+v\nwant %+v", how, cost, consumedAt, d, want)
				}
			})
		}))
	}
}

// The same where others consume in between. For windows and the log it holds exactly. A
// bucket drains what was taken as well, while without it there may have been nothing to
// drain: so it has no less room afterwards than if nothing had been taken, and no more than
// the cost in addition.
func TestRefundUndoesAmongOthers(t *testing.T) {
	for _, s := range strategy.All {
		t.Run(s.String(), rapid.MakeCheck(func(t *rapid.T) {
			c, now := anyCounters(t, s)
			now++ // as a ConsumedAt of 0 is none
			other := copyOf(c)
			both := func(now strategy.Instant) { // a charge, so that both consume the same
				cost := rapid.Uint64Range(1, max(1, c.capacity()/3)).Draw(t, "other cost")
				if s == strategy.SlidingWindowLog {
					if cost = min(cost, remaining(c.peek(now, 0))); cost == 0 {
						return
					}
				}
				c.mode(charge, now, cost)
				other.mode(charge, now, cost)
			}
			for range rapid.IntRange(0, 3).Draw(t, "before") {
				both(now)
				now = drawNext(t, c, now) + 1
			}
			cost := drawCost(t, c, now)
			d := c.take(now, cost)
			if !d.Allowed {
				return
			}
			for range rapid.IntRange(0, 5).Draw(t, "in between") {
				now = drawNext(t, c, now) + 1
				both(now)
			}
			c.ask(strategy.Ask{Mode: refund, Cost: cost, Now: now, ConsumedAt: d.At})
			if s < strategy.TokenBucket {
				live(t, other, now, func(now strategy.Instant, cost uint64) {
					if d, want := c.take(now, cost), other.take(now, cost); !same(d, want) {
						t.Fatalf("cost %d:\n got %+v\nwant %+v", cost, d, want)
					}
				})
				return
			}
			is, want := level(c, now), level(other, now)
			drained := new(big.Rat).Mul(big.NewRat(c.limits[0].Rate.Count, c.limits[0].Rate.Period.Microseconds()), whole(int64(now-d.At)))
			if gone := drained.Cmp(whole(c.limits[0].Capacity)) >= 0 && is.Cmp(whole(c.limits[0].Capacity)) <= 0; is.Cmp(want) > 0 && !gone {
				t.Fatalf("the level is %v, and would be %v without the take", is, want)
			}
			if sum(is, whole(int64(cost))).Cmp(want) < 0 {
				t.Fatalf("the level is %v, and would be %v without the take of %d", is, want, cost)
			}
		}))
	}
}

// level returns the level of the bucket of c at now, in units.
func level(c *counters, now strategy.Instant) *big.Rat {
	l, s := &c.limits[0], c.states[0]
	drained := new(big.Rat).Mul(big.NewRat(l.Rate.Count, l.Rate.Period.Microseconds()), whole(int64(now-s.Last)))
	at := sub(sub(whole(s.Used), big.NewRat(s.Part, l.Rate.Period.Microseconds())), drained)
	if at.Sign() < 0 {
		return whole(0)
	}
	return at
}

// Without its instant, a refund gives back as if all had just been consumed: never beyond
// wholly unused, and always allowed. A log gives back the youngest.
func TestRefundWithoutItsInstant(t *testing.T) {
	forEveryStrategy(t, func(t *rapid.T, s strategy.Strategy) {
		c, now := anyCounters(t, s)
		live(t, c, now, func(now strategy.Instant, cost uint64) {
			c.take(now, cost)
			before := c.peek(now, 0)
			cost = drawAnyCost(t, c, now)
			d := c.mode(refund, now, cost)
			if !d.Allowed || d.RetryAfter != 0 || d.Delay != 0 {
				t.Fatalf("refund of %d: %+v", cost, d)
			}
			for i, st := range d.Statuses {
				was := before.Statuses[i]
				if st.Remaining < was.Remaining || st.Remaining-was.Remaining > cost || (st.Remaining == st.Limit) != (st.ResetAfter == 0) {
					t.Fatalf("refund of %d: limit %d was %+v and is %+v", cost, i, was, st)
				}
				// What was consumed in an earlier window stays.
				if want := was.Remaining + min(st.Limit-was.Remaining, cost); c.limits[i].Strategy != strategy.SlidingWindowCounter && st.Remaining != want {
					t.Fatalf("refund of %d: limit %d was %+v and is %+v", cost, i, was, st)
				}
			}
		})
	})
}

// A log has no more entries than twice its count and one, whatever is charged.
func TestLogInDebtIsBounded(t *testing.T) {
	l := newLimit(t, strategy.Spec{Rate: "10/s", Strategy: strategy.SlidingWindowLog})
	c := newCounters(l)
	now := start
	for i := range 100_000 {
		now += strategy.Instant(50 + i%7)
		c.mode(charge, now, 1)
		if most := 32; c.logs[0].Size() > most { // the next power of two
			t.Fatalf("after %d charges: room for %d entries, want %d at most", i, c.logs[0].Size(), most)
		}
	}
	// It pays its debt within a period and a slot.
	if d := c.peek(now, 10); d.RetryAfter > sec+100*ms || d.RetryAfter < sec-100*ms {
		t.Errorf("%+v", d)
	}
}

// States from the future: see State.Settle.
func TestSettle(t *testing.T) {
	for _, spec := range everySpec() {
		l := newLimit(t, spec)
		for _, tt := range []struct {
			ahead, skew time.Duration
			settled     bool
		}{
			{0, 0, false}, {time.Hour, 0, false}, {time.Hour + us, 0, true}, {time.Hour + us, 2 * time.Hour, false}, {3 * time.Hour, 2 * time.Hour, true},
			{time.Hour, time.Minute, false}, {time.Hour + us, time.Minute, true},
		} {
			now := after(start, -tt.ahead)
			s := strategy.State{Last: start, Used: 3, Part: 2}
			if got := s.Settle(&l, now, strategy.Instant(tt.skew/us)); got != tt.settled || got != (s.Last == now) && tt.ahead > 0 || s.Used != 3 || s.Part != 2 {
				t.Errorf("%+v, %+v: settled %t, %+v", spec, tt, got, s)
			}
			var g strategy.Log
			g.Add(&l, 3, after(start, -time.Minute))
			g.Add(&l, 2, start)
			got := g.Settle(&l, now, strategy.Instant(tt.skew/us))
			if v := g.View(&l, strategy.Ask{Now: now}); got != tt.settled || got != (v.Last == now) && tt.ahead > 0 || v.Used != 5 {
				t.Errorf("%+v, %+v: log settled %t, %+v", spec, tt, got, v)
			}
		}
	}
	unlimited := newLimit(t, strategy.Spec{Rate: "unlimited"})
	if s := (strategy.State{Last: start}); s.Settle(&unlimited, 0, 0) {
		t.Error("an unlimited limit has no state to settle")
	}
}

func TestModeNames(t *testing.T) {
	for name, want := range map[string]strategy.Mode{"take": strategy.Take, "CHARGE": charge, "Refund": refund} {
		if got, err := strategy.ParseMode(name); err != nil || got != want {
			t.Errorf("ParseMode(%q) = %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "overdraw", "give"} {
		if m, err := strategy.ParseMode(name); err == nil {
			t.Errorf("ParseMode(%q) = %v", name, m)
		}
	}
	if s := overdraw.String() + " " + strategy.Mode(9).String(); s != "overdraw mode(9)" {
		t.Error(s)
	}
}

func TestBounds(t *testing.T) {
	if _, ok := strategy.Bound(0).Units(); ok {
		t.Error("the zero Bound is one")
	}
	for _, tt := range []struct {
		debt    strategy.Bound
		ceiling int64
	}{
		{0, strategy.MaxUnits}, {strategy.AtMost(0), 100}, {strategy.AtMost(7), 107}, {strategy.AtMost(strategy.MaxUnits), strategy.MaxUnits},
		{strategy.AtMost(math.MaxUint64), strategy.MaxUnits},
	} {
		l := newLimit(t, strategy.Spec{Rate: "100/s"})
		if l.MaxDebt = tt.debt; l.Ceiling() != tt.ceiling {
			t.Errorf("%d: ceiling %d, want %d", tt.debt, l.Ceiling(), tt.ceiling)
		}
	}
	if _, wrong := strategy.NewLimit(strategy.Spec{Rate: "1/s", MaxDebt: strategy.AtMost(strategy.MaxUnits + 1)}, 1); len(wrong) != 1 || wrong[0].Field != "max_debt" {
		t.Errorf("%v", wrong)
	}
}
