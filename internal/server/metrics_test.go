package server

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// TestCardinality has callers make up namespaces, and a configuration with more
// policies than anybody reads.
func TestCardinality(t *testing.T) {
	m := newMetrics(prometheus.NewRegistry(), "memory")
	m.configured([]string{"checkout"})
	r := &store.Request{Limits: make([]strategy.Limit, 1)}
	r.Limits[0].Strategy = strategy.FixedWindow
	statuses := make([]strategy.Status, 1)
	const names = 1000
	for i := range names {
		for _, r.Namespace = range []string{fmt.Sprint("made up ", i), "checkout"} {
			r.Limits[0].Name = fmt.Sprint("limit ", i)
			m.decided(r.Namespace, outcomeDenied)
			var count tally
			count.checked(m, r, "", statuses)
			count.checked(m, r, fmt.Sprint("policy ", i), statuses)
			count.flush(m)
		}
	}

	const all = maxNamespaces + 2 // with checkout and the others
	if n := testutil.CollectAndCount(m.decisions); n != all*int(outcomes) {
		t.Errorf("%d series of decisions, want %d", n, all*int(outcomes))
	}
	// Each namespace that callers made up had one policy before the rest came.
	if n, want := testutil.CollectAndCount(m.limits), 2*(all+maxNamespaces+maxNamespaceLimits); n != want {
		t.Errorf("%d series of limits, want %d", n, want)
	}
	for _, want := range []struct {
		counter prometheus.Counter
		n       float64
	}{
		{m.decisions.WithLabelValues("checkout", "denied"), names},
		{m.decisions.WithLabelValues(otherNamespaces, "denied"), names - maxNamespaces},
		{m.limits.WithLabelValues("checkout", "policy 7", "limit 7", "denied"), 1},
		{m.limits.WithLabelValues("checkout", "", "", "denied"), 2*names - maxNamespaceLimits},
		{m.limits.WithLabelValues(otherNamespaces, "", "", "denied"), 2 * (names - maxNamespaces)},
	} {
		if n := testutil.ToFloat64(want.counter); n != want.n {
			t.Errorf("%v counts %v, want %v", want.counter.Desc(), n, want.n)
		}
	}
}

// BenchmarkMetrics has one decision counted and timed, as ShouldAllow does.
func BenchmarkMetrics(b *testing.B) {
	m := newMetrics(prometheus.NewRegistry(), "memory")
	r := &store.Request{Namespace: "checkout", Limits: make([]strategy.Limit, 1)}
	r.Limits[0].Name, r.Limits[0].Strategy = "burst", strategy.FixedWindow
	statuses := make([]strategy.Status, 1)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		var count tally
		for p.Next() {
			m.latency[methodUnary].Observe(15 * time.Microsecond)
			count.checked(m, r, "default", statuses)
			count.decided(m, r.Namespace, outcomeDenied)
			count.flush(m)
		}
	})
}

// BenchmarkCall has callers call ShouldAllow over loopback: what the cost of
// BenchmarkMetrics is to be held against.
func BenchmarkCall(b *testing.B) {
	s, err := memory.New(memory.Options{})
	if err != nil {
		b.Fatal(err)
	}
	d, err := New(Options{GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Store: s, StoreName: "memory", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	conn, err := grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	client := ratelimitv1.NewRateLimitServiceClient(conn)
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := client.ShouldAllow(ctx, ask("alice", limit("100/s"))); err != nil {
				b.Error(err)
				return
			}
		}
	})
	_ = conn.Close()
	cancel()
	if err := <-served; err != nil {
		b.Error(err)
	}
}
