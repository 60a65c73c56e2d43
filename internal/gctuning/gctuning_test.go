package gctuning

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestKeepRoom counts how often garbage is collected: without room, more than 50 times
// where little is in use.
func TestKeepRoom(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Cleanup(func() { debug.SetGCPercent(goPercent) })
	KeepRoom(DefaultRoom)
	eventually(t, "room is kept", func() bool { n := collections(); return n >= 4 && n <= 12 })

	counters := make([][]byte, 4<<10) // 128 MiB without pointers
	for i := range counters {
		counters[i] = make([]byte, 32<<10)
	}
	eventually(t, "the room is no larger beside what is not scanned", func() bool {
		runtime.GC()
		percent := debug.SetGCPercent(goPercent)
		debug.SetGCPercent(percent)
		return percent >= 20 && percent <= 30
	})
	runtime.KeepAlive(counters)
}

func TestPercentFor(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		name             string
		room, live, scan uint64
		want             int
	}{
		{"an idle server", 32 * mb, 2 * mb, mb, 800},
		{"a server at work", 32 * mb, 8 * mb, 4 * mb, 400},
		{"a million counters", 32 * mb, 96 * mb, 8 * mb, 33},
		{"ten million counters", 32 * mb, 900 * mb, 8 * mb, 3},
		{"a hundred million counters", 32 * mb, 9000 * mb, 8 * mb, 3},
		{"much to scan, as Go does", 32 * mb, 300 * mb, 300 * mb, 100},
		{"much to scan, and counters", 32 * mb, 400 * mb, 100 * mb, 25},
	} {
		if got := percentFor(tt.room, tt.live, tt.scan); got != tt.want {
			t.Errorf("%s: %d%%, want %d%%", tt.name, got, tt.want)
		}
	}
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
