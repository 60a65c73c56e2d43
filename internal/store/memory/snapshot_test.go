package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// snapshotOf returns a snapshot of s.
func snapshotOf(tb rapid.TB, s *Store) []byte {
	tb.Helper()
	var file bytes.Buffer
	if _, err := s.write(&file); err != nil {
		tb.Fatal(err)
	}
	return file.Bytes()
}

// restoredFrom returns a store with what a snapshot has.
func restoredFrom(tb interface {
	rapid.TB
	Cleanup(func())
}, file []byte, o Options, favoured ...string) (*Store, restoration) {
	tb.Helper()
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	s.Favour(favoured)
	found, err := s.read(bytes.NewReader(file))
	if err != nil {
		tb.Fatal(err)
	}
	return s, found
}

// everyLimit returns one limit of each kind of state.
func everyLimit(t *testing.T) []strategy.Limit {
	named := limit(t, "7/min", strategy.TokenBucket)
	named.Name = "named"
	shadow := limit(t, "3/s", strategy.FixedWindow)
	shadow.Shadow = true
	return []strategy.Limit{
		limit(t, "5/10s", strategy.FixedWindow), limit(t, "6/20s", strategy.SlidingWindowCounter), limit(t, "7/30s", strategy.SlidingWindowLog),
		limit(t, "5/15s", strategy.TokenBucket), limit(t, "4/10s", strategy.LeakyBucket), limit(t, "3/s", strategy.GCRA), named, shadow,
		limit(t, "50/month", strategy.FixedWindow),
	}
}

// TestRestoredDecidesAsBefore is the promise of a snapshot: the store that is restored from it
// answers all that comes as the one that it was taken of.
func TestRestoredDecidesAsBefore(t *testing.T) {
	limits := everyLimit(t)
	rapid.Check(t, func(t *rapid.T) {
		now := strategy.Instant(1_767_225_600_000_000)
		o := Options{Now: func() strategy.Instant { return now }, Shards: 1 << rapid.IntRange(0, 6).Draw(t, "log2 shards"), MaxKeys: 100_000}
		before, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer before.Close()
		history := func(n int, stores ...*Store) {
			for range n {
				now += strategy.Instant(rapid.Int64Range(0, 3_000_000).Draw(t, "passed"))
				r := store.Request{
					Namespace:  rapid.SampledFrom([]string{"checkout", "login"}).Draw(t, "namespace"),
					Identifier: fmt.Sprint(rapid.IntRange(1, 4).Draw(t, "identifier")),
					Cost:       rapid.Uint64Range(0, 8).Draw(t, "cost"),
					Mode:       strategy.Mode(rapid.IntRange(0, 2).Draw(t, "mode")),
					DryRun:     rapid.IntRange(0, 4).Draw(t, "dry run") == 0,
				}
				first := rapid.IntRange(0, len(limits)-1).Draw(t, "first limit")
				r.Limits = limits[first:rapid.IntRange(first+1, len(limits)).Draw(t, "end of limits")]
				var want strategy.Decision
				for i, s := range stores {
					results := make([]store.Result, 1)
					s.Decide(nil, []store.Request{r}, results) //nolint:staticcheck // the memory store has no use for a context
					if got := results[0].Decision; i == 0 {
						want = got
					} else if fmt.Sprint(got) != fmt.Sprint(want) {
						t.Fatalf("%+v:\n got %+v\nwant %+v", r, got, want)
					}
				}
			}
		}
		history(rapid.IntRange(0, 60).Draw(t, "before"), before)
		file := snapshotOf(t, before)
		now += strategy.Instant(rapid.Int64Range(0, 30_000_000).Draw(t, "down"))
		o.Shards = 1 << rapid.IntRange(0, 6).Draw(t, "log2 new shards")
		after, _ := restoredFrom(t, file, o)
		checkShares(t, after)
		history(rapid.IntRange(0, 60).Draw(t, "after"), before, after)
		checkShares(t, after)
	})
}

func TestExpiredCountersAreNotRestored(t *testing.T) {
	s, set := newStore(t, Options{})
	set(1_000_000)
	for i := range 100 {
		ask(s, fmt.Sprint("short ", i), 1, limit(t, "2/s", strategy.FixedWindow))
		ask(s, fmt.Sprint("long ", i), 1, limit(t, "2/h", strategy.FixedWindow))
	}
	file := snapshotOf(t, s)
	after, found := restoredFrom(t, file, Options{Now: func() strategy.Instant { return 5_000_000 }})
	if found.counters != 100 || found.expired != 100 || held(after) != 100 {
		t.Errorf("%+v, %d held; want 100 restored and 100 expired", found, held(after))
	}
}

