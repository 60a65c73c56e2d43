package memcached

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestExpiration(t *testing.T) {
	const second, day = 1_000_000, 24 * 3600 * 1_000_000
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 1000, time.UTC))
	start := int32(now / second)
	for _, tt := range []struct {
		lives strategy.Instant // microseconds
		want  int32
	}{
		{-5, 1},
		{1, 2},
		{second, 2},
		{second + 1, 3},
		{30*day - second, 30 * 24 * 3600},
		{30*day - second + 1, start + 30*24*3600 + 1},
		{30 * day, start + 30*24*3600 + 2},
		{366 * day, start + 366*24*3600 + 2},
		{(math.MaxInt32-1)*second - now, math.MaxInt32},
		{(math.MaxInt32-1)*second - now + 1, 0},
		{300 * 366 * day, 0},
		{math.MaxInt64 / 2, 0},
	} {
		it := &item{counters: []counter{{expires: now - second}, {expires: now + tt.lives}, {expires: now}}}
		if got := it.expiration(now); got != tt.want {
			t.Errorf("for %d µs: %d, want %d", tt.lives, got, tt.want)
		}
	}
	if got := new(item).expiration(now); got >= 0 {
		t.Errorf("without counters: %d, want at once", got)
	}
}

// TestItemIsCompact checks how many bytes counters of each kind take.
func TestItemIsCompact(t *testing.T) {
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := request(t, oneOfEach...)
	it, d := new(item), new(store.Result)
	if !it.decide(&r, d, now, 0) || !d.Allowed {
		t.Fatalf("%+v", d)
	}
	if n := len(it.encode()); n > 40*len(r.Limits) {
		t.Errorf("%d counters take %d bytes, want at most 40 each", len(r.Limits), n)
	}
}

func TestOtherVersionsHoldNothing(t *testing.T) {
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := request(t, oneOfEach...)
	it := new(item)
	it.decide(&r, new(store.Result), now, 0)
	value := it.encode()
	if n := len(parseItem(value, now).counters); n != len(r.Limits) {
		t.Errorf("%d counters were read, want %d", n, len(r.Limits))
	}
	value[0]++
	if n := len(parseItem(value, now).counters); n != 0 {
		t.Errorf("of another version, %d counters were read, want none", n)
	}
}

func TestUnlimitedHasNoCounter(t *testing.T) {
	r := request(t, strategy.Spec{Rate: "unlimited"}, strategy.Spec{Rate: "5/s"}, strategy.Spec{Rate: "unlimited", Name: "x"})
	it, d := new(item), new(store.Result)
	if changed := it.decide(&r, d, 1, 0); !changed || !d.Allowed || len(it.counters) != 1 {
		t.Errorf("%+v: changed %t, %d counters; want 1", d, changed, len(it.counters))
	}
	r.Limits = r.Limits[:1]
	if changed := it.decide(&r, d, 1, 0); changed || !d.Allowed || len(it.counters) != 1 {
		t.Errorf("unlimited alone: %+v: changed %t, %d counters", d, changed, len(it.counters))
	}
}

// TestExpiryStandsStillToo lets the clock step back. What is consumed then counts from the
// latest time that the clock has shown.
func TestExpiryStandsStillToo(t *testing.T) {
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := request(t, strategy.Spec{Rate: "5/h", Strategy: strategy.SlidingWindowLog})
	it, d := new(item), new(store.Result)
	for range 2 {
		it.decide(&r, d, now, 0)
		if got, want := it.counters[0].expires, strategy.InstantOf(time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)); got != want {
			t.Errorf("used at %d, it expires at %d, want %d", now, got, want)
		}
		now -= 60_000_000
	}
}

// FuzzItem reads items from arbitrary bytes. Decisions with them must make sense, and an
// item that was written must read as it was.
func FuzzItem(f *testing.F) {
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	r := request(f, oneOfEach...)
	it := new(item)
	for range 3 {
		f.Add(it.encode())
		it.decide(&r, new(store.Result), now, 0)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		it := parseItem(value, now)
		for range 2 {
			var results [2]store.Result
			changed := it.decide(&r, &results[0], now, time.Hour)
			if results[0].Allowed && !changed { // one that is denied changes what is from the future
				t.Fatalf("%+v: changed %t", results[0], changed)
			}
			read := parseItem(it.encode(), now)
			free := r
			free.Cost = 0
			it.decide(&free, &results[0], now, 0)
			read.decide(&free, &results[1], now, 0)
			if got, want := fmt.Sprint(results[1]), fmt.Sprint(results[0]); got != want {
				t.Fatalf("read again:\n%s, want\n%s", got, want)
			}
			it = read
		}
	})
}
