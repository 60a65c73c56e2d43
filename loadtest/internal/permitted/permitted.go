// Package permitted says how much a limit permits at most in a time, so that
// what a server allowed can be held against it. docs/strategies.md has the
// promises that the bounds follow from.
package permitted

import (
	"math"
	"math/bits"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// resolution is that of the servers' clocks: two decisions may be this much
// further apart by their clock than they are.
const resolution = time.Microsecond

// Most returns the most units that l permits to one identifier in any closed
// interval of the length d, whatever came before and however the interval lies
// to the turn of windows. It is exact: some sequence of requests is permitted
// as much, save what the resolution of the clock adds.
func Most(l *strategy.Limit, d time.Duration) uint64 {
	if l.Rate.IsUnlimited() {
		return math.MaxUint64
	}
	d = max(d, 0) + resolution
	count, period := uint64(l.Rate.Count), l.Rate.Period
	whole := uint64(d / period)
	switch l.Strategy {
	case strategy.FixedWindow:
		// It touches so many windows when it begins at the end of one.
		if d%period > 0 {
			whole++
		}
		return (whole + 1) * count
	case strategy.SlidingWindowLog:
		return (whole + 1) * count
	default:
		// Buckets: the burst, and what drains meanwhile. For a
		// SLIDING_WINDOW_COUNTER it is the same with a burst of N: if the
		// interval ends in the part e of its m-th window, that window has at most
		// N - previous x (1-e), all before it N each: in sum N x (m-1+e), and the
		// interval is at least (m-2+e) periods long.
		return uint64(l.Capacity) + drained(count, d, period)
	}
}

// drained returns count x d/period, rounded down.
func drained(count uint64, d, period time.Duration) uint64 {
	high, low := bits.Mul64(count, uint64(d))
	if high >= uint64(period) {
		return math.MaxUint64 / 2
	}
	quotient, _ := bits.Div64(high, low, uint64(period))
	return quotient
}
