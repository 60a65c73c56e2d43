package attack

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// nameAttacks make up names: of identifiers, namespaces, limits.
func nameAttacks() []attack {
	onRedis := func(t *testing.T) setup {
		// The failure policy would hide what is lost.
		return setup{flags: []string{"--store=redis", "--redis-url=" + redistest.Start(t).URL, "--store-timeout=20s", "--on-error=error"}}
	}
	small := func(namespaces string) func(*testing.T) setup {
		return func(*testing.T) setup {
			return setup{flags: []string{fmt.Sprintf("--memory-max-keys=%d", size(5000, 1_000_000))}, namespaces: namespaces}
		}
	}
	limit := func(rate string, s ratelimitv1.Strategy) *ratelimitv1.Limit {
		return &ratelimitv1.Limit{Rate: rate, Strategy: s}
	}
	fixed := limit("1/30d", ratelimitv1.Strategy_FIXED_WINDOW)
	flood := func(request func(i int) *ratelimitv1.ShouldAllowRequest) func(context.Context, *testing.T, *daemon) {
		return floods(size(20_000, 1_500_000), request)
	}
	identifiers := func(i int) *ratelimitv1.ShouldAllowRequest {
		return &ratelimitv1.ShouldAllowRequest{Namespace: "mail", Identifier: fmt.Sprint("user", i), Limits: []*ratelimitv1.Limit{fixed}}
	}
	denied := func(i int) *ratelimitv1.ShouldAllowRequest {
		return &ratelimitv1.ShouldAllowRequest{Namespace: "mail", Identifier: fmt.Sprint(i) + strings.Repeat("x", 1000), Limits: []*ratelimitv1.Limit{limit("0/h", 0)}}
	}
	return []attack{
		{name: "identifiers", prepare: small(""), do: flood(identifiers)},
		{name: "identifiers of a policy", prepare: small("  mail: {policies: {once: {limits: [{rate: 1/30d}]}}}\n"), do: guesses(flood(func(i int) *ratelimitv1.ShouldAllowRequest {
			return &ratelimitv1.ShouldAllowRequest{Namespace: "mail", Identifier: fmt.Sprint("user", i), Policy: "once"}
		}))},
		{name: "long identifiers", prepare: small(""), do: flood(denied)},
		{name: "namespaces", prepare: small(""), do: flood(func(i int) *ratelimitv1.ShouldAllowRequest {
			return &ratelimitv1.ShouldAllowRequest{Namespace: fmt.Sprint(i, strings.Repeat("\n", 120)), Identifier: "x", Limits: []*ratelimitv1.Limit{fixed}}
		})},
		{name: "names of limits", prepare: small(""), do: floods(size(2000, 100_000), func(i int) *ratelimitv1.ShouldAllowRequest {
			r := &ratelimitv1.ShouldAllowRequest{Namespace: "mail", Identifier: "x"}
			for j := range 16 {
				r.Limits = append(r.Limits, &ratelimitv1.Limit{Rate: "1/30d", Name: fmt.Sprint(i, "/", j, strings.Repeat("é", 50))})
			}
			return r
		})},
		{name: "logs", prepare: small(""), do: flood(func(i int) *ratelimitv1.ShouldAllowRequest {
			cost := uint64(1 + i%3)
			return &ratelimitv1.ShouldAllowRequest{Namespace: "mail", Identifier: fmt.Sprint(i % size(10, 500)), Cost: &cost, Limits: []*ratelimitv1.Limit{limit("10000/30d", ratelimitv1.Strategy_SLIDING_WINDOW_LOG)}}
		})},
		{name: "identifiers on Redis", prepare: onRedis, do: floods(size(10_000, 200_000), identifiers)},
		{name: "denied identifiers on Redis", prepare: onRedis, do: floods(size(10_000, 200_000), denied)},
		{name: "scrapes and junk namespaces", do: scrapes},
		{name: "descriptors of bytes", do: descriptors},
	}
}

