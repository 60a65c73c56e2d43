package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// An untouchedStore fails who asks it.
type untouchedStore struct {
	store.Store
	b *testing.B
}

func (s untouchedStore) Decide(context.Context, []store.Request, []store.Result) {
	s.b.Error("the store was asked")
}

// BenchmarkDecision times an exempt decision, which asks the store nothing and
// takes no lock of ours, against one that is allowed and one that is denied.
func BenchmarkDecision(b *testing.B) {
	data := config(b, `
checkout:
  exempt: ["internal-*"]
  policies: {allowed: {limits: [{rate: 1_000_000_000/s}]}, denied: {limits: [{rate: 0/h}]}}
`)
	for _, kind := range []string{"exempt", "allowed", "denied"} {
		b.Run(kind, func(b *testing.B) {
			s := quietServer(b)
			s.SetConfig(data)
			in := askPolicy("user:42", kind)
			want := ratelimitv1.Reason_WITHIN_LIMIT
			switch kind {
			case "exempt":
				in = askPolicy("internal-cron", "allowed")
				s.store = untouchedStore{s.store, b}
				want = ratelimitv1.Reason_EXEMPT
			case "denied":
				want = ratelimitv1.Reason_OVER_LIMIT
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if out, err := s.ShouldAllow(context.Background(), in); err != nil || out.GetReason() != want { //nolint:usetesting // b.Context takes a lock
						b.Fatalf("%v, %v", out, err)
					}
				}
			})
		})
	}
}

// BenchmarkAuthorize times the handler without the network.
func BenchmarkAuthorize(b *testing.B) {
	s := quietServer(b)
	s.SetConfig(config(b, web))
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/v1/authorize?namespace=web&policy=default&identifier_from=client_ip&ipv6_prefix=64", nil)
	r.Header.Set("X-Forwarded-For", "2001:db8::1")
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		if s.authorize(w, r); w.Code != http.StatusOK && w.Code != http.StatusTooManyRequests {
			b.Fatal(w.Code, w.Body)
		}
	}
}
