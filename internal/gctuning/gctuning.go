// Package gctuning makes the garbage collector run less often while the heap is
// small.
//
// Go collects when the heap has doubled. A server with a heap of a few megabytes
// makes that much garbage many times a second, and the collector then takes a
// quarter of its processor time.
package gctuning

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// DefaultRoom makes the collector cheap, and is little beside the memory that the
// process takes anyway.
const DefaultRoom = 32 << 20

// KeepRoom lets the heap grow by so many bytes before each collection, or to
// twice what is in use if that is more, for as long as the process runs. It does
// nothing if the environment variable GOGC is set: then the operator has decided.
// GOMEMLIMIT still holds.
func KeepRoom(bytes uint64) {
	if os.Getenv("GOGC") == "" {
		t := &tuner{bytes: bytes, percent: goPercent}
		t.collected(struct{}{})
	}
}

// goPercent is how far Go lets the heap grow by default, in percent of what is in
// use.
const goPercent = 100

// A tuner sets how far the heap may grow. Only the goroutine that runs cleanups
// uses it.
type tuner struct {
	bytes   uint64
	percent int // the percentage that is set
}

// collected sets how far the heap may grow by what the last collection left in
// use. It runs again after the next collection.
func (t *tuner) collected(struct{}) {
	left := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(left)
	const least = 4 << 20 // Go lets the heap have this much times the percentage in any case
	percent := max(goPercent, int(t.bytes*100/max(left[0].Value.Uint64(), least)))
	if 8*max(percent-t.percent, t.percent-percent) > t.percent { // setting it stops the world for a moment, so small changes wait
		debug.SetGCPercent(percent)
		t.percent = percent
	}
	// Nothing refers to this value, so the next collection finds it. It holds a
	// pointer because Go packs small values without pointers together.
	runtime.AddCleanup(new(struct{ _ *byte }), t.collected, struct{}{})
}