// floods sends so many requests, in batches, from several callers.
func floods(requests int, request func(i int) *ratelimitv1.ShouldAllowRequest) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		const inBatch = 100
		client := ratelimitv1.NewRateLimitServiceClient(d.dial(t))
		together(ctx, 4, requests/inBatch, func(b int) {
			in := &ratelimitv1.ShouldAllowBatchRequest{}
			for i := range inBatch {
				in.Requests = append(in.Requests, request(b*inBatch+i))
			}
			if _, err := client.ShouldAllowBatch(ctx, in, grpc.WaitForReady(true)); err != nil {
				t.Error(err)
			}
		})
	}
}

// guesses has somebody use up the limit on guesses of ten accounts, before a flood, and
// guess on after it: none of these may be let through.
func guesses(flood func(context.Context, *testing.T, *daemon)) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		client := ratelimitv1.NewRateLimitServiceClient(d.dial(t))
		guess := func() (allowed int) {
			for i := range 100 {
				answer, err := client.ShouldAllow(ctx, &ratelimitv1.ShouldAllowRequest{
					Namespace: "login", Identifier: fmt.Sprint("account", i%10), Limits: []*ratelimitv1.Limit{{Rate: "5/30d"}},
				})
				if err != nil {
					t.Error(err)
				}
				if answer.GetAllowed() {
					allowed++
				}
			}
			return allowed
		}
		if n := guess(); n != 50 {
			t.Errorf("%d guesses are let through, want 50", n)
		}
		flood(ctx, t, d)
		if n := guess(); n != 0 {
			t.Errorf("%d guesses are let through after the flood, want none", n)
		}
	}
}

// scrapes fills the metrics with names, scrapes them from many connections, and goes
// away in the middle.
func scrapes(ctx context.Context, t *testing.T, d *daemon) {
	floods(size(5000, 100_000), func(i int) *ratelimitv1.ShouldAllowRequest {
		return &ratelimitv1.ShouldAllowRequest{
			Namespace: fmt.Sprint(i, strings.Repeat("\"", 100)), Identifier: strings.Repeat("y", 1000),
			Limits: []*ratelimitv1.Limit{{Rate: fmt.Sprint(1+i%1000, "/h"), Name: strings.Repeat("\\", 120)}},
		}
	})(ctx, t, d)
	together(ctx, size(10, 50), size(50, 2000), func(i int) {
		if i%2 == 0 {
			c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", d.HTTP)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
			_, _ = c.Read(make([]byte, 100))
			_ = c.Close()
			return
		}
		code, body, err := ask(ctx, d, http.MethodGet, "/metrics", "")
		if err != nil || code != http.StatusOK && code != http.StatusServiceUnavailable || len(body) > 4<<20 {
			t.Errorf("a scrape: %d with %d bytes, %v", code, len(body), err)
		}
	})
}

// descriptors sends Envoy's requests with bytes that are not UTF-8, and very long ones.
func descriptors(ctx context.Context, t *testing.T, d *daemon) {
	conn := d.dial(t)
	field := func(tag byte, value []byte) []byte {
		text := []byte{tag}
		for n := len(value); ; n >>= 7 {
			if n < 0x80 {
				return append(append(text, byte(n)), value...)
			}
			text = append(text, byte(n)|0x80)
		}
	}
	together(ctx, 4, size(500, 20_000), func(i int) {
		value := bytes.Repeat([]byte{byte(i), 0xff, byte(i >> 8)}, 1+i%size(1000, 10_000))
		entry := field(0x0a, append(field(0x0a, []byte("user\xfe")), field(0x12, value)...))
		var reply []byte
		if err := conn.Invoke(ctx, envoy, append(field(0x0a, []byte("edge")), field(0x12, entry)...), &reply, grpc.ForceCodec(raw{})); err == nil {
			return // the domain is not configured, so nothing is limited
		} else if len(err.Error()) > 10_000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
		_, _, _ = ask(ctx, d, http.MethodGet, "/v1/authorize?rate=1/s&namespace="+base64.URLEncoding.EncodeToString(value[:min(len(value), 1000)]), "")
	})
}