// TestRestoredByAClockThatSteppedBack has the clock of the restored store behind that of the
// snapshot, by less than a period and by ten years.
func TestRestoredByAClockThatSteppedBack(t *testing.T) {
	const second, year = 1_000_000, 366 * 24 * 3600 * 1_000_000
	for _, strat := range strategy.All {
		for _, back := range []strategy.Instant{20 * second, 10 * year} {
			t.Run(fmt.Sprint(strat, " ", back), func(t *testing.T) {
				taken := strategy.Instant(1_767_225_600_000_000)
				s, set := newStore(t, Options{})
				set(taken)
				l := limit(t, "3/min", strat)
				for ask(s, "alice", 1, l).Allowed { // until it is over its limit
				}
				now := taken - back
				after, _ := restoredFrom(t, snapshotOf(t, s), Options{Now: func() strategy.Instant { return now }})
				d := ask(after, "alice", 1, l)
				if d.Allowed || d.RetryAfter <= 0 || d.RetryAfter.Microseconds() > int64(2*60*second+min(back, 60*second)) {
					t.Fatalf("%+v, want denied for no longer than two periods and what the clock stepped back", d)
				}
				now += strategy.Instant(d.RetryAfter.Microseconds()) - 1
				for i := range after.shards { // as the sweeper does
					after.shards[i].lock()
					after.shards[i].expire(1<<20, 1<<20, nil, now)
					after.shards[i].unlock()
				}
				if d := ask(after, "alice", 1, l); d.Allowed {
					t.Errorf("a microsecond before retry_after: %+v", d)
				}
				now++
				if d := ask(after, "alice", 1, l); !d.Allowed {
					t.Errorf("after retry_after: %+v", d)
				}
			})
		}
	}
}

// TestAWrongClockHoldsNoMemory: counters that nobody asks about any more are dropped when
// they would have been, though the clock of the snapshot was ten years ahead.
func TestAWrongClockHoldsNoMemory(t *testing.T) {
	s, set := newStore(t, Options{})
	now := strategy.Instant(1_767_225_600_000_000)
	set(now + 3650*24*3600*1_000_000)
	for i := range 100 {
		ask(s, fmt.Sprint(i), 1, limit(t, "1/min", strategy.TokenBucket))
	}
	after, found := restoredFrom(t, snapshotOf(t, s), Options{Now: func() strategy.Instant { return now }})
	if found.counters != 100 {
		t.Fatalf("%+v, want 100 restored", found)
	}
	now += 61_000_000
	for i := range after.shards {
		after.shards[i].expire(1<<20, 1<<20, nil, now)
	}
	if n := held(after); n > 0 {
		t.Errorf("%d counters are held after a period", n)
	}
}

// TestSharesHoldAfterARestore: namespaces that have a share keep it, beyond the 64 that are
// told apart without one.
func TestSharesHoldAfterARestore(t *testing.T) {
	var favoured []string
	for i := range 100 {
		favoured = append(favoured, fmt.Sprint("namespace ", i))
	}
	s, _ := newStore(t, Options{MaxKeys: 8192, Shards: 4})
	s.Favour(favoured)
	l := limit(t, "1/h", strategy.FixedWindow)
	for _, name := range favoured {
		for i := range 20 {
			askIn(s, name, fmt.Sprint(i), l)
		}
	}
	after, _ := restoredFrom(t, snapshotOf(t, s), Options{MaxKeys: 8192, Shards: 16, Now: s.now}, favoured...)
	checkShares(t, after)
	for i := range 50_000 {
		askIn(after, favoured[i%2], fmt.Sprint("flood ", i), l)
	}
	for _, name := range favoured[2:] {
		for i := range 20 {
			if askIn(after, name, fmt.Sprint(i), l) {
				t.Fatalf("identifier %d of %s, which was denied, is allowed", i, name)
			}
		}
	}
	checkShares(t, after)
}

// TestRestoreIntoLessRoom evicts as ever: the denied ones last.
func TestRestoreIntoLessRoom(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 4096, Shards: 1, MaxLogCount: 1000})
	l, log := limit(t, "2/h", strategy.FixedWindow), limit(t, "1000/h", strategy.SlidingWindowLog)
	for i := range 1000 {
		ask(s, fmt.Sprint("open ", i), 1, l)
	}
	for i := range 200 {
		ask(s, fmt.Sprint("shut ", i), 2, l)
	}
	for i := range 16 {
		for range 1000 {
			ask(s, fmt.Sprint("log ", i), 1, log)
		}
	}
	after, found := restoredFrom(t, snapshotOf(t, s), Options{MaxKeys: 512, Shards: 1, MaxLogCount: 1000, Now: s.now})
	if found.counters != 1216 || held(after) > 512 || after.logEntries.Load() > after.maxLogEntries {
		t.Errorf("%+v: %d held, and logs of %d entries; want no more than 512 and %d", found, held(after), after.logEntries.Load(), after.maxLogEntries)
	}
	for i := range 200 {
		if ask(after, fmt.Sprint("shut ", i), 1, l).Allowed {
			t.Errorf("identifier %d, which was denied, is allowed", i)
		}
	}
	checkShares(t, after)
}

