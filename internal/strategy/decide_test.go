package strategy_test

import (
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A step is a request to one limit, and the answer to it.
type step struct {
	at   time.Duration // since start
	cost uint64

	allowed             bool
	remaining           uint64
	reset, retry, delay time.Duration
}

func TestDecideStepByStep(t *testing.T) {
	for _, tt := range stepTables {
		t.Run(tt.name, func(t *testing.T) {
			l := newLimit(t, tt.spec)
			c := newCounters(l)
			for i, s := range tt.steps {
				want := strategy.Decision{Allowed: s.allowed, RetryAfter: s.retry, Delay: s.delay, Statuses: []strategy.Status{{
					Limit: uint64(l.Capacity), Remaining: s.remaining, ResetAfter: s.reset, RetryAfter: s.retry, Allowed: s.allowed,
				}}}
				if got := c.take(after(start, s.at), s.cost); !same(got, want) {
					t.Errorf("step %d, at %v, cost %d:\n got %+v\nwant %+v", i, s.at, s.cost, got, want)
				}
			}
		})
	}
}

// The answers below were worked out by hand.
var stepTables = []struct {
	name  string
	spec  strategy.Spec
	steps []step
}{
	{
		name: "fixed window, 3/s",
		spec: strategy.Spec{Rate: "3/s", Strategy: strategy.FixedWindow},
		steps: []step{
			{at: 400 * ms, cost: 1, allowed: true, remaining: 2, reset: 600 * ms},
			{at: 400 * ms, cost: 2, allowed: true, remaining: 0, reset: 600 * ms},
			{at: 400 * ms, cost: 1, remaining: 0, reset: 600 * ms, retry: 600 * ms},
			{at: 999_999 * us, cost: 1, remaining: 0, reset: us, retry: us},
			{at: sec, cost: 3, allowed: true, remaining: 0, reset: sec}, // the known flaw: 6 in 600 ms
			{at: 2500 * ms, cost: 2, allowed: true, remaining: 1, reset: 500 * ms},
			{at: 2500 * ms, cost: 2, remaining: 1, reset: 500 * ms, retry: 500 * ms},
			{at: 2500 * ms, cost: 4, remaining: 1, reset: 500 * ms, retry: never},
			{at: 3 * sec, cost: 0, allowed: true, remaining: 3},
		},
	},
	{
		name: "fixed window, 2/100ms",
		spec: strategy.Spec{Rate: "2/100ms"}, // the default strategy
		steps: []step{
			{at: 30 * ms, cost: 2, allowed: true, remaining: 0, reset: 70 * ms},
			{at: 99_999 * us, cost: 1, remaining: 0, reset: us, retry: us},
			{at: 100 * ms, cost: 1, allowed: true, remaining: 1, reset: 100 * ms},
			{at: 101 * ms, cost: 1, allowed: true, remaining: 0, reset: 99 * ms},
		},
	},
	{
		name: "fixed window, a day begins at midnight UTC",
		spec: strategy.Spec{Rate: "1/day"},
		steps: []step{
			{at: 23 * time.Hour, cost: 1, allowed: true, remaining: 0, reset: time.Hour},
			{at: 24 * time.Hour, cost: 1, allowed: true, remaining: 0, reset: day},
		},
	},
	{
		name: "fixed window, a week begins on Thursday",
		spec: strategy.Spec{Rate: "1/week"},
		steps: []step{
			{at: 0, cost: 1, allowed: true, remaining: 0, reset: 7 * day},
			{at: 7*day - us, cost: 1, remaining: 0, reset: us, retry: us},
			{at: 7 * day, cost: 1, allowed: true, remaining: 0, reset: 7 * day},
		},
	},
	{
		name: "sliding window counter, 10/s",
		spec: strategy.Spec{Rate: "10/s", Strategy: strategy.SlidingWindowCounter},
		steps: []step{
			{at: 0, cost: 10, allowed: true, remaining: 0, reset: 2 * sec},
			// At 1.1 s, the 10 weigh 9.
			{at: 500 * ms, cost: 1, remaining: 0, reset: 1500 * ms, retry: 600 * ms},
			{at: 1100*ms - us, cost: 1, remaining: 0, reset: 900*ms + us, retry: us},
			{at: 1100 * ms, cost: 1, allowed: true, remaining: 0, reset: 1900 * ms},
			// At 1.2 s, they weigh 8.
			{at: 1100 * ms, cost: 1, remaining: 0, reset: 1900 * ms, retry: 100 * ms},
			{at: 1200*ms - us, cost: 1, remaining: 0, reset: 1800*ms + us, retry: us},
			{at: 1200 * ms, cost: 1, allowed: true, remaining: 0, reset: 1800 * ms},
			// At 1.75 s, 2.5; and 2 + 5 are current.
			{at: 1750 * ms, cost: 5, allowed: true, remaining: 0, reset: 1250 * ms},
			// From 2 s on, the 7 weigh 7 x (1 - t): 6 at 1/7 s.
			{at: 2 * sec, cost: 4, remaining: 3, reset: sec, retry: 142_858 * us},
			{at: 2*sec + 142_857*us, cost: 4, remaining: 3, reset: 857_143 * us, retry: us},
			{at: 2*sec + 142_858*us, cost: 4, allowed: true, remaining: 0, reset: 1_857_142 * us},
			// 7 more have to wait for the 4 to weigh 3, at 3.25 s.
			{at: 2*sec + 142_858*us, cost: 7, remaining: 0, reset: 1_857_142 * us, retry: 1_107_142 * us},
			{at: 2*sec + 142_858*us, cost: 10, remaining: 0, reset: 1_857_142 * us, retry: 1_857_142 * us},
			{at: 2*sec + 142_858*us, cost: 11, remaining: 0, reset: 1_857_142 * us, retry: never},
			{at: 4*sec - us, cost: 0, allowed: true, remaining: 9, reset: us},
			{at: 4 * sec, cost: 0, allowed: true, remaining: 10},
		},
	},
	{
		name: "sliding window counter, 4/100ms",
		spec: strategy.Spec{Rate: "4/100ms", Strategy: strategy.SlidingWindowCounter},
		steps: []step{
			{at: 50 * ms, cost: 4, allowed: true, remaining: 0, reset: 150 * ms},
			{at: 110 * ms, cost: 1, remaining: 0, reset: 90 * ms, retry: 15 * ms},
			{at: 125 * ms, cost: 1, allowed: true, remaining: 0, reset: 175 * ms},
			{at: 199 * ms, cost: 3, remaining: 2, reset: 101 * ms, retry: ms}, // 0.04 still weighs
			{at: 200 * ms, cost: 3, allowed: true, remaining: 0, reset: 200 * ms},
		},
	},
	{
		name: "sliding window log, 3/s",
		spec: strategy.Spec{Rate: "3/s", Strategy: strategy.SlidingWindowLog},
		steps: []step{
			{at: 0, cost: 1, allowed: true, remaining: 2, reset: sec},
			{at: 200 * ms, cost: 1, allowed: true, remaining: 1, reset: sec},
			{at: 500 * ms, cost: 1, allowed: true, remaining: 0, reset: sec},
			{at: 600 * ms, cost: 1, remaining: 0, reset: 900 * ms, retry: 400 * ms},
			{at: 600 * ms, cost: 2, remaining: 0, reset: 900 * ms, retry: 600 * ms},
			{at: 600 * ms, cost: 3, remaining: 0, reset: 900 * ms, retry: 900 * ms},
			{at: 600 * ms, cost: 4, remaining: 0, reset: 900 * ms, retry: never},
			{at: sec - us, cost: 1, remaining: 0, reset: 500*ms + us, retry: us},
			{at: sec, cost: 1, allowed: true, remaining: 0, reset: sec},
			{at: 1200 * ms, cost: 2, remaining: 1, reset: 800 * ms, retry: 300 * ms},
			{at: 2*sec - us, cost: 0, allowed: true, remaining: 2, reset: us},
			{at: 2 * sec, cost: 0, allowed: true, remaining: 3},
			{at: 2 * sec, cost: 3, allowed: true, remaining: 0, reset: sec},
		},
	},
	{
		name: "sliding window log, 2/100ms",
		spec: strategy.Spec{Rate: "2/100ms", Strategy: strategy.SlidingWindowLog},
		steps: []step{
			{at: 90 * ms, cost: 2, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 100 * ms, cost: 1, remaining: 0, reset: 90 * ms, retry: 90 * ms},
			{at: 190 * ms, cost: 1, allowed: true, remaining: 1, reset: 100 * ms},
			{at: 190 * ms, cost: 1, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 190 * ms, cost: 1, remaining: 0, reset: 100 * ms, retry: 100 * ms},
		},
	},
	{
		name: "token bucket, 10/s, burst 5",
		spec: strategy.Spec{Rate: "10/s", Strategy: strategy.TokenBucket, Burst: 5},
		steps: []step{
			{at: 0, cost: 5, allowed: true, remaining: 0, reset: 500 * ms}, // full at first
			{at: 0, cost: 1, remaining: 0, reset: 500 * ms, retry: 100 * ms},
			{at: 100*ms - us, cost: 1, remaining: 0, reset: 400*ms + us, retry: us},
			{at: 100 * ms, cost: 1, allowed: true, remaining: 0, reset: 500 * ms},
			{at: 250 * ms, cost: 1, allowed: true, remaining: 0, reset: 450 * ms}, // 1.5 tokens, then 0.5
			{at: 250 * ms, cost: 2, remaining: 0, reset: 450 * ms, retry: 150 * ms},
			{at: 250 * ms, cost: 6, remaining: 0, reset: 450 * ms, retry: never},
			{at: 699 * ms, cost: 0, allowed: true, remaining: 4, reset: ms},
			{at: 700 * ms, cost: 0, allowed: true, remaining: 5},
			{at: 10 * sec, cost: 2, allowed: true, remaining: 3, reset: 200 * ms}, // no more than full
		},
	},
	{
		name: "token bucket, 3/s, nothing drifts",
		spec: strategy.Spec{Rate: "3/s", Strategy: strategy.TokenBucket}, // burst 3
		steps: []step{
			{at: 0, cost: 3, allowed: true, remaining: 0, reset: sec},
			{at: 333_333 * us, cost: 1, remaining: 0, reset: 666_667 * us, retry: us},
			{at: 333_334 * us, cost: 1, allowed: true, remaining: 0, reset: sec}, // 0.000002 tokens left
			{at: 333_334 * us, cost: 1, remaining: 0, reset: sec, retry: 333_333 * us},
			{at: 666_667 * us, cost: 1, allowed: true, remaining: 0, reset: sec}, // 0.000001
			{at: sec - us, cost: 1, remaining: 0, reset: 666_668 * us, retry: us},
			{at: sec, cost: 1, allowed: true, remaining: 0, reset: sec}, // and none
		},
	},
	{
		name: "token bucket, 5/ms, burst 10",
		spec: strategy.Spec{Rate: "5/1ms", Strategy: strategy.TokenBucket, Burst: 10},
		steps: []step{
			{at: 0, cost: 10, allowed: true, remaining: 0, reset: 2 * ms},
			{at: 0, cost: 1, remaining: 0, reset: 2 * ms, retry: 200 * us},
			{at: 199 * us, cost: 1, remaining: 0, reset: 1801 * us, retry: us},
			{at: 200 * us, cost: 1, allowed: true, remaining: 0, reset: 2 * ms},
			{at: 1200 * us, cost: 0, allowed: true, remaining: 5, reset: ms},
		},
	},
	{
		name: "leaky bucket, 10/s, burst 3",
		spec: strategy.Spec{Rate: "10/s", Strategy: strategy.LeakyBucket, Burst: 3},
		steps: []step{
			{at: 0, cost: 1, allowed: true, remaining: 2, reset: 100 * ms, delay: 0},
			{at: 0, cost: 1, allowed: true, remaining: 1, reset: 200 * ms, delay: 100 * ms},
			{at: 0, cost: 1, allowed: true, remaining: 0, reset: 300 * ms, delay: 200 * ms},
			{at: 0, cost: 1, remaining: 0, reset: 300 * ms, retry: 100 * ms},
			{at: 50 * ms, cost: 1, remaining: 0, reset: 250 * ms, retry: 50 * ms},
			{at: 100 * ms, cost: 1, allowed: true, remaining: 0, reset: 300 * ms, delay: 200 * ms},
			{at: 150 * ms, cost: 0, allowed: true, remaining: 0, reset: 250 * ms},
			{at: 250 * ms, cost: 2, remaining: 1, reset: 150 * ms, retry: 50 * ms},
			{at: 300 * ms, cost: 2, allowed: true, remaining: 0, reset: 300 * ms, delay: 100 * ms},
			{at: 300 * ms, cost: 4, remaining: 0, reset: 300 * ms, retry: never},
			{at: sec, cost: 3, allowed: true, remaining: 0, reset: 300 * ms, delay: 0},
		},
	},
	{
		name: "leaky bucket, 2/100ms",
		spec: strategy.Spec{Rate: "2/100ms", Strategy: strategy.LeakyBucket}, // burst 2
		steps: []step{
			{at: 0, cost: 1, allowed: true, remaining: 1, reset: 50 * ms, delay: 0},
			{at: 20 * ms, cost: 1, allowed: true, remaining: 0, reset: 80 * ms, delay: 30 * ms},
			{at: 20 * ms, cost: 1, remaining: 0, reset: 80 * ms, retry: 30 * ms},
		},
	},
	{
		name: "gcra, 10/s, strictly spaced",
		spec: strategy.Spec{Rate: "10/s", Strategy: strategy.GCRA}, // burst 1
		steps: []step{
			{at: 0, cost: 1, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 0, cost: 1, remaining: 0, reset: 100 * ms, retry: 100 * ms},
			{at: 60 * ms, cost: 1, remaining: 0, reset: 40 * ms, retry: 40 * ms},
			{at: 100*ms - us, cost: 1, remaining: 0, reset: us, retry: us},
			{at: 100 * ms, cost: 1, allowed: true, remaining: 0, reset: 100 * ms},
			{at: 350 * ms, cost: 1, allowed: true, remaining: 0, reset: 100 * ms}, // no credit for the idle time
			{at: 350 * ms, cost: 1, remaining: 0, reset: 100 * ms, retry: 100 * ms},
			{at: 350 * ms, cost: 2, remaining: 0, reset: 100 * ms, retry: never},
		},
	},
	{
		name: "gcra, 10/s, burst 3",
		spec: strategy.Spec{Rate: "10/s", Strategy: strategy.GCRA, Burst: 3},
		steps: []step{
			{at: 0, cost: 2, allowed: true, remaining: 1, reset: 200 * ms}, // TAT 200 ms
			{at: 0, cost: 2, remaining: 1, reset: 200 * ms, retry: 100 * ms},
			{at: 100 * ms, cost: 2, allowed: true, remaining: 0, reset: 300 * ms}, // TAT 400 ms
			{at: 150 * ms, cost: 1, remaining: 0, reset: 250 * ms, retry: 50 * ms},
			{at: 250 * ms, cost: 1, allowed: true, remaining: 0, reset: 250 * ms}, // TAT 500 ms
			{at: 250 * ms, cost: 3, remaining: 0, reset: 250 * ms, retry: 250 * ms},
		},
	},
	{
		name: "gcra, 4/100ms",
		spec: strategy.Spec{Rate: "4/100ms", Strategy: strategy.GCRA},
		steps: []step{
			{at: 0, cost: 1, allowed: true, remaining: 0, reset: 25 * ms},
			{at: 24 * ms, cost: 1, remaining: 0, reset: ms, retry: ms},
			{at: 25 * ms, cost: 1, allowed: true, remaining: 0, reset: 25 * ms},
		},
	},
	{
		name: "waits of over 292 years",
		spec: strategy.Spec{Rate: "1/366d", Strategy: strategy.LeakyBucket, Burst: 1000},
		steps: []step{
			{at: 0, cost: 999, allowed: true, remaining: 1, reset: longest},
			{at: 0, cost: 1, allowed: true, remaining: 0, reset: longest, delay: longest},
			{at: 0, cost: 1, remaining: 0, reset: longest, retry: 366 * day},
			{at: 0, cost: 1000, remaining: 0, reset: longest, retry: longest},
			{at: 0, cost: 1001, remaining: 0, reset: longest, retry: never},
		},
	},
}

// A request consumes from all limits or from none, and the status of each limit is what
// that limit alone would answer.
func TestDecideSeveralLimits(t *testing.T) {
	c := newCounters(
		newLimit(t, strategy.Spec{Rate: "2/s"}),
		newLimit(t, strategy.Spec{Rate: "10/s", Strategy: strategy.LeakyBucket, Burst: 4}),
		newLimit(t, strategy.Spec{Rate: "5/min", Strategy: strategy.SlidingWindowLog}),
		newLimit(t, strategy.Spec{Rate: "unlimited", Strategy: strategy.GCRA}),
	)
	unlimited := strategy.Status{Limit: math.MaxUint64, Remaining: math.MaxUint64, Allowed: true}
	steps := []struct {
		name string
		at   time.Duration
		cost uint64
		want strategy.Decision
	}{
		{"all allow", 0, 2, strategy.Decision{Allowed: true, Statuses: []strategy.Status{
			{Limit: 2, Remaining: 0, ResetAfter: sec, Allowed: true},
			{Limit: 4, Remaining: 2, ResetAfter: 200 * ms, Allowed: true},
			{Limit: 5, Remaining: 3, ResetAfter: time.Minute, Allowed: true},
			unlimited,
		}}},
		{"the first denies", 100 * ms, 2, strategy.Decision{RetryAfter: 900 * ms, Statuses: []strategy.Status{
			{Limit: 2, Remaining: 0, ResetAfter: 900 * ms, RetryAfter: 900 * ms},
			{Limit: 4, Remaining: 3, ResetAfter: 100 * ms, Allowed: true},
			{Limit: 5, Remaining: 3, ResetAfter: 59_900 * ms, Allowed: true},
			unlimited,
		}}},
		{"it can never allow more than 2", 100 * ms, 3, strategy.Decision{RetryAfter: never, Statuses: []strategy.Status{
			{Limit: 2, Remaining: 0, ResetAfter: 900 * ms, RetryAfter: never},
			{Limit: 4, Remaining: 3, ResetAfter: 100 * ms, Allowed: true},
			{Limit: 5, Remaining: 3, ResetAfter: 59_900 * ms, Allowed: true},
			unlimited,
		}}},
		{"all allow again", sec, 1, strategy.Decision{Allowed: true, Statuses: []strategy.Status{
			{Limit: 2, Remaining: 1, ResetAfter: sec, Allowed: true},
			{Limit: 4, Remaining: 3, ResetAfter: 100 * ms, Allowed: true},
			{Limit: 5, Remaining: 2, ResetAfter: time.Minute, Allowed: true},
			unlimited,
		}}},
		{"and once more: the delay is that of the queue", sec, 1, strategy.Decision{Allowed: true, Delay: 100 * ms, Statuses: []strategy.Status{
			{Limit: 2, Remaining: 0, ResetAfter: sec, Allowed: true},
			{Limit: 4, Remaining: 2, ResetAfter: 200 * ms, Allowed: true},
			{Limit: 5, Remaining: 1, ResetAfter: time.Minute, Allowed: true},
			unlimited,
		}}},
		{"two deny: the longer wait counts, and there is no delay", 1050 * ms, 2, strategy.Decision{RetryAfter: 58_950 * ms, Statuses: []strategy.Status{
			{Limit: 2, Remaining: 0, ResetAfter: 950 * ms, RetryAfter: 950 * ms},
			{Limit: 4, Remaining: 2, ResetAfter: 150 * ms, Allowed: true},
			{Limit: 5, Remaining: 1, ResetAfter: 59_950 * ms, RetryAfter: 58_950 * ms},
			unlimited,
		}}},
	}
	for _, s := range steps {
		if got := c.take(after(start, s.at), s.cost); !same(got, s.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", s.name, got, s.want)
		}
	}
}

// The delay of several limits is the longest delay, in whichever order they are. The same
// holds for the wait, and Never is longer than any wait.
func TestDecideReportsTheLongest(t *testing.T) {
	slow := newLimit(t, strategy.Spec{Rate: "1/s", Strategy: strategy.LeakyBucket, Burst: 3})
	fast := newLimit(t, strategy.Spec{Rate: "10/s", Strategy: strategy.LeakyBucket, Burst: 3})
	small := newLimit(t, strategy.Spec{Rate: "100/s", Strategy: strategy.LeakyBucket, Burst: 2})
	for _, limits := range [][]strategy.Limit{{slow, fast, small}, {fast, small, slow}, {small, slow, fast}} {
		c := newCounters(limits...)
		c.take(start, 1)
		if d := c.take(start, 1); !d.Allowed || d.Delay != sec {
			t.Errorf("%v: the second request: %+v, want a delay of 1s", limits, d)
		}
		if d := c.take(start, 2); d.Allowed || d.RetryAfter != sec || d.Delay != 0 {
			t.Errorf("%v: the third request: %+v, want a wait of 1s", limits, d)
		}
		if d := c.take(start, 3); d.Allowed || d.RetryAfter != never {
			t.Errorf("%v: cost 3: %+v, want Never", limits, d)
		}
	}
}

func TestDecideCostZeroAsksForNothing(t *testing.T) {
	for _, spec := range everySpec() {
		c := newCounters(newLimit(t, spec))
		fresh := c.take(start, 0)
		if st := fresh.Statuses[0]; !fresh.Allowed || !st.Allowed || st.Remaining != st.Limit || st.ResetAfter != 0 {
			t.Errorf("%+v: cost 0 of an unused limit: %+v", spec, fresh)
		}
		c.take(start, c.capacity())
		before := c.memory(start)
		used := c.take(start, 0)
		if st := used.Statuses[0]; !used.Allowed || !st.Allowed || st.Remaining != 0 || st.ResetAfter == 0 || used.RetryAfter != 0 || used.Delay != 0 {
			t.Errorf("%+v: cost 0 of a limit wholly used: %+v", spec, used)
		}
		if !slices.Equal(c.memory(start), before) {
			t.Errorf("%+v: cost 0 changed the state", spec)
		}
	}
}

func TestDecideZeroRateDeniesAll(t *testing.T) {
	for _, s := range strategy.All {
		spec := strategy.Spec{Rate: "0/s", Strategy: s}
		if s >= strategy.TokenBucket {
			spec.Burst = 5
		}
		c := newCounters(newLimit(t, spec))
		for _, cost := range []uint64{1, 5, math.MaxUint64} {
			d := c.take(start, cost)
			want := strategy.Decision{RetryAfter: never, Statuses: []strategy.Status{{RetryAfter: never}}}
			if !same(d, want) {
				t.Errorf("%v, cost %d: %+v, want %+v", s, cost, d, want)
			}
		}
		if d := c.take(start, 0); !d.Allowed {
			t.Errorf("%v, cost 0: %+v, want allowed", s, d)
		}
	}
}

func TestDecideUnlimitedAllowsAll(t *testing.T) {
	want := strategy.Decision{Allowed: true, Statuses: []strategy.Status{
		{Limit: math.MaxUint64, Remaining: math.MaxUint64, Allowed: true},
	}}
	for _, s := range strategy.All {
		c := newCounters(newLimit(t, strategy.Spec{Rate: "unlimited", Strategy: s}))
		for _, cost := range []uint64{0, 1, math.MaxUint64, math.MaxUint64} {
			if d := c.take(start, cost); !same(d, want) {
				t.Errorf("%v, cost %d: %+v, want %+v", s, cost, d, want)
			}
		}
	}
}

func TestDecideCostAboveCapacityCanNeverSucceed(t *testing.T) {
	for _, spec := range everySpec() {
		c := newCounters(newLimit(t, spec))
		for _, cost := range []uint64{c.capacity() + 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
			if d := c.take(start, cost); d.Allowed || d.RetryAfter != never || d.Statuses[0].RetryAfter != never {
				t.Errorf("%+v, cost %d: %+v, want denied for ever", spec, cost, d)
			}
		}
		if d := c.take(start, c.capacity()); !d.Allowed {
			t.Errorf("%+v, cost %d, after those: %+v, want allowed", spec, c.capacity(), d)
		}
	}
}

// A clock that steps back by up to a period is read as standing still at the last
// consumption: all waits are longer by the step. After a greater step, what was consumed
// counts as if it had been consumed just now.
func TestDecideClockStepsBack(t *testing.T) {
	for _, spec := range everySpec() {
		for _, back := range []time.Duration{us, ms, sec, time.Hour, time.Hour + us, 400 * day, 50 * 365 * day} {
			c, half := newCounters(newLimit(t, spec)), uint64(5)
			before := after(start, -back)
			other, ahead := newCounters(c.limits...), back
			at := start
			if back > time.Hour { // the period
				at, ahead = before, 0
			}
			other.take(at, half)
			for _, cost := range []uint64{0, 1, half, c.capacity(), c.capacity() + 1} {
				c := newCounters(c.limits...)
				c.take(start, half)
				if stepped, want := c.peek(before, cost), waiting(other.peek(at, cost), ahead); !same(stepped, want) {
					t.Errorf("%+v, cost %d, back by %v:\n got %+v\nwant %+v", spec, cost, back, stepped, want)
				}
			}
			// What is consumed then is consumed at that same instant.
			c.take(start, half)
			if got, want := c.take(before, 1), waiting(other.take(at, 1), ahead); !same(got, want) {
				t.Errorf("%+v, consuming back by %v:\n got %+v\nwant %+v", spec, back, got, want)
			}
			if !slices.Equal(c.memory(at), other.memory(at)) {
				t.Errorf("%+v, consuming back by %v: the state differs", spec, back)
			}
		}
	}
}

// waiting returns d with all its waits longer by ahead.
func waiting(d strategy.Decision, ahead time.Duration) strategy.Decision {
	longer := func(wait *time.Duration) {
		if *wait > 0 {
			*wait += min(ahead, longest-*wait)
		}
	}
	longer(&d.RetryAfter)
	longer(&d.Delay)
	for i := range d.Statuses {
		longer(&d.Statuses[i].RetryAfter)
		longer(&d.Statuses[i].ResetAfter)
	}
	return d
}

func TestDecideIdleForAYear(t *testing.T) {
	for _, spec := range everySpec() {
		c := newCounters(newLimit(t, spec))
		c.take(start, c.capacity())
		later := after(start, 365*day)
		if st := c.status(0, later); st.Remaining != st.Limit || st.ResetAfter != 0 {
			t.Errorf("%+v: a year later: %+v, want wholly unused", spec, st)
		}
		if d := c.take(later, c.capacity()); !d.Allowed || d.Delay != 0 {
			t.Errorf("%+v: all of it, a year later: %+v, want allowed", spec, d)
		}
	}
}

// A Decision can be used again, for fewer or more limits. Nothing of the earlier answer is
// left in it.
func TestDecisionIsReused(t *testing.T) {
	one := newLimit(t, strategy.Spec{Rate: "1/s", Strategy: strategy.LeakyBucket, Burst: 2})
	unlimited := newLimit(t, strategy.Spec{Rate: "unlimited"})
	var reused strategy.Decision
	for _, limits := range [][]strategy.Limit{{one, one, unlimited}, {unlimited}, {one}, {unlimited, one, one, one}} {
		for _, state := range []strategy.State{{}, {Last: start, Used: 1}, {Last: start, Used: 2}} {
			for _, cost := range []uint64{0, 1, 2, 3} {
				var fresh strategy.Decision
				states := slices.Repeat([]strategy.State{state}, len(limits))
				fresh.Decide(limits, states, strategy.Ask{Cost: cost, Now: start, DryRun: true})
				reused.Decide(limits, states, strategy.Ask{Cost: cost, Now: start, DryRun: true})
				if !same(fresh, reused) || len(fresh.Statuses) != len(limits) {
					t.Fatalf("%d limits, cost %d: used again: %+v, want %+v", len(limits), cost, reused, fresh)
				}
			}
		}
	}
}

func TestDecideReportsWhetherItConsumed(t *testing.T) {
	limits := []strategy.Limit{newLimit(t, strategy.Spec{Rate: "2/s"}), newLimit(t, strategy.Spec{Rate: "1/s"})}
	tests := []struct {
		name   string
		cost   uint64
		dryRun bool
		used   int64 // before, from each
		want   strategy.Consumption
	}{
		{"allowed", 1, false, 0, strategy.ConsumedAll},
		{"a dry run", 1, true, 0, strategy.ConsumedNone},
		{"cost 0", 0, false, 0, strategy.ConsumedNone},
		{"denied by one", 1, false, 1, strategy.ConsumedNone},
		{"denied for ever", 9, false, 0, strategy.ConsumedNone},
	}
	for _, tt := range tests {
		states := []strategy.State{{Last: start, Used: tt.used}, {Last: start, Used: tt.used}}
		before := slices.Clone(states)
		var d strategy.Decision
		if got := d.Decide(limits, states, strategy.Ask{Cost: tt.cost, Now: after(start, us), DryRun: tt.dryRun}); got != tt.want {
			t.Errorf("%s: consumed = %v, want %v", tt.name, got, tt.want)
		}
		for i := range states {
			if changed := states[i] != before[i]; changed != (tt.want == strategy.ConsumedAll) {
				t.Errorf("%s: limit %d: state %+v became %+v", tt.name, i, before[i], states[i])
			}
		}
	}
}

// TestShadow compares limits of which some are in shadow mode with the same limits without
// that mode. Only the enforced limits decide, and the others count as if all were
// enforced.
func TestShadow(t *testing.T) {
	limit := func(rate string, shadow bool) strategy.Limit {
		l := newLimit(t, strategy.Spec{Name: rate, Rate: rate, Strategy: strategy.LeakyBucket})
		l.Shadow = shadow
		return l
	}
	c := newCounters(limit("3/s", false), limit("1/s", true), limit("2/s", true))
	for i, want := range []struct {
		allowed    bool
		retryAfter time.Duration
		delay      time.Duration
		statuses   [3]bool
		remaining  [3]uint64
	}{
		{true, 0, 0, [3]bool{true, true, true}, [3]uint64{2, 0, 1}},
		{true, 0, time.Second / 3, [3]bool{true, false, true}, [3]uint64{1, 0, 1}}, // enforced, the second would have kept the third from consuming
		{true, 0, 2 * time.Second / 3, [3]bool{true, false, true}, [3]uint64{0, 0, 1}},
		{false, time.Second / 3, 0, [3]bool{false, false, true}, [3]uint64{0, 0, 1}},
	} {
		d := c.take(start, 1)
		if d.Allowed != want.allowed || (d.RetryAfter-want.retryAfter).Abs() > us || (d.Delay-want.delay).Abs() > us {
			t.Errorf("request %d: allowed %v, retry after %v, delay %v, want %+v", i, d.Allowed, d.RetryAfter, d.Delay, want)
		}
		for j, st := range d.Statuses {
			if st.Allowed != want.statuses[j] || st.Remaining != want.remaining[j] {
				t.Errorf("request %d: limit %d: %+v, want %+v", i, j, st, want)
			}
		}
	}
}

func TestDecideAllLimitsThatARequestMayName(t *testing.T) {
	var limits []strategy.Limit
	for range strategy.MaxLimits {
		limits = append(limits, newLimit(t, strategy.Spec{Rate: "1/s"}))
	}
	c := newCounters(limits...)
	if d := c.take(start, 1); !d.Allowed || len(d.Statuses) != strategy.MaxLimits {
		t.Errorf("first: %+v", d)
	}
	for i := range limits {
		if st := c.status(i, start); st.Remaining != 0 {
			t.Errorf("limit %d did not consume: %+v", i, st)
		}
	}
}

// everySpec returns a spec of each strategy. Where there is a burst, it is greater than the
// count. All counters are unused again after a year.
func everySpec() []strategy.Spec {
	var specs []strategy.Spec
	for _, s := range strategy.All {
		spec := strategy.Spec{Rate: "7/h", Strategy: s}
		if s >= strategy.TokenBucket {
			spec.Burst = 10
		}
		specs = append(specs, spec)
	}
	return specs
}

// TestOneAsSeveral holds what decides a Take of one limit to what decides several: with an
// unlimited limit beside it, the answer is the same.
func TestOneAsSeveral(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limitOf(t, rapid.SampledFrom([]strategy.Strategy{strategy.FixedWindow, strategy.SlidingWindowCounter, strategy.TokenBucket, strategy.LeakyBucket, strategy.GCRA}).Draw(t, "strategy"))
		l.Shadow = rapid.Bool().Draw(t, "shadow")
		now := after(start, time.Duration(rapid.IntRange(-1000, 1000).Draw(t, "ms"))*ms)
		state := strategy.State{Last: start, Used: rapid.Int64Range(0, 2*max(l.Capacity, 1)).Draw(t, "used")}
		a := strategy.Ask{Cost: rapid.Uint64Range(0, 20).Draw(t, "cost"), Now: now, DryRun: rapid.Bool().Draw(t, "dry run")}
		one, two := []strategy.State{state}, []strategy.State{state, {}}
		var alone, beside strategy.Decision
		gotFrom := alone.Decide([]strategy.Limit{l}, one, a)
		wantFrom := beside.Decide([]strategy.Limit{l, {Rate: rate.Rate{Count: rate.Unlimited}}}, two, a)
		beside.Statuses = beside.Statuses[:1]
		if gotFrom != wantFrom || one[0] != two[0] || !reflect.DeepEqual(alone, beside) {
			t.Fatalf("%+v in %+v, %+v:\n%v %+v %+v, and beside another\n%v %+v %+v", l, state, a, gotFrom, one[0], alone, wantFrom, two[0], beside)
		}
	})
}
