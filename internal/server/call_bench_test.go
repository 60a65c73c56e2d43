package server

import (
	"context"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// BenchmarkCall has callers call ShouldAllow over loopback: what the cost of the
// parts is to be held against.
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
