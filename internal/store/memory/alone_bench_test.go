package memory

import (
	"strconv"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// BenchmarkAlone measures a decision on its own, with the clock, among so many identifiers in
// random order: as a caller in the same process would make it.
func BenchmarkAlone(b *testing.B) {
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s, err := New(Options{MaxKeys: n*5/4 + 100*DefaultShards})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			requests := []store.Request{{Namespace: "checkout", Limits: []strategy.Limit{limit(b, "1000000/h", strategy.FixedWindow)}, Cost: 1}}
			results := make([]store.Result, 1)
			identifiers := make([]string, n)
			for i := range identifiers {
				identifiers[i] = "user:" + strconv.Itoa(i)
				requests[0].Identifier = identifiers[i]
				s.Decide(b.Context(), requests, results)
			}
			ctx, x := b.Context(), uint64(88172645463325252)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				x ^= x << 13
				x ^= x >> 7
				x ^= x << 17
				requests[0].Identifier = identifiers[x%uint64(n)]
				s.Decide(ctx, requests, results)
			}
		})
	}
}
