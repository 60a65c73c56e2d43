package strategy_test

import (
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// These are round numbers, primes (which leave remainders) and the bounds, followed by any
// number.
var (
	counts = rapid.OneOf(
		rapid.SampledFrom([]int64{1, 2, 3, 5, 7, 10, 13, 97, 100, 997, 65_537, 1_000_000, 999_999_937, rate.MaxCount}),
		rapid.Int64Range(1, 20),
		rapid.Int64Range(1, rate.MaxCount),
	)
	periods = rapid.OneOf(
		rapid.SampledFrom([]time.Duration{ms, 2 * ms, 7 * ms, 100 * ms, 997 * ms, sec, 7 * sec, time.Minute, time.Hour, day, 7 * day, rate.MaxPeriod}),
		rapid.Map(rapid.Int64Range(1, 2_000), milliseconds),
		rapid.Map(rapid.Int64Range(1, int64(rate.MaxPeriod/ms)), milliseconds),
	)
	bursts = rapid.OneOf(
		rapid.SampledFrom([]uint64{0, 1, 2, 3, 5, 11, 101, 1_000_003, strategy.MaxBurst}),
		rapid.Uint64Range(1, 30),
		rapid.Uint64Range(1, strategy.MaxBurst),
	)
	epochs = rapid.OneOf(
		rapid.Just(start),
		rapid.Map(rapid.Int64Range(0, 1<<52), func(n int64) strategy.Instant { return strategy.Instant(n) }),
	)
)

func milliseconds(n int64) time.Duration { return time.Duration(n) * ms }

// limitOf draws a limit of strategy s that NewLimit accepts and that is
// neither 0 nor unlimited.
func limitOf(t *rapid.T, s strategy.Strategy) strategy.Limit {
	r := rate.Rate{Count: counts.Draw(t, "count"), Period: periods.Draw(t, "period")}
	spec := strategy.Spec{Rate: r.String(), Strategy: s}
	if s >= strategy.TokenBucket {
		spec.Burst = bursts.Draw(t, "burst")
	}
	l, wrong := strategy.NewLimit(spec, rate.MaxCount)
	if wrong != nil {
		t.Fatalf("NewLimit(%+v): %v", spec, wrong)
	}
	return l
}

// mixedLimits draws 2 to 4 limits.
func mixedLimits(t *rapid.T) []strategy.Limit {
	limits := make([]strategy.Limit, rapid.IntRange(2, 4).Draw(t, "limits"))
	for i := range limits {
		limits[i] = limitOf(t, rapid.SampledFrom(strategy.All[:]).Draw(t, "strategy"))
	}
	return limits
}

// anyCounters draws the counters of a random limit of strategy s, or of mixed limits if s is
// 0. It returns when their history should start.
func anyCounters(t *rapid.T, s strategy.Strategy) (*counters, strategy.Instant) {
	now := epochs.Draw(t, "start")
	if s == 0 {
		return newCounters(mixedLimits(t)...), now
	}
	return newCounters(limitOf(t, s)), now
}

// drawCost draws a cost above 0. It is small, or all or a part of what c allows at now, or
// about as large as c ever allows.
func drawCost(t *rapid.T, c *counters, now strategy.Instant) uint64 {
	capacity := c.capacity()
	switch rapid.IntRange(0, 7).Draw(t, "kind of cost") {
	case 0:
		return capacity
	case 1:
		return capacity + 1
	case 2, 3:
		return max(1, capacity/rapid.Uint64Range(2, 9).Draw(t, "part of the capacity"))
	case 4:
		return max(1, remaining(c.peek(now, 0)))
	case 5:
		return remaining(c.peek(now, 0)) + 1
	case 6:
		return rapid.Uint64Range(1, capacity).Draw(t, "cost")
	default:
		return 1
	}
}

// drawNext draws when the next request comes after one at now. That is at an instant where
// an answer of c changes, or right before or after it, or anywhere within some periods.
func drawNext(t *rapid.T, c *counters, now strategy.Instant) strategy.Instant {
	i := rapid.IntRange(0, len(c.limits)-1).Draw(t, "whose")
	period := strategy.Instant(c.limits[i].Rate.Period / us)
	var next strategy.Instant
	switch rapid.IntRange(0, 7).Draw(t, "kind of gap") {
	case 0:
		return now
	case 1:
		return now + period/16*strategy.Instant(rapid.IntRange(0, 32).Draw(t, "sixteenths"))
	case 2:
		return now + strategy.Instant(rapid.Int64Range(0, 3*int64(period)).Draw(t, "microseconds"))
	case 3:
		next = now - now%period + period // a window's end
	case 4:
		next = now + period/strategy.Instant(c.limits[i].Rate.Count)
	case 5:
		next = after(now, min(c.status(i, now).ResetAfter, 2000*day))
	default:
		next = after(now, min(c.peek(now, drawCost(t, c, now)).RetryAfter, 2000*day))
	}
	next += strategy.Instant(rapid.IntRange(-1, 1).Draw(t, "beside"))
	return max(now, next)
}

// live draws a history of c: requests from now on. It calls ask for each, and returns when
// the history ends.
func live(t *rapid.T, c *counters, now strategy.Instant, ask func(now strategy.Instant, cost uint64)) strategy.Instant {
	for range rapid.IntRange(1, 30).Draw(t, "requests") {
		ask(now, drawCost(t, c, now))
		now = drawNext(t, c, now)
	}
	return now
}

// remaining returns the largest cost that d's limits would all allow.
func remaining(d strategy.Decision) uint64 {
	least := d.Statuses[0].Remaining
	for _, st := range d.Statuses[1:] {
		least = min(least, st.Remaining)
	}
	return least
}
