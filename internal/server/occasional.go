package server

import (
	"sync/atomic"
	"time"
)

// An occasional is something that is logged when it happens, but no more often
// than each logEvery. The zero occasional has not happened.
type occasional struct {
	logged   atomic.Int64 // when the log last said so, in nanoseconds since the Unix epoch
	unlogged atomic.Int64 // how often it has happened since
}

// due notes that it happened at now, and reports how often it has since the log
// said so, this time too; or 0 if that is not to be logged yet.
func (o *occasional) due(now time.Time) int64 {
	o.unlogged.Add(1)
	logged, at := o.logged.Load(), now.UnixNano()
	if at-logged < int64(logEvery) || !o.logged.CompareAndSwap(logged, at) {
		return 0
	}
	return o.unlogged.Swap(0)
}
