package memory

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// kept returns a store that keeps its counters in file, and its log.
func kept(t *testing.T, file string) (*Store, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	s, err := New(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Keep(Snapshots{File: file, Interval: time.Hour}); err != nil {
		t.Fatal(err)
	}
	return s, &log
}

func TestKeep(t *testing.T) {
	file := filepath.Join(t.TempDir(), "counters")
	l := limit(t, "2/366d", strategy.TokenBucket)
	s, log := kept(t, file)
	if !strings.Contains(log.String(), "there is no snapshot of the counters yet") {
		t.Error(log)
	}
	ask(s, "alice", 2, l)
	if _, err := s.Agree(t.Context(), "name", []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, file + lockSuffix} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want mode 0600", name, info, err)
		}
	}

	s, log = kept(t, file)
	if !strings.Contains(log.String(), "the counters of a snapshot are restored") || !strings.Contains(log.String(), "counters=1") {
		t.Error(log)
	}
	if ask(s, "alice", 1, l).Allowed {
		t.Error("alice, who was denied, is allowed after a restart")
	}
	if value, err := s.Agree(t.Context(), "name", []byte("second")); err != nil || string(value) != "first" {
		t.Errorf("agreed on %q, %v; want what was agreed on before", value, err)
	}
	_ = s.Close()
	if left, _ := filepath.Glob(file + "*"); len(left) != 2 {
		t.Errorf("the files are %v", left)
	}
}

func TestKeepSetsAsideWhatItCannotUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "counters")
	l := limit(t, "2/366d", strategy.TokenBucket)
	s, _ := kept(t, file)
	ask(s, "alice", 2, l)
	_ = s.Close()
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	corrupt := bytes.Clone(good)
	corrupt[len(corrupt)-1] ^= 4 // in a checksum: elsewhere it may be a length, and the file then torn
	newer := bytes.Clone(good)
	newer[len(magic)] = 2
	for _, tt := range []struct {
		what    string
		file    []byte
		because string
	}{
		{"torn", good[:len(good)-1], errTorn.Error()},
		{"empty", nil, errForeign.Error()},
		{"foreign", []byte("#!/bin/sh\n"), errForeign.Error()},
		{"newer", newer, "it is of version 2, and this program knows version 1 alone"},
		{"corrupt", corrupt, errCorrupt.Error()},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if err := os.WriteFile(file, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			s, log := kept(t, file)
			if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, tt.because) || !strings.Contains(text, file+refusedSuffix) {
				t.Error(text)
			}
			if !ask(s, "alice", 2, l).Allowed {
				t.Error("the store is not empty")
			}
			if aside, err := os.ReadFile(file + refusedSuffix); err != nil || !bytes.Equal(aside, tt.file) {
				t.Errorf("what is set aside is not the file: %v", err)
			}
			_ = s.Close()
			s, _ = kept(t, file)
			if ask(s, "alice", 1, l).Allowed {
				t.Error("the next start forgets")
			}
			_ = s.Close()
		})
	}
}

func TestKeepRefuses(t *testing.T) {
	dir := t.TempDir()
	used, folder := filepath.Join(dir, "used"), filepath.Join(dir, "folder")
	kept(t, used)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ file, want string }{
		{used, "another process keeps its counters in"},
		{folder, "no regular file"},
		{filepath.Join(dir, "nowhere", "counters"), "create that folder and let this process write there"},
	} {
		s, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Keep(Snapshots{File: tt.file}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.file, err, tt.want)
		}
		_ = s.Close()
	}
}

// TestAFailedSnapshotKeepsTheLast: the file that is being written cannot be made.
func TestAFailedSnapshotKeepsTheLast(t *testing.T) {
	file := filepath.Join(t.TempDir(), "counters")
	l := limit(t, "10/366d", strategy.TokenBucket)
	s, log := kept(t, file)
	ask(s, "alice", 2, l)
	s.kept.keep()
	if err := os.MkdirAll(filepath.Join(file+writingSuffix, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	ask(s, "alice", 2, l)
	s.kept.keep()
	if err := testutil.CollectAndCompare(s.Collector(), strings.NewReader(`# HELP ratelimitd_memory_snapshot_failures_total Snapshots of the counters that could not be written.
# TYPE ratelimitd_memory_snapshot_failures_total counter
ratelimitd_memory_snapshot_failures_total 1
`), "ratelimitd_memory_snapshot_failures_total"); err != nil {
		t.Error(err)
	}
	_ = s.Close() // which fails as well
	if text := log.String(); strings.Count(text, "no snapshot of the counters could be written") != 2 {
		t.Error(text)
	}
	if err := os.RemoveAll(file + writingSuffix); err != nil {
		t.Fatal(err)
	}
	s, _ = kept(t, file)
	if left := ask(s, "alice", 0, l).Statuses[0].Remaining; left != 8 {
		t.Errorf("%d left, want the 8 of the last complete snapshot", left)
	}
	_ = s.Close()
}

// TestSnapshotSlices: no slice of a snapshot, for which a shard is locked, has more than
// sliceCounters counters, or more bytes than sliceBytes and one counter.
func TestSnapshotSlices(t *testing.T) {
	s, set := newStore(t, Options{Shards: 1, MaxKeys: 10_000, MaxLogCount: 1000})
	for i := range 2000 {
		ask(s, fmt.Sprint(i), 1, limit(t, "10/h", strategy.FixedWindow))
	}
	log := limit(t, "1000/h", strategy.SlidingWindowLog)
	for i := range 20_000 {
		set(strategy.Instant(i * 1000))
		ask(s, fmt.Sprint("log ", i%20), 1, log)
	}
	w := frameWriter{groups: map[groupName]uint64{}}
	const oneLog = 2 * 1000 * 8
	slices := 0
	for n, more := uint32(0), true; more; slices++ {
		w.begin(counterFrame)
		before := w.counters
		n, more = s.shards[0].appendSlice(&w, n, s.now())
		if len(w.frame) > sliceBytes+oneLog || w.counters-before > sliceCounters {
			t.Errorf("a slice of %d bytes and %d counters", len(w.frame), w.counters-before)
		}
	}
	if w.counters != 2020 || slices < 9 {
		t.Errorf("%d counters in %d slices", w.counters, slices)
	}
}
