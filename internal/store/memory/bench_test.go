package memory

import (
	"fmt"
	"hash/maphash"
	"math/rand"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// BenchmarkDecide measures one decision among 100,000 identifiers, with the time as an
// argument. The baseline is the least that a program could do instead: a fixed window of
// one limit, in Go maps with as many locks. Both get each identifier as a server does, in
// a buffer that was just written. The time of one reading of the clock is measured too,
// to compare machines.
func BenchmarkDecide(b *testing.B) {
	const identifiers = 100_000
	b.Run("clock", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for start := time.Now(); pb.Next(); {
				_ = time.Since(start)
			}
		})
	})
	orders := map[string]func(*rand.Rand) func() int{
		"uniform": func(r *rand.Rand) func() int { return func() int { return r.Intn(identifiers) } },
		"zipf": func(r *rand.Rand) func() int {
			z := rand.NewZipf(r, 1.1, 1, identifiers-1)
			return func() int { return int(z.Uint64()) }
		},
	}
	for _, order := range []string{"uniform", "zipf"} {
		for _, strat := range strategy.All {
			b.Run(fmt.Sprintf("%s/%s", order, strat), func(b *testing.B) {
				benchmark(b, orders[order], []strategy.Limit{limit(b, "100/min", strat)})
			})
		}
	}
	for _, order := range []string{"uniform", "zipf"} {
		b.Run(order+"/batch", func(b *testing.B) { batches(b, orders[order]) })
		b.Run(order+"/baseline", func(b *testing.B) { baseline(b, orders[order]) })
	}
	b.Run("uniform/fixed_window_10ms", func(b *testing.B) {
		benchmark(b, orders["uniform"], []strategy.Limit{limit(b, "100/10ms", strategy.FixedWindow)})
	})
	// GCRA with the burst of token_bucket: the two are one meter, so this is to be held against that.
	spaced, wrong := strategy.NewLimit(strategy.Spec{Rate: "100/min", Strategy: strategy.GCRA, Burst: 100}, strategy.DefaultMaxLogCount)
	if wrong != nil {
		b.Fatal(wrong)
	}
	b.Run("uniform/gcra_burst_100", func(b *testing.B) { benchmark(b, orders["uniform"], []strategy.Limit{spaced}) })
	three := []strategy.Limit{limit(b, "100/s", strategy.TokenBucket), limit(b, "1000/min", strategy.FixedWindow), limit(b, "100000/day", strategy.FixedWindow)}
	b.Run("uniform/three_limits", func(b *testing.B) { benchmark(b, orders["uniform"], three) })
	b.Run("uniform/three_limits_apart", func(b *testing.B) { benchmark(b, orders["uniform"], three[:1], three[1:2], three[2:]) })
}

// benchmark asks about each identifier with each of limits, one after the other.
func benchmark(b *testing.B, order func(*rand.Rand) func() int, limits ...[]strategy.Limit) {
	s, err := New(Options{Now: func() strategy.Instant { return 0 }})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		drawn := draws(order)
		request := store.Request{Namespace: "checkout", Cost: 1}
		var result store.Result
		now := strategy.Instant(1_700_000_000_000_000)
		buffer := []byte("user:")
		for i := 0; pb.Next(); i++ {
			buffer = strconv.AppendInt(buffer[:len("user:")], int64(drawn[i&(len(drawn)-1)]), 10)
			request.Identifier = unsafe.String(&buffer[0], len(buffer))
			for _, request.Limits = range limits {
				s.decide(&request, &result, now+strategy.Instant(i))
			}
		}
	})
}

// batches asks for a hundred decisions at once.
func batches(b *testing.B, order func(*rand.Rand) func() int) {
	s, err := New(Options{Now: func() strategy.Instant { return 1_700_000_000_000_000 }})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	limits := []strategy.Limit{limit(b, "100/min", strategy.FixedWindow)}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		drawn := draws(order)
		var requests [100]store.Request
		var results [100]store.Result
		var buffers [100][]byte
		for i := range requests {
			requests[i] = store.Request{Namespace: "checkout", Limits: limits, Cost: 1}
			buffers[i] = []byte("user:")
		}
		for i, n := 0, 0; pb.Next(); i++ {
			buffer := strconv.AppendInt(buffers[n][:len("user:")], int64(drawn[i&(len(drawn)-1)]), 10)
			buffers[n], requests[n].Identifier = buffer, unsafe.String(&buffer[0], len(buffer))
			if n++; n == len(requests) {
				s.Decide(b.Context(), requests[:], results[:])
				n = 0
			}
		}
	})
}

