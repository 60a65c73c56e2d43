package strategy_test

import (
	"bytes"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A log that was written and read again shows the same as before, goes on as it would have,
// and is written in the same form.
func TestLogIsReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &strategy.Limit{Strategy: strategy.SlidingWindowLog, Rate: rate.Rate{Count: 1000, Period: 100 * time.Microsecond}, Capacity: 1000}
		var g strategy.Log
		now := strategy.Instant(rapid.Int64Range(0, math.MaxInt64-20_000).Draw(t, "start"))
		for range rapid.IntRange(0, 100).Draw(t, "requests") {
			now += strategy.Instant(rapid.Int64Range(0, 200).Draw(t, "gap"))
			cost := rapid.Uint64Range(1, 1000).Draw(t, "cost")
			g.Add(l, cost, now)

			written := g.Append([]byte("before"))
			var read strategy.Log
			if err := read.Parse(bytes.TrimPrefix(written, []byte("before"))); err != nil {
				t.Fatal(err)
			}
			if got, want := read.View(l, strategy.Ask{Cost: 1000, Now: now}), g.View(l, strategy.Ask{Cost: 1000, Now: now}); got != want {
				t.Fatalf("read: %+v, want %+v", got, want)
			}
			if again := read.Append([]byte("before")); !bytes.Equal(again, written) {
				t.Fatalf("written again: %x, want %x", again, written)
			}
			if rapid.Bool().Draw(t, "go on with what was read") {
				g = read
			}
		}
	})
}

func TestLogParseRefuses(t *testing.T) {
	l := &strategy.Limit{Strategy: strategy.SlidingWindowLog, Rate: rate.Rate{Count: 10, Period: time.Second}, Capacity: 10}
	far := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f} // the last Instant there is
	for name, b := range map[string][]byte{
		"half an entry":     {5},
		"an unfinished gap": {5, 1, 0x80},
		"unfinished units":  {5, 0x80},
		"beyond time":       append(append([]byte{}, far...), 1, 1, 1),
		"too long a number": append(append([]byte{0xff}, far...), 0xff, 0x7f, 1),
	} {
		var g strategy.Log
		g.Add(l, 1, 1)
		if err := g.Parse(b); err == nil {
			t.Errorf("%s: %x is read", name, b)
		}
		if s := g.View(l, strategy.Ask{Cost: 1, Now: 1}); s != (strategy.State{}) {
			t.Errorf("%s: the log is left with %+v, want it empty", name, s)
		}
	}
	var g strategy.Log
	if err := g.Parse(append(far, 3)); err != nil {
		t.Error(err)
	}
	if s := g.View(l, strategy.Ask{Cost: 1, Now: math.MaxInt64}); s != (strategy.State{Last: math.MaxInt64, Used: 3}) {
		t.Errorf("at the end of time: %+v", s)
	}
}
