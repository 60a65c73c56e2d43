package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// BenchmarkCall has callers call ShouldAllow over loopback: what the cost of the
// parts is to be held against. In "token", the daemon knows its callers, by the token
// that they send in both. The processor time is that of both sides.
func BenchmarkCall(b *testing.B) {
	token := auth.NewToken()
	b.Run("open", func(b *testing.B) { benchmarkCall(b, nil, withToken(token)...) })
	b.Run("token", func(b *testing.B) {
		benchmarkCall(b, clients(b, fmt.Sprintf("clients: [{name: a, tokens: [%s], namespaces: [checkout]}]", auth.HashLine(token))), withToken(token)...)
	})
}

func benchmarkCall(b *testing.B, known *auth.Directory, options ...grpc.DialOption) {
	d := serveBench(b, known)
	conn, err := grpc.NewClient(d.GRPCAddr(), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		b.Fatal(err)
	}
	client := ratelimitv1.NewRateLimitServiceClient(conn)
	b.SetParallelism(16)
	b.ReportAllocs()
	before := processorTime(b)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := client.ShouldAllow(b.Context(), ask("alice", limit("100/s"))); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
	_ = conn.Close()
}

// serveBench runs a daemon with a store in memory until the benchmark ends.
func serveBench(b *testing.B, known *auth.Directory) *Server {
	b.Helper()
	s, err := memory.New(memory.Options{})
	if err != nil {
		b.Fatal(err)
	}
	d, err := New(Options{GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Store: s, StoreName: "memory", Config: &Config{Clients: known}, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			b.Error(err)
		}
	})
	return d
}

// processorTime returns how much this process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkAdmit times what the chain does to know the caller, by a token and by a
// certificate.
func BenchmarkAdmit(b *testing.B) {
	token := auth.NewToken()
	known := clients(b, fmt.Sprintf("clients: [{name: a, tokens: [%s], namespaces: [checkout]}, {name: b, certificates: ['spiffe://example.org/shop/*'], namespaces: [checkout]}]", auth.HashLine(token)))
	g := &gate{failures: new(auth.Failures), logger: slog.New(slog.DiscardHandler)}
	g.directory.Store(known)
	leaf := authtest.NewAuthority(b, "a").Issue(b, "spiffe://example.org/shop/cart").Leaf(b)
	for name, ctx := range map[string]context.Context{
		"token":       metadata.NewIncomingContext(b.Context(), metadata.Pairs("authorization", "Bearer "+token)),
		"certificate": peer.NewContext(b.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}}}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				admitted, err := g.admitGRPC(ctx, ratelimitv1.RateLimitService_ShouldAllow_FullMethodName)
				if err != nil || auth.FromContext(admitted).Check(auth.Decide, "checkout", "") != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
