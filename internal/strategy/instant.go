package strategy

import (
	"math"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
)

// An Instant is a time in microseconds since the Unix epoch.
type Instant int64

// InstantOf returns t in whole microseconds.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMicro()) }

// later returns d after a wait, or the greatest Duration if that is too long.
func later(d time.Duration, wait Instant) time.Duration {
	if more := micros(int64(wait)); d <= math.MaxInt64-more {
		return d + more
	}
	return math.MaxInt64
}

// micros returns n microseconds as a Duration, or the greatest Duration if n is
// too large.
func micros(n int64) time.Duration {
	if n > math.MaxInt64/int64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Microsecond
}

// period returns the period of r in microseconds.
func period(r rate.Rate) int64 { return int64(r.Period / time.Microsecond) }
