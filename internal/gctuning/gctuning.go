// Package gctuning makes the garbage collector run as often as its work is worth,
// and keeps to the memory that a container may use.
//
// Go collects when the heap has doubled. That is too often for a server with a heap of
// a few megabytes, which makes as much garbage many times a second: the collector then
// takes a quarter of its processor time. And it is too late for a heap of many counters:
// they have no pointers, so a collection passes over them and costs next to nothing,
// but until then there is as much garbage as there are counters.
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

// KeepRoom lets the heap grow by so many bytes before each collection, or by as much as
// there is to scan for pointers if that is more, for as long as the process runs. It
// does nothing if the environment variable GOGC is set: then the operator has decided.
// GOMEMLIMIT still holds.
func KeepRoom(bytes uint64) {
	if os.Getenv("GOGC") == "" {
		t := &tuner{bytes: bytes, percent: goPercent}
		t.collected(struct{}{})
	}
}

const (
	// goPercent is how far Go lets the heap grow by default, in percent of what is in
	// use.
	goPercent = 100
	// minPercent leaves some room beside a heap of many gigabytes.
	minPercent = 3
)

// A tuner sets how far the heap may grow. Only the goroutine that runs cleanups
// uses it.
type tuner struct {
	bytes   uint64
	percent int // the percentage that is set
}

// collected sets how far the heap may grow by what the last collection left in
// use. It runs again after the next collection.
func (t *tuner) collected(struct{}) {
	left := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/heap:bytes"}}
	metrics.Read(left)
	percent := percentFor(t.bytes, left[0].Value.Uint64(), left[1].Value.Uint64())
	if 8*max(percent-t.percent, t.percent-percent) > t.percent { // setting it stops the world for a moment, so small changes wait
		debug.SetGCPercent(percent)
		t.percent = percent
	}
	// Nothing refers to this value, so the next collection finds it. It holds a
	// pointer because Go packs small values without pointers together.
	runtime.AddCleanup(new(struct{ _ *byte }), t.collected, struct{}{})
}

// percentFor returns how far a heap may grow of which live bytes are in use and scan
// bytes have to be scanned.
func percentFor(room, live, scan uint64) int {
	const least = 4 << 20 // Go lets the heap have this much times the percentage in any case
	return max(minPercent, int(max(room, scan)*100/max(live, least)))
}