func baseline(b *testing.B, order func(*rand.Rand) func() int) {
	type stripe struct {
		mu   sync.Mutex
		used map[[2]string]struct{ window, used int64 }
		_    [64]byte
	}
	var stripes [DefaultShards]stripe
	for i := range stripes {
		stripes[i].used = map[[2]string]struct{ window, used int64 }{}
	}
	seed := maphash.MakeSeed()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		drawn := draws(order)
		now, allowed := int64(1_700_000_000_000_000), 0
		buffer := []byte("user:")
		for i := 0; pb.Next(); i++ {
			buffer = strconv.AppendInt(buffer[:len("user:")], int64(drawn[i&(len(drawn)-1)]), 10)
			key := [2]string{"checkout", unsafe.String(&buffer[0], len(buffer))}
			s := &stripes[maphash.String(seed, key[1])%DefaultShards]
			s.mu.Lock()
			c, held := s.used[key]
			if !held {
				key[1] = strings.Clone(key[1])
			}
			if window := (now + int64(i)) / 60_000_000; c.window != window {
				c.window, c.used = window, 0
			}
			if c.used < 100 {
				c.used++
				allowed++
				s.used[key] = c
			}
			s.mu.Unlock()
		}
	})
}

// draws returns identifiers in the order in which the benchmarks ask about them.
func draws(order func(*rand.Rand) func() int) []int {
	draw := order(rand.New(rand.NewSource(rand.Int63())))
	drawn := make([]int, 1<<16)
	for i := range drawn {
		drawn[i] = draw()
	}
	return drawn
}

func limit(tb testing.TB, rate string, s strategy.Strategy) strategy.Limit {
	tb.Helper()
	l, wrong := strategy.NewLimit(strategy.Spec{Rate: rate, Strategy: s}, strategy.DefaultMaxLogCount)
	if wrong != nil {
		tb.Fatal(wrong)
	}
	return l
}

// BenchmarkShards decides about 100,000 identifiers on all processors, in stores with
// different numbers of shards. It reports for what share of the locks they had to wait.
func BenchmarkShards(b *testing.B) {
	limits := []strategy.Limit{limit(b, "100/min", strategy.FixedWindow)}
	uniform := func(r *rand.Rand) func() int { return func() int { return r.Intn(100_000) } }
	for shards := 1; shards <= DefaultShards; shards *= 2 {
		b.Run(strconv.Itoa(shards), func(b *testing.B) {
			s, err := New(Options{Shards: shards, Now: func() strategy.Instant { return 0 }})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.RunParallel(func(pb *testing.PB) {
				drawn := draws(uniform)
				request := store.Request{Namespace: "checkout", Limits: limits, Cost: 1}
				var result store.Result
				buffer := []byte("user:")
				for i := 0; pb.Next(); i++ {
					buffer = strconv.AppendInt(buffer[:len("user:")], int64(drawn[i&(len(drawn)-1)]), 10)
					request.Identifier = unsafe.String(&buffer[0], len(buffer))
					s.decide(&request, &result, strategy.Instant(i))
				}
			})
			var acquired, contended uint64
			for i := range s.shards {
				acquired += s.shards[i].acquired
				contended += s.shards[i].contended
			}
			b.ReportMetric(100*float64(contended)/float64(acquired), "%contended")
		})
	}
}

// BenchmarkFlood decides about ever new identifiers in a store that is full: each decision
// evicts a counter. Those that are there have allowed more, or deny; or they are of many
// namespaces.
func BenchmarkFlood(b *testing.B) {
	for name, bench := range map[string]struct {
		rate       string
		namespaces int
	}{"open": {"100/h", 1}, "shut": {"1/30d", 1}, "50_namespaces": {"1/30d", 50}} {
		b.Run(name, func(b *testing.B) {
			s, err := New(Options{MaxKeys: 100_000, Now: func() strategy.Instant { return 0 }})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			names := make([]string, bench.namespaces)
			for i := range names {
				names[i] = fmt.Sprint("namespace ", i)
			}
			request := store.Request{Limits: []strategy.Limit{limit(b, bench.rate, strategy.FixedWindow)}, Cost: 1}
			var result store.Result
			buffer := []byte("user:")
			n := 0
			ask := func() {
				n++
				buffer = strconv.AppendInt(buffer[:len("user:")], int64(n), 10)
				request.Namespace, request.Identifier = names[n%len(names)], unsafe.String(&buffer[0], len(buffer))
				s.decide(&request, &result, 1_700_000_000_000_000)
			}
			for range 150_000 {
				ask()
			}
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}
