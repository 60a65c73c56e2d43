package permitted

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func newLimit(t interface{ Fatal(...any) }, s strategy.Strategy, rate string, burst uint64) strategy.Limit {
	l, wrong := strategy.NewLimit(strategy.Spec{Rate: rate, Strategy: s, Burst: burst}, strategy.DefaultMaxLogCount)
	if wrong != nil {
		t.Fatal(wrong)
	}
	return l
}

// counter asks a real store, at times that the test sets.
type counter struct {
	now   atomic.Int64 // a strategy.Instant; the store reads it at times of its own too
	store *memory.Store
	limit []strategy.Limit
}

func newCounter(t interface{ Fatal(...any) }, l strategy.Limit) *counter {
	c := &counter{limit: []strategy.Limit{l}}
	var err error
	if c.store, err = memory.New(memory.Options{Now: func() strategy.Instant { return strategy.Instant(c.now.Load()) }}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *counter) allows(cost uint64) bool {
	var result [1]store.Result
	c.store.Decide(context.Background(), []store.Request{{Namespace: "n", Identifier: "i", Limits: c.limit, Cost: cost}}, result[:])
	return result[0].Err == nil && result[0].Allowed
}

// TestNeverMore asks at random times and checks every interval against the bound.
func TestNeverMore(t *testing.T) {
	for _, s := range strategy.All {
		t.Run(s.String(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				count := rapid.IntRange(0, 12).Draw(t, "count")
				var burst uint64
				if s == strategy.TokenBucket || s == strategy.LeakyBucket || s == strategy.GCRA {
					burst = rapid.Uint64Range(0, 12).Draw(t, "burst")
				}
				l := newLimit(t, s, fmt.Sprintf("%d/10ms", count), burst)
				c := newCounter(t, l)
				defer c.store.Close()
				c.now.Store(rapid.Int64Range(1_000_000, 1_010_000).Draw(t, "start"))
				type use struct {
					at   strategy.Instant
					cost uint64
				}
				var uses []use
				for _, gap := range rapid.SliceOfN(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 900), rapid.Int64Range(0, 15_000)), 1, 60).Draw(t, "gaps") {
					c.now.Add(gap)
					cost := rapid.Uint64Range(1, 4).Draw(t, "cost")
					if c.allows(cost) {
						uses = append(uses, use{strategy.Instant(c.now.Load()), cost})
					}
				}
				for i := range uses {
					sum := uint64(0)
					for _, u := range uses[i:] {
						sum += u.cost
						if d := time.Duration(u.at-uses[i].at) * time.Microsecond; sum > Most(&l, d) {
							t.Fatalf("%d units in %v of %v, the bound is %d", sum, d, l, Most(&l, d))
						}
					}
				}
			})
		})
	}
}

// TestReached asks for as much as possible, starting just before the end of a window. It must get
// within a unit or two of the bound, so the bound is not wider than necessary.
func TestReached(t *testing.T) {
	for _, s := range strategy.All {
		for _, tail := range []strategy.Instant{0, 4, 3_000, 9_990, 10_000, 25_000} {
			l := newLimit(t, s, "10/10ms", 0)
			c := newCounter(t, l)
			const start = 1_000_000 - 1
			sum := uint64(0)
			for now := strategy.Instant(start); now <= start+tail; now++ {
				c.now.Store(int64(now))
				for c.allows(1) {
					sum++
				}
			}
			if most := Most(&l, time.Duration(tail)*time.Microsecond); sum > most || most-sum > 2 && tail > 0 && s != strategy.FixedWindow {
				t.Errorf("%v allows %d in %d µs, the bound is %d", s, sum, tail, most)
			}
			c.store.Close()
		}
	}
}

func TestMost(t *testing.T) {
	for _, tt := range []struct {
		strategy strategy.Strategy
		rate     string
		burst    uint64
		d        time.Duration
		want     uint64
	}{
		{strategy.FixedWindow, "100/min", 0, 10 * time.Second, 200},
		{strategy.FixedWindow, "100/min", 0, time.Minute, 300}, // with the microsecond of the clock
		{strategy.SlidingWindowCounter, "100/min", 0, 59999 * time.Millisecond, 199},
		{strategy.SlidingWindowLog, "3/10s", 0, 9 * time.Second, 3},
		{strategy.SlidingWindowLog, "3/10s", 0, 10 * time.Second, 6},
		{strategy.TokenBucket, "10/s", 20, time.Second, 30},
		{strategy.LeakyBucket, "10/s", 0, time.Second, 20},
		{strategy.GCRA, "10/s", 0, time.Second, 11},
		{strategy.TokenBucket, "0/s", 20, time.Hour, 0},
	} {
		l := newLimit(t, tt.strategy, tt.rate, tt.burst)
		if got := Most(&l, tt.d); got != tt.want {
			t.Errorf("%v of %s with burst %d in %v: %d, want %d", tt.strategy, tt.rate, tt.burst, tt.d, got, tt.want)
		}
	}
}
