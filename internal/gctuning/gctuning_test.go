package gctuning

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestKeepRoom counts how often garbage is collected where little is in use: without
// room that is more than 50 times. Where much is, the room does not matter.
func TestKeepRoom(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Cleanup(func() { debug.SetGCPercent(goPercent) })
	KeepRoom(DefaultRoom)
	eventually(t, "room is kept", func() bool { n := collections(); return n >= 4 && n <= 12 })

	inUse := make([][]byte, 4<<10) // 128 MiB
	for i := range inUse {
		inUse[i] = make([]byte, 32<<10)
	}
	eventually(t, "the heap doubles", func() bool { runtime.GC(); return debug.SetGCPercent(goPercent) == goPercent })
	runtime.KeepAlive(inUse)
}

func TestKeepRoomLeavesGOGC(t *testing.T) {
	t.Setenv("GOGC", "77")
	defer debug.SetGCPercent(debug.SetGCPercent(77))
	KeepRoom(DefaultRoom)
	if percent := debug.SetGCPercent(77); percent != 77 {
		t.Errorf("GOGC=77 is now %d", percent)
	}
}

var sink []byte

// collections returns how many collections 256 MiB of garbage cause.
func collections() uint32 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 8 << 10 {
		sink = make([]byte, 32<<10)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

// eventually waits for the cleanup that follows a collection, which has a
// goroutine of its own.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
