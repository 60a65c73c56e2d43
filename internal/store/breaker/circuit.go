package breaker

import (
	"math"
	"sync"
	"time"
)

const (
	// A circuit opens when calls fail and no other was answered meanwhile: all of the
	// last interval, tripAll or more; or any number in a row, from the beginning of the
	// first of them to the end of the last for about an interval or longer. And it opens when
	// at least three in four of the last interval failed, tripMost or more. So a server
	// that is gone is given up within an interval, and one that hangs at the end of the
	// first call that waited so long. A server that only pauses for a moment is not, as
	// long as there is some traffic.
	tripAll  = 5
	tripMost = 20
	interval = 500 * time.Millisecond
	// row is a little less than that, so that a call that waits for just half a second is
	// enough, though the server may have answered another since it began.
	row     = interval - interval/10
	buckets = 5 // the interval moves on by one of so many parts at a time
	// An open circuit lets one call through after so long. It costs one caller
	// some time: see leastProbe. A server that only paused, as many do for 50 ms or so,
	// is soon used again.
	probeAfter = 250 * time.Millisecond

	// A server had a fair time for a call that its caller cut short, if that was
	// fairTimes as long as it usually takes, and at least leastFair, which is longer than
	// most pauses of a server that is well. So no caller's haste makes a server look
	// bad, and one that hangs is found out by callers of Envoy's 20 ms too.
	leastFair = 10 * time.Millisecond
	fairTimes = 4
	// A probe waits as long as that too, and at least leastProbe. It does so for its
	// timeout if the server has never answered.
	leastProbe = 50 * time.Millisecond
	usualPart  = 8 // how much of the usual time is that of the last answer: one part in so many
)

// A circuit says whether one server is asked. It is safe for concurrent use.
type circuit struct {
	mu     sync.Mutex // protects the following
	recent [buckets]bucket
	usual  time.Duration // about how long the server takes to answer; 0: it never has
	row    struct {      // the calls that have failed since the last that was answered
		calls int
		since time.Time // when the first of them began
	}
	answered time.Time // when a call was last answered
	failed   time.Time // when a call last failed
	open     bool
	until    time.Time // while open: when a call may probe
	probing  bool      // while open: whether one does
}

// A bucket counts the calls that ended in a part of an interval.
type bucket struct {
	part             int64 // which, since the Unix epoch
	failed, answered int
}

// A verdict is what a call says of a server.
type verdict uint8

const (
	nothing verdict = iota
	answered
	failed
)

// begin reports whether the server may be asked at now, and whether this is a probe.
func (c *circuit) begin(now time.Time) (ask, probe bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.open {
		return true, false
	}
	if c.probing || now.Before(c.until) {
		return false, false
	}
	c.probing = true
	return true, true
}

// end notes how a call went that was asked at start, and ended at now.
func (c *circuit) end(v verdict, probe bool, start, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if probe {
		c.probing = false
	}
	switch v {
	case nothing:
	case answered:
		c.noteAnswer(now.Sub(start), now)
		if probe {
			c.open = false
			c.recent = [buckets]bucket{}
		}
	case failed:
		c.noteFailure(start, now)
		if probe || !c.open && c.trips(now) {
			c.open, c.until = true, now.Add(probeAfter)
		}
	}
}

func (c *circuit) noteAnswer(took time.Duration, now time.Time) {
	if c.usual == 0 {
		c.usual = took
	}
	c.usual += (took - c.usual) / usualPart
	c.answered = now
	c.row.calls = 0
	c.bucketAt(now).answered++
}

func (c *circuit) noteFailure(start, now time.Time) {
	c.failed = now
	if c.row.calls == 0 || start.Before(c.row.since) {
		c.row.since = start
	}
	if c.row.since.Before(c.answered) { // it began before the last answer, after which it was not heard of
		c.row.since = c.answered
	}
	c.row.calls++
	c.bucketAt(now).failed++
}

// trips reports whether the circuit is to open, after a failure at now.
func (c *circuit) trips(now time.Time) bool {
	failed, answered := 0, 0
	for _, b := range c.recent {
		if b.part > partAt(now)-buckets {
			failed += b.failed
			answered += b.answered
		}
	}
	return failed >= tripAll && answered == 0 ||
		now.Sub(c.row.since) >= row ||
		failed >= tripMost && failed >= 3*answered
}

func (c *circuit) bucketAt(now time.Time) *bucket {
	part := partAt(now)
	b := &c.recent[part%buckets]
	if b.part != part {
		*b = bucket{part: part}
	}
	return b
}

func partAt(now time.Time) int64 { return now.UnixNano() / int64(interval/buckets) }

// fair returns how long a server must have had before a call that its caller cut short
// says that it failed.
func (c *circuit) fair() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(leastFair, fairTimes*c.usual)
}

// probeTime returns how long a probe waits at most.
func (c *circuit) probeTime() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.usual == 0 {
		return math.MaxInt64
	}
	return max(leastProbe, fairTimes*c.usual)
}

// state returns whether c is open, and when a call last failed.
func (c *circuit) state() (open bool, failed time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, c.failed
}
