package top_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/top"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a daemon until the test ends. It returns its admin address and a client.
func start(t *testing.T) (admin string, client ratelimitv1.RateLimitServiceClient) {
	t.Helper()
	counters, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(counters.Collector())
	s, err := server.New(server.Options{
		GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0",
		LogLevel: new(slog.LevelVar),
		Store:    counters, StoreName: "memory", Logger: slog.New(slog.DiscardHandler), Registry: registry,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s.AdminAddr(), ratelimitv1.NewRateLimitServiceClient(conn)
}

// TestBetween looks at a real daemon before and after known calls.
func TestBetween(t *testing.T) {
	admin, client := start(t)
	at := func(addr string) *top.Port {
		return &top.Port{Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, Addr: addr}
	}
	take := func() *top.Sample {
		t.Helper()
		s, err := at(admin).Take(t.Context(), 5)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ask := func(namespace, identifier string, times int) {
		t.Helper()
		for range times {
			_, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{
				Namespace: namespace, Identifier: identifier, Limits: []*ratelimitv1.Limit{{Rate: "10/366d"}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	ask("before", "x", 5)
	first := take()
	ask("checkout", "alice", 40) // 30 are denied
	ask("search", "bob\x1b[31m", 20)
	if _, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{}); err == nil {
		t.Fatal("an empty request was accepted")
	}
	v := top.Between(first, take(), 5)
	count := func(rate float64) int { return int(rate*v.Seconds + 0.5) }
	if count(v.Decisions) != 60 || count(v.Denied) != 40 || count(v.Refused) != 1 || count(v.Calls) != 61 || v.Failed != 0 || v.StoreErrors != 0 {
		t.Errorf("counts: %+v", v)
	}
	if v.P50 <= 0 || v.P99 < v.P50 || v.P99 > 1 {
		t.Errorf("latency: p50 %v, p99 %v", v.P50, v.P99)
	}
	if v.Keys != 3 || v.HottestShare < 1 {
		t.Errorf("memory: %v keys, hottest stripe %v x the mean", v.Keys, v.HottestShare)
	}
	if len(v.Namespaces) != 2 || v.Namespaces[0].Name != "checkout" || count(v.Namespaces[0].Denied) != 30 || v.Namespaces[1].Name != "search" {
		t.Errorf("namespaces: %+v", v.Namespaces)
	}
	if len(v.DeniedMost) == 0 || v.DeniedMost[0].Identifier != "alice" || v.Asked[0].Namespace != "checkout" {
		t.Errorf("hot keys: %+v, %+v", v.Asked, v.DeniedMost)
	}
	if by := v.DeniedMost[0]; by.Limit != "fixed_window:10/366d" || len(v.Limits) != 2 || v.Limits[0].Namespace != "checkout" || count(v.Limits[0].Denied) != 30 || count(v.Limits[0].Asked) != 40 {
		t.Errorf("alice is denied by %q, and the limits are %+v", by.Limit, v.Limits)
	}
	var b strings.Builder
	if err := v.Show(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fixed_window:10/366d", "limits that requests bring along", "decisions ", "(66.7 %)", "checkout  alice", `search  "bob\x1b[31m"`, "WHO IS DENIED MOST"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("it does not show %q:\n%s", want, b.String())
		}
	}
}

// TestRestarted compares samples from before and after a restart, without any requests.
func TestRestarted(t *testing.T) {
	admin, client := start(t)
	at := func(addr string) *top.Port {
		return &top.Port{Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, Addr: addr}
	}
	if _, err := client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "a", Identifier: "b", Limits: []*ratelimitv1.Limit{{Rate: "1/h"}}}); err != nil {
		t.Fatal(err)
	}
	old, err := at(admin).Take(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	admin, _ = start(t)
	anew, err := at(admin).Take(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	v := top.Between(old, anew, 5)
	if v.Decisions != 0 || v.Calls != 0 || v.P99 != 0 || len(v.Namespaces) != 0 || len(v.Asked) != 0 {
		t.Errorf("%+v", v)
	}
	var b strings.Builder
	if err := v.Show(&b); err != nil || !strings.Contains(b.String(), "nobody stands out") {
		t.Errorf("%v:\n%s", err, b.String())
	}
}

func TestNotAnAdminPort(t *testing.T) {
	at := func(addr string) *top.Port {
		return &top.Port{Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, Addr: addr}
	}
	if _, err := at("127.0.0.1:1").Take(t.Context(), 5); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("nobody there: %v", err)
	}
}
