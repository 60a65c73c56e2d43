// Package lograte keeps a log readable when the same thing happens again and
// again.
package lograte

import (
	"sync/atomic"
	"time"
)

// Every is how often the log says the same thing.
const Every = 10 * time.Second

// A Gate lets one log line through each Every. The zero Gate is ready for use.
// It is safe for concurrent use.
type Gate struct {
	opened atomic.Int64 // when it last let a line through, in nanoseconds since the Unix epoch
	waited atomic.Int64 // how often it has not, since then
}

// Pass notes that something happened at now. It reports how often it has
// happened since the log last said so, this time included; or 0 if the log is
// not to say so yet.
func (g *Gate) Pass(now time.Time) int64 {
	g.waited.Add(1)
	opened, at := g.opened.Load(), now.UnixNano()
	if at-opened < int64(Every) || !g.opened.CompareAndSwap(opened, at) {
		return 0
	}
	return g.waited.Swap(0)
}
