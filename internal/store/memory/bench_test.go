package memory

import (
	"fmt"
	"hash/maphash"
	"math/rand"
	"sync"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// BenchmarkDecide times one decision with the clock passed in, on 100k
// identifiers; and, as the baseline, the least that a program could do in its
// place: a fixed window of one limit, in Go maps under as many locks.
func BenchmarkDecide(b *testing.B) {
	const identifiers = 100_000
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
				benchmark(b, identifiers, orders[order], []strategy.Limit{limit(b, "100/min", strat)})
			})
		}
	}
	for _, order := range []string{"uniform", "zipf"} {
		b.Run(order+"/baseline", func(b *testing.B) { baseline(b, identifiers, orders[order]) })
	}
	b.Run("uniform/fixed_window_10ms", func(b *testing.B) {
		benchmark(b, identifiers, orders["uniform"], []strategy.Limit{limit(b, "100/10ms", strategy.FixedWindow)})
	})
	b.Run("uniform/three_limits", func(b *testing.B) {
		benchmark(b, identifiers, orders["uniform"], []strategy.Limit{
			limit(b, "100/s", strategy.TokenBucket), limit(b, "1000/min", strategy.FixedWindow), limit(b, "100000/day", strategy.FixedWindow),
		})
	})
}

func benchmark(b *testing.B, identifiers int, order func(*rand.Rand) func() int, limits []strategy.Limit) {
	s, err := New(Options{Now: func() strategy.Instant { return 0 }})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ids := make([]string, identifiers)
	for i := range ids {
		ids[i] = fmt.Sprintf("user:%d", i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		drawn := draws(order)
		request := store.Request{Namespace: "checkout", Limits: limits, Cost: 1}
		var result store.Result
		now := strategy.Instant(1_700_000_000_000_000)
		for i := 0; pb.Next(); i++ {
			request.Identifier = ids[drawn[i&(len(drawn)-1)]]
			s.decide(&request, &result, now+strategy.Instant(i))
		}
	})
}

func baseline(b *testing.B, identifiers int, order func(*rand.Rand) func() int) {
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
	ids := make([]string, identifiers)
	for i := range ids {
		ids[i] = fmt.Sprintf("user:%d", i)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		drawn := draws(order)
		now, allowed := int64(1_700_000_000_000_000), 0
		for i := 0; pb.Next(); i++ {
			key := [2]string{"checkout", ids[drawn[i&(len(drawn)-1)]]}
			s := &stripes[maphash.String(seed, key[1])%DefaultShards]
			s.mu.Lock()
			c := s.used[key]
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

// draws returns identifiers in the order that the benchmarks ask about them.
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
