package memory

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// BenchmarkResident fills stores. It reports how much memory per counter the process really
// has, as the kernel counts it.
func BenchmarkResident(b *testing.B) {
	for _, keys := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			for b.Loop() {
				before := residentBytes(b)
				s := filled(b, keys, nil)
				b.ReportMetric(float64(residentBytes(b)-before)/float64(keys), "resident-B/key")
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTail measures each of many decisions: among few counters, among ten million live
// ones, while the garbage collector runs all the time, while counters expire and are
// swept, and while one snapshot is written after the other.
func BenchmarkTail(b *testing.B) {
	for _, keys := range []int{10_000, 1_000_000, 10_000_000} {
		var expired bool
		s := filled(b, keys, func() strategy.Instant {
			if expired {
				return 2 * 3600_000_000
			}
			return 0
		})
		for _, during := range []string{"quiet", "collecting", "snapshots", "expiring"} {
			b.Run(fmt.Sprintf("%d_keys/%s", keys, during), func(b *testing.B) {
				expired = during == "expiring"
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					if during == "snapshots" {
						s.kept = &keeper{Snapshots: Snapshots{File: filepath.Join(b.TempDir(), "snapshot")}, store: &s.stripes, logger: s.losses.logger}
						defer func() { s.kept = nil }()
					}
					for during == "collecting" || during == "snapshots" {
						select {
						case <-stop:
							return
						default:
						}
						if s.kept != nil {
							s.kept.keep()
						} else {
							runtime.GC()
						}
					}
				}()
				defer func() { close(stop); <-stopped }()
				var took []int64
				requests, results := one(b), make([]store.Result, 1)
				for b.Loop() {
					requests[0].Identifier = "user:" + strconv.Itoa(rand.IntN(keys))
					start := time.Now()
					s.Decide(b.Context(), requests, results)
					took = append(took, time.Since(start).Nanoseconds())
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
				b.ReportMetric(float64(took[len(took)*999/1000]), "p99.9-ns")
				b.ReportMetric(float64(took[len(took)-1]), "max-ns")
			})
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshot writes snapshots of a million counters, to a file and so to the disk, and
// restores them.
func BenchmarkSnapshot(b *testing.B) {
	const keys = 1_000_000
	s := filled(b, keys, func() strategy.Instant { return 0 })
	file := filepath.Join(b.TempDir(), "snapshot")
	k := &keeper{Snapshots: Snapshots{File: file}, store: &s.stripes, logger: s.losses.logger}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			k.keep()
		}
		b.ReportMetric(float64(k.bytes)/keys, "B/key")
	})
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.write(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			after, err := New(Options{MaxKeys: keys*5/4 + 100*DefaultShards, Now: s.now, Shards: DefaultShards})
			if err != nil {
				b.Fatal(err)
			}
			if err := (&keeper{Snapshots: k.Snapshots, store: &after.stripes, logger: s.losses.logger}).restore(); err != nil {
				b.Fatal(err)
			}
			_ = after.Close()
		}
	})
	_ = s.Close()
}

func one(b *testing.B) []store.Request {
	return []store.Request{{Namespace: "checkout", Limits: []strategy.Limit{limit(b, "100/h", strategy.FixedWindow)}, Cost: 1}}
}

// filled returns a store with that many counters.
func filled(b *testing.B, keys int, now func() strategy.Instant) *Store {
	b.Helper()
	s, err := New(Options{MaxKeys: keys*5/4 + 100*DefaultShards, Now: now}) // the shards are not filled alike
	if err != nil {
		b.Fatal(err)
	}
	requests, results := one(b), make([]store.Result, 1)
	for i := range keys {
		requests[0].Identifier = "user:" + strconv.Itoa(i)
		s.Decide(b.Context(), requests, results)
	}
	held := 0
	for i := range s.shards {
		held += s.shards[i].held()
	}
	if held != keys {
		b.Fatalf("%d counters are held, want %d", held, keys)
	}
	return s
}

// residentBytes returns how much memory the process has, after a garbage collection.
func residentBytes(b *testing.B) int {
	b.Helper()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}
