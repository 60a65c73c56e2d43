package memory

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// BenchmarkDecide times one decision with the clock passed in, on 100k
// identifiers, beside the lookup and the lock that no store can do without:
// a plain Go map under one mutex per stripe.
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
		r := rand.New(rand.NewSource(rand.Int63()))
		draw := order(r)
		drawn := make([]int, 1<<16)
		for i := range drawn {
			drawn[i] = draw()
		}
		request := store.Request{Namespace: "checkout", Limits: limits, Cost: 1}
		var result store.Result
		now := strategy.Instant(1_700_000_000_000_000)
		for i := 0; pb.Next(); i++ {
			request.Identifier = ids[drawn[i&(1<<16-1)]]
			s.decide(&request, &result, now+strategy.Instant(i))
		}
	})
}

func limit(tb testing.TB, rate string, s strategy.Strategy) strategy.Limit {
	tb.Helper()
	l, wrong := strategy.NewLimit(strategy.Spec{Rate: rate, Strategy: s}, strategy.DefaultMaxLogCount)
	if wrong != nil {
		tb.Fatal(wrong)
	}
	return l
}
