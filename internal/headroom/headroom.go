// Package headroom has the garbage collector run less often where the heap is
// small.
//
// Go collects when the heap has doubled. A server that holds a few megabytes
// makes as much garbage many times a second, and the collector then takes a
// quarter of its processor time.
package headroom

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Default is enough for the collector to cost little, and little beside what
// the process has anyway.
const Default = 32 << 20

// Keep lets the heap grow by so many bytes before it is collected, or to twice
// what is in use if that is more, as long as the process runs. It does nothing
// if the environment has GOGC: that is then the operator's word. GOMEMLIMIT
// holds all the same.
func Keep(bytes uint64) {
	if os.Getenv("GOGC") == "" {
		k := &keeper{bytes: bytes, percent: goPercent}
		k.collected(struct{}{})
	}
}

// goPercent is how far the heap may grow by Go's own default, in percent of
// what is in use.
const goPercent = 100

type keeper struct {
	bytes   uint64
	percent int // what is set
}

// collected sets how far the heap may grow, by what the last collection left,
// and has itself called after the next.
func (k *keeper) collected(struct{}) {
	left := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(left)
	const least = 4 << 20 // what Go lets the heap have at any rate, times the percentage
	percent := max(goPercent, int(k.bytes*100/max(left[0].Value.Uint64(), least)))
	if 8*max(percent-k.percent, k.percent-percent) > k.percent { // it stops the world for a moment: not for little
		debug.SetGCPercent(percent)
		k.percent = percent
	}
	// What nothing refers to is found by the next collection. (With a pointer
	// in it, it has memory of its own.)
	runtime.AddCleanup(new(struct{ _ *byte }), k.collected, struct{}{})
}
