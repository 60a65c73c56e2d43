// Package permitted computes how much a limit permits at most in a given time. The load
// test compares that with what a server allowed. The bounds follow from the promises
// in docs/strategies.md.
package permitted

import (
	"math"
	"math/bits"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// resolution is the resolution of the servers' clocks. By such a clock, two decisions may
// be this much further apart than they are.
const resolution = time.Microsecond

// Most returns the most units that l permits to one identifier in a closed interval of
// length d. It holds for every such interval, wherever it begins within a window, and
// whatever came before it. Apart from what the resolution of the clock adds, it is
// exact: there is a sequence of requests that gets as much.
func Most(l *strategy.Limit, d time.Duration) uint64 {
	if l.Rate.IsUnlimited() {
		return math.MaxUint64
	}
	d = max(d, 0) + resolution
	count, period := uint64(l.Rate.Count), l.Rate.Period
	whole := uint64(d / period)
	switch l.Strategy {
	case strategy.FixedWindow:
		// The interval touches this many windows if it begins at the end of one.
		if d%period > 0 {
			whole++
		}
		return (whole + 1) * count
	case strategy.SlidingWindowLog:
		return (whole + 1) * count
	default:
		// A bucket permits the burst and what drains meanwhile. A
		// SLIDING_WINDOW_COUNTER permits the same, with a burst of N. To see why,
		// let the interval end at the part e of its m-th window. That window has at
		// most N - previous x (1-e) units, and each window before it has at most N.
		// In total that is N x (m-1+e), and the interval is at least (m-2+e)
		// periods long.
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
