package strategy_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// start is the time from which step tables count: midnight of a Thursday, in UTC, so that
// windows of all usual lengths begin there.
const start = strategy.Instant(1_767_225_600_000_000) // 2026-01-01

const (
	us  = time.Microsecond
	ms  = time.Millisecond
	sec = time.Second
	day = 24 * time.Hour

	never   = strategy.Never
	longest = time.Duration(math.MaxInt64)
)

// after returns the instant at d after t.
func after(t strategy.Instant, d time.Duration) strategy.Instant {
	return t + strategy.Instant(d/us)
}

// newLimit returns the limit that spec describes, which must be a valid one.
func newLimit(t testing.TB, spec strategy.Spec) strategy.Limit {
	t.Helper()
	l, wrong := strategy.NewLimit(spec, rate.MaxCount)
	if wrong != nil {
		t.Fatalf("NewLimit(%+v): %v", spec, wrong)
	}
	return l
}

// counters is the simplest store: it has the counters of one identifier, one for each of
// limits. A test may change the rates in limits, but not the strategies.
type counters struct {
	limits   []strategy.Limit
	states   []strategy.State // that of a log is its last View
	logs     []strategy.Log
	decision strategy.Decision
}

func newCounters(limits ...strategy.Limit) *counters {
	return &counters{
		limits: limits,
		states: make([]strategy.State, len(limits)),
		logs:   make([]strategy.Log, len(limits)),
	}
}

// decide decides as every store does: an unlimited limit consumes nothing. The next answer
// overwrites this one.
func (c *counters) decide(now strategy.Instant, cost uint64, dryRun bool) *strategy.Decision {
	return c.ask(strategy.Ask{Cost: cost, Now: now, DryRun: dryRun})
}

func (c *counters) ask(a strategy.Ask) *strategy.Decision {
	for i := range c.limits {
		l := &c.limits[i]
		if c.isLog(i) {
			c.logs[i].Settle(l, a.Now, 0)
			c.states[i] = c.logs[i].View(l, a)
		} else {
			c.states[i].Settle(l, a.Now, 0)
		}
	}
	consumed := c.decision.Decide(c.limits, c.states, a)
	for i := range c.limits {
		if consumed.From(&c.limits[i]) && c.isLog(i) && !c.limits[i].Rate.IsUnlimited() {
			c.logs[i].Apply(&c.limits[i], a)
		}
	}
	return &c.decision
}

// take asks for cost units at now.
func (c *counters) take(now strategy.Instant, cost uint64) strategy.Decision {
	return clone(c.decide(now, cost, false))
}

// peek does the same as take, as a dry run.
func (c *counters) peek(now strategy.Instant, cost uint64) strategy.Decision {
	return clone(c.decide(now, cost, true))
}

// status returns the status of the i-th limit at now.
func (c *counters) status(i int, now strategy.Instant) strategy.Status {
	return c.decide(now, 0, true).Statuses[i]
}

// memory returns what c remembers, in a form to compare: the states, and what the logs show
// from now on.
func (c *counters) memory(now strategy.Instant) []strategy.State {
	var all []strategy.State
	for i := range c.limits {
		if !c.isLog(i) {
			all = append(all, c.states[i])
			continue
		}
		l := &c.limits[i]
		for quarters := range strategy.Instant(5) {
			at := now + quarters*strategy.Instant(l.Rate.Period/us)/4
			for _, cost := range []uint64{0, 1, uint64(l.Capacity+1) / 2, uint64(l.Capacity)} {
				all = append(all, c.logs[i].View(l, strategy.Ask{Cost: cost, Now: at}))
			}
		}
	}
	return all
}

// idle returns how long until all of c are wholly unused.
func (c *counters) idle(now strategy.Instant) time.Duration {
	var most time.Duration
	for i := range c.limits {
		most = max(most, c.status(i, now).ResetAfter)
	}
	return most
}

// capacity returns the largest cost that all limits of c can ever allow.
func (c *counters) capacity() uint64 {
	least := uint64(math.MaxUint64)
	for i := range c.limits {
		if !c.limits[i].Rate.IsUnlimited() {
			least = min(least, uint64(c.limits[i].Capacity))
		}
	}
	return least
}

func (c *counters) isLog(i int) bool { return c.limits[i].Strategy == strategy.SlidingWindowLog }

func clone(d *strategy.Decision) strategy.Decision {
	c := *d
	c.Statuses = slices.Clone(c.Statuses)
	return c
}

// same reports whether two decisions are equal.
func same(a, b strategy.Decision) bool {
	return a.Allowed == b.Allowed && a.RetryAfter == b.RetryAfter && a.Delay == b.Delay &&
		slices.EqualFunc(a.Statuses, b.Statuses, func(a, b strategy.Status) bool { return shown(a) == shown(b) })
}

// shown returns st as callers see it.
func shown(st strategy.Status) strategy.Status {
	st.Previous = 0
	return st
}
