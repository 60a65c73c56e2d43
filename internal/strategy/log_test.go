package strategy

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/rate"
)

// logLimit returns a SLIDING_WINDOW_LOG of n per 100 µs: shorter than a real
// one, so that entries come and go within a few steps.
func logLimit(n int64) *Limit {
	return &Limit{Strategy: SlidingWindowLog, Rate: rate.Rate{Count: n, Period: 100 * time.Microsecond}, Capacity: n}
}

func TestLogStepByStep(t *testing.T) {
	l := logLimit(10)
	var g Log
	view := func(cost uint64, now Instant, want State) {
		t.Helper()
		if got := g.View(l, Ask{Cost: cost, Now: now}); got != want {
			t.Errorf("View of %d at %d: %+v, want %+v", cost, now, got, want)
		}
	}
	view(1, 5, State{})
	g.Add(l, 4, 10)
	g.Add(l, 3, 20)
	g.Add(l, 2, 50)
	view(1, 60, State{Last: 50, Used: 9}) // there is room
	view(2, 60, State{Last: 50, Used: 9, Part: 110})
	view(5, 60, State{Last: 50, Used: 9, Part: 110})
	view(6, 60, State{Last: 50, Used: 9, Part: 120})
	view(8, 60, State{Last: 50, Used: 9, Part: 120})
	view(9, 60, State{Last: 50, Used: 9, Part: 150})
	view(10, 60, State{Last: 50, Used: 9, Part: 150})
	view(11, 60, State{Last: 50, Used: 9}) // no wait suffices
	view(math.MaxUint64, 60, State{Last: 50, Used: 9})
	view(2, 109, State{Last: 50, Used: 9, Part: 110})
	view(2, 110, State{Last: 50, Used: 5})
	view(2, 0, State{Last: 50, Used: 9, Part: 110}) // the clock stepped back
	view(2, 149, State{Last: 50, Used: 2})
	view(2, 150, State{Last: 50})

	// At 50, the latest that the clock has shown, the first is older than 40.
	l.Rate.Period = 40 * time.Microsecond
	view(6, 50, State{Last: 50, Used: 5, Part: 60})
	view(6, 30, State{Last: 50, Used: 5, Part: 60})
}

// A Log shows the same as a list of all that was ever consumed, whatever has happened to its
// ring before. It never has much more room than it needs.
func TestLogAgreesWithASlice(t *testing.T) {
	type entry struct {
		at    Instant
		units uint64
	}
	rapid.Check(t, func(t *rapid.T) {
		l := logLimit(rapid.Int64Range(1, 40).Draw(t, "n"))
		g := Log{before: rapid.SampledFrom([]uint64{0, math.MaxUint64 - 20}).Draw(t, "before")} // totals wrap around
		var all []entry
		usedAt := func(now Instant) (used uint64) {
			for _, e := range all {
				if now-e.at < 100 {
					used += e.units
				}
			}
			return used
		}

		var now Instant
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			now += Instant(rapid.OneOf(rapid.IntRange(0, 5), rapid.IntRange(0, 120)).Draw(t, "gap"))
			cost := rapid.Uint64Range(1, uint64(min(l.Capacity, rapid.Int64Range(1, 40).Draw(t, "most")))).Draw(t, "cost")
			used := usedAt(now)
			want := State{Used: int64(used)}
			if len(all) > 0 {
				want.Last = all[len(all)-1].at
			}
			over := used+cost > uint64(l.Capacity)
			if over {
				then := now
				for usedAt(then)+cost > uint64(l.Capacity) {
					then++
				}
				want.Part = int64(then)
			}
			if got := g.View(l, Ask{Cost: cost, Now: now}); got != want {
				t.Fatalf("View of %d at %d: %+v, want %+v", cost, now, got, want)
			}
			if !over {
				g.Add(l, cost, now)
				all = append(all, entry{now, cost})
			}
			if most := max(4, 2*l.Capacity-1); int64(g.Size()) > most {
				t.Fatalf("a log of up to %d entries has room for %d", l.Capacity, g.Size())
			}
		}
	})
}

// All that is consumed at one instant is one entry. What is consumed after the clock has
// stepped back is added to that entry.
func TestLogMergesAnInstant(t *testing.T) {
	l := logLimit(1000)
	var g Log
	if g.Size() != 0 {
		t.Errorf("an empty log has room for %d", g.Size())
	}
	for i := range Instant(500) {
		g.Add(l, 1, 1000-i)
	}
	if s := g.View(l, Ask{Cost: 1, Now: 0}); g.length != 1 || s != (State{Last: 1000, Used: 500}) {
		t.Errorf("500 units of one instant: %d entries, %+v", g.length, s)
	}
	g.Add(l, 500, 1001)
	if s := g.View(l, Ask{Cost: 501, Now: 1001}); g.length != 2 || s != (State{Last: 1001, Used: 1000, Part: 1101}) {
		t.Errorf("and 500 of another: %d entries, %+v", g.length, s)
	}
	if s := g.View(l, Ask{Cost: 500, Now: 1001}); s.Part != 1100 {
		t.Errorf("and 500 of another: %+v", s)
	}
}

func TestLogGrowsAsItNeeds(t *testing.T) {
	l := logLimit(1000)
	var g Log
	sizes := map[int]int{1: 4, 4: 4, 5: 8, 8: 8, 9: 16, 16: 16, 17: 32, 100: 128}
	for i := range 1000 {
		g.Add(l, 1, Instant(i)) // of which 100 are young
		if want, ok := sizes[i+1]; ok && g.Size() != want {
			t.Errorf("after %d entries: room for %d, want %d", i+1, g.Size(), want)
		}
	}
	if g.Size() != 128 {
		t.Errorf("after 1000 entries: room for %d, want 128", g.Size())
	}
}
