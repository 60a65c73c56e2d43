package memory

import (
	"fmt"
	"math/rand/v2"
	"os"
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
// ones, while the garbage collector runs all the time, and while counters expire and are
// swept.
func BenchmarkTail(b *testing.B) {
	for _, keys := range []int{10_000, 10_000_000} {
		var expired bool
		s := filled(b, keys, func() strategy.Instant {
			if expired {
				return 2 * 3600_000_000
			}
			return 0
		})
		for _, during := range []string{"quiet", "collecting", "expiring"} {
			b.Run(fmt.Sprintf("%d_keys/%s", keys, during), func(b *testing.B) {
				expired = during == "expiring"
				stop, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for during == "collecting" {
						select {
						case <-stop:
							return
						default:
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
			})
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
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
