package server

import (
	"context"
	"fmt"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// overdraws has a limit of each overdraw, and of the default.
const overdraws = `
domain: edge
descriptors:
  - {key: none, rate_limit: {unit: year, requests_per_unit: 10, overdraw: none}}
  - {key: once, rate_limit: {unit: year, requests_per_unit: 10, overdraw: once}}
  - {key: always, rate_limit: {unit: year, requests_per_unit: 10, overdraw: always}}
  - {key: default, rate_limit: {unit: year, requests_per_unit: 10}}
  - {key: bucket, rate_limit: {unit: year, requests_per_unit: 10, strategy: token_bucket, overdraw: always}}
  - {key: tried, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 10, overdraw: always}}
  - {key: nothing, rate_limit: {unit: year, requests_per_unit: 0, overdraw: always}}
  - key: several
    rate_limits: [{unit: day, requests_per_unit: 4}, {unit: year, requests_per_unit: 10, overdraw: always}]
`

// hits returns a request of one descriptor for n hits of its own; below 0 they are given back.
func hits(n int, text string) *rlsv3.RateLimitRequest {
	in := envoyAsk(0, text)
	in.Descriptors[0].HitsAddend = wrapperspb.UInt64(uint64(max(n, -n)))
	in.Descriptors[0].IsNegativeHits = n < 0
	return in
}

// TestOverdraw has hits of which a limit has fewer left, for each overdraw and store; and
// hits that are given back.
func TestOverdraw(t *testing.T) {
	server := redistest.Start(t)
	remote, err := redis.New(redis.Options{URLs: []string{server.URL}, Timeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{"memory": {}, "redis": {Store: remote, StoreName: "redis"}} {
		t.Run(name, func(t *testing.T) {
			o.Config = envoyConfig(t, overdraws)
			d := start(t, o)
			client := rlsv3.NewRateLimitServiceClient(d.conn)
			for _, tt := range []struct {
				key  string
				hits []int
				want string // O for OK, X for OVER_LIMIT, and what is left
			}{
				{"none", []int{8, 5, 0, 2, 0, -1, 5, 1, 1}, "O2 X2 O2 O0 X0 O1 X1 O0 X0"},
				{"once", []int{8, 5, 0, 7, -2, 0, -2, 1, 0}, "O2 X0 X0 X0 O0 X0 O1 O0 X0"}, // 13 at most
				{"default", []int{8, 5, 0, 7, -4, 1}, "O2 X0 X0 X0 O1 O0"},
				{"always", []int{8, 2, 0, 5, 0, 5, -9, 0, -2, 1, -100}, "O2 O0 O0 X0 X0 X0 O0 X0 O1 O0 O10"}, // 20 at most
				{"bucket", []int{8, 5, 0, 5, -8, 0, -1, 1}, "O2 X0 X0 X0 O0 O0 O1 O0"},
				{"tried", []int{8, 5, 5, -9, 1}, "O2 O0 O0 O1 O0"}, // which counts, and lets pass
				{"nothing", []int{0, 1, -1, 1}, "O0 X0 O0 X0"},
				{"several", []int{3, 4, 4, -1, -4, -100}, "O1 X0 X0 O0 O0 O4"}, // 11 of 10
			} {
				got := ""
				for _, n := range tt.hits {
					out, err := client.ShouldRateLimit(t.Context(), hits(n, tt.key+"=a"))
					if err != nil {
						t.Fatal(err)
					}
					code := "O"
					if out.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT {
						code = "X"
					}
					if got != "" {
						got += " "
					}
					got += fmt.Sprint(code, out.GetStatuses()[0].GetLimitRemaining())
				}
				if got != tt.want {
					t.Errorf("%s: %v:\n got %s\nwant %s", tt.key, tt.hits, got, tt.want)
				}
			}
		})
	}
	_ = context.Background
	_ = rapid.Bool
	_ = envoy.OverdrawAlways
	_ = envoyapi.Settings{}
}
