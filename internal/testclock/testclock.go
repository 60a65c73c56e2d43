// Package testclock is the clock of a daemon that serves tests: it stands still until
// somebody turns it.
package testclock

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

var (
	// start is a midnight and the beginning of a year, so that windows begin where a
	// reader expects them to. It is where the clocks of testing/synctest start too.
	start = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)
	// end is far enough for any limit, and keeps sums of instants and periods small.
	end = time.Date(2200, time.January, 1, 0, 0, 0, 0, time.UTC)
)

// A Clock stands still until it is turned. New makes it. It is safe for concurrent use.
type Clock struct{ now atomic.Int64 } // microseconds, as a strategy.Instant

// New returns a clock at the beginning of the year 2000, UTC.
func New() *Clock {
	c := &Clock{}
	c.now.Store(int64(strategy.InstantOf(start)))
	return c
}

// Now returns where the clock stands.
func (c *Clock) Now() strategy.Instant { return strategy.Instant(c.now.Load()) }

// Advance turns the clock on by d, in whole microseconds.
func (c *Clock) Advance(d time.Duration) error {
	if d < time.Microsecond {
		return errors.New("the clock turns forward only, by 1us or more, as in 90s")
	}
	for {
		now := c.now.Load()
		if left := int64(strategy.InstantOf(end)) - now; int64(d/time.Microsecond) > left {
			return fmt.Errorf("%v is beyond the year 2200, where the clock stops", d)
		}
		if c.now.CompareAndSwap(now, now+int64(d/time.Microsecond)) {
			return nil
		}
	}
}

// ServeHTTP answers a GET with where the clock stands. A POST with ?advance=90s turns it
// first.
func (c *Clock) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		given := r.URL.Query().Get("advance")
		d, err := time.ParseDuration(given)
		if err != nil {
			err = errors.New("write a duration, as in ?advance=1h30m")
		} else {
			err = c.Advance(d)
		}
		if err != nil {
			http.Error(w, fmt.Sprintf("advance: %s: %v", quote.Cut(given), err), http.StatusBadRequest)
			return
		}
	}
	fmt.Fprintln(w, time.UnixMicro(int64(c.Now())).UTC().Format(time.RFC3339Nano))
}
