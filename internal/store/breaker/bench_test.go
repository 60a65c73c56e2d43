package breaker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A noStore decides nothing, on servers that identifiers name.
type noStore struct{ store.Store }

func (noStore) ServerOf(_ context.Context, r *store.Request) string     { return r.Identifier }
func (noStore) Decide(context.Context, []store.Request, []store.Result) {}

// BenchmarkDecide times what a breaker adds to the store behind it.
func BenchmarkDecide(b *testing.B) {
	limits := []strategy.Limit{{Rate: rate.Rate{Count: 1, Period: time.Hour}}}
	for _, size := range []int{1, 10, 100} {
		requests, results := make([]store.Request, size), make([]store.Result, size)
		for i := range requests {
			requests[i] = store.Request{Identifier: fmt.Sprint(i % 3), Limits: limits}
		}
		b.Run(fmt.Sprintf("requests=%d", size), func(b *testing.B) {
			s := New(noStore{}, timeout)
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(b.Context(), requests, results)
			}
		})
		b.Run(fmt.Sprintf("requests=%d/parallel", size), func(b *testing.B) {
			s := New(noStore{}, timeout)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				results := make([]store.Result, size)
				for pb.Next() {
					s.Decide(b.Context(), requests, results)
				}
			})
		})
	}
}