// TestSnapshotWhileDeciding takes snapshots while callers make, fill, reset and drop counters.
// What is restored is between what was counted before and after the snapshot.
func TestSnapshotWhileDeciding(t *testing.T) {
	s, _ := newStore(t, Options{Shards: 4, MaxKeys: 100_000})
	l, log := limit(t, "1000000/h", strategy.FixedWindow), limit(t, "9000/h", strategy.SlidingWindowLog)
	const callers, each = 4, 500
	done := make(chan struct{})
	var asking sync.WaitGroup
	for c := range callers {
		asking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				ask(s, fmt.Sprint(c, " ", i%each), 1, l, log)
				ask(s, fmt.Sprint("come and go ", c, i%8), 1, l)
				r := store.Request{Namespace: "test", Identifier: fmt.Sprint("come and go ", c, (i+3)%8), Limits: []strategy.Limit{l}}
				_ = s.Reset(t.Context(), &r)
			}
		})
	}
	used := func(s *Store, id string, l strategy.Limit) uint64 {
		st := ask(s, id, 0, l).Statuses[0]
		return st.Limit - st.Remaining
	}
	for range 5 {
		var before [callers][each]uint64
		for c := range callers {
			for i := range each {
				before[c][i] = used(s, fmt.Sprint(c, " ", i), l)
			}
		}
		file := snapshotOf(t, s)
		after, _ := restoredFrom(t, file, Options{Shards: 2, Now: s.now})
		checkShares(t, after)
		for c := range callers {
			for i := range each {
				id := fmt.Sprint(c, " ", i)
				got, gotLog, later := used(after, id, l), used(after, id, log), used(s, id, l)
				if got < before[c][i] || got > later || gotLog < min(9000, before[c][i]) || gotLog > later {
					t.Fatalf("%s: %d used, and %d of the log; want %d to %d", id, got, gotLog, before[c][i], later)
				}
			}
		}
	}
	close(done)
	asking.Wait()
}

// aFile returns a small snapshot with all that there can be in one.
func aFile(tb testing.TB) []byte {
	s, set := newStore(tb, Options{Shards: 2})
	set(1_767_225_600_000_000)
	for i := range 5 {
		ask(s, fmt.Sprint(i), 1, limit(tb, "2/h", strategy.FixedWindow), limit(tb, "2/h", strategy.SlidingWindowLog))
	}
	ask(s, "0", 1, limit(tb, "2/h", strategy.FixedWindow))
	for i := range 70 {
		askIn(s, fmt.Sprint("namespace ", i), "x", limit(tb, "2/h", strategy.GCRA))
	}
	if _, err := s.Agree(tb.Context(), "name", []byte("value")); err != nil {
		tb.Fatal(err)
	}
	return snapshotOf(tb, s)
}

func TestBadSnapshotsAreRefused(t *testing.T) {
	good := aFile(t)
	refused := func(what string, file []byte, want error) {
		t.Helper()
		s, _ := newStore(t, Options{Shards: 2, MaxKeys: 256})
		_, err := s.read(bytes.NewReader(file))
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		s.clear()
		if held(s) != 0 || s.logEntries.Load() != 0 || !ask(s, "0", 2, limit(t, "2/h", strategy.FixedWindow)).Allowed {
			t.Errorf("%s: the store is not empty", what)
		}
		_ = s.Close()
	}
	for n := range good {
		want := errTorn
		if n < len(magic)+4 {
			want = errForeign
		}
		refused(fmt.Sprint("the first ", n, " bytes"), good[:n], want)
		flipped := bytes.Clone(good)
		flipped[n] ^= 1 << (n % 8)
		if n < 64 || n%3 == 0 {
			refused(fmt.Sprint("a bit of byte ", n), flipped, nil)
		}
	}
	refused("more at its end", append(bytes.Clone(good), 0), errNoSense)
	refused("a text", []byte("namespaces:\n  checkout: {}\n"), errForeign)
	newer := bytes.Clone(good)
	binary.LittleEndian.PutUint32(newer[len(magic):], 7)
	refused("a newer one", newer, newerError(7))
	if text := newerError(7).Error(); !strings.Contains(text, "version 7") {
		t.Error(text)
	}
}

// FuzzSnapshot puts together what checksums find nothing wrong with.
func FuzzSnapshot(f *testing.F) {
	good := aFile(f)
	body := good[len(magic)+4:]
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		file := append([]byte(magic), version, 0, 0, 0)
		for sum := uint32(0); len(body) >= 8; {
			n := min(int(binary.LittleEndian.Uint32(body)), len(body)-8)
			if n < 0 {
				break
			}
			frame := binary.LittleEndian.AppendUint32(nil, uint32(n))
			frame = append(frame, body[4:4+n]...)
			sum = crc32.Update(sum, castagnoli, frame)
			file = binary.LittleEndian.AppendUint32(append(file, frame...), sum)
			body = body[n+8:]
		}
		s, _ := newStore(t, Options{Shards: 2, MaxKeys: 64, MaxLogCount: 4})
		_, err := s.read(bytes.NewReader(file))
		checkShares(t, s)
		for _, l := range []strategy.Limit{limit(t, "2/h", strategy.FixedWindow), limit(t, "2/h", strategy.SlidingWindowLog), limit(t, "2/h", strategy.GCRA)} {
			ask(s, "0", 1, l)
		}
		if err != nil {
			s.clear()
			if held(s) != 0 {
				t.Errorf("%d counters after %v", held(s), err)
			}
		}
		checkShares(t, s)
		_ = s.Close()
	})
}
