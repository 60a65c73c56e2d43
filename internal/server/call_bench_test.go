package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
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

// BenchmarkCall has callers ask over loopback, on each port: what the cost of the parts is to
// be held against. In "token", the daemon knows its callers, by the token that they send in
// both. The processor time is that of both sides.
func BenchmarkCall(b *testing.B) {
	token := auth.NewToken()
	for _, port := range []struct {
		name string
		dial func(b *testing.B, d *Server, token string, known bool) (ask func() error)
	}{{"gRPC", callGRPC}, {"HTTP", callHTTP}, {"RESP", callRESP}} {
		b.Run(port.name+"/open", func(b *testing.B) {
			d := serveBench(b, nil)
			benchmarkCall(b, func() func() error { return port.dial(b, d, token, false) })
		})
		b.Run(port.name+"/token", func(b *testing.B) {
			d := serveBench(b, clientsWith(b, token))
			benchmarkCall(b, func() func() error { return port.dial(b, d, token, true) })
		})
	}
}

// clientsWith returns clients of which one has a token, for the namespace checkout.
func clientsWith(b *testing.B, token string) *auth.Directory {
	b.Helper()
	return clients(b, fmt.Sprintf("clients: [{name: a, tokens: [%s], namespaces: [checkout]}]", auth.HashLine(token)))
}

// benchmarkCall has 16 callers for each processor ask, who have all connected before.
func benchmarkCall(b *testing.B, dial func() (ask func() error)) {
	b.Helper()
	const callers = 16
	ready := make(chan func() error, callers*runtime.GOMAXPROCS(0))
	for range cap(ready) {
		ask := dial()
		if err := ask(); err != nil {
			b.Fatal(err)
		}
		ready <- ask
	}
	b.SetParallelism(callers)
	b.ReportAllocs()
	before := processorTime(b)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		ask := <-ready
		for p.Next() {
			if err := ask(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func callGRPC(b *testing.B, d *Server, token string, _ bool) (call func() error) {
	b.Helper()
	conn, err := grpc.NewClient(d.GRPCAddr(), append(withToken(token), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	client := ratelimitv1.NewRateLimitServiceClient(conn)
	return func() error {
		_, err := client.ShouldAllow(b.Context(), ask("alice", limit("100/s")))
		return err
	}
}

func callHTTP(b *testing.B, d *Server, token string, _ bool) (call func() error) {
	b.Helper()
	client := http.Client{Transport: &http.Transport{}}
	b.Cleanup(client.CloseIdleConnections)
	return func() error {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+d.HTTPAddr()+"/v1/should-allow", strings.NewReader(`{"namespace":"checkout","identifier":"alice","limits":[{"rate":"100/s"}]}`))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s, %w", answer.Status, err)
		}
		return nil
	}
}

func callRESP(b *testing.B, d *Server, token string, known bool) (call func() error) {
	b.Helper()
	conn, err := net.Dial("tcp", d.RESPAddr()) //nolint:noctx // it is there
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	replies := bufio.NewReader(conn)
	send := func(command string, lines int) error {
		if _, err := io.WriteString(conn, command); err != nil {
			return err
		}
		for range lines {
			if line, err := replies.ReadSlice('\n'); err != nil || line[0] == '-' {
				return fmt.Errorf("%q, %w", line, err)
			}
		}
		return nil
	}
	if known {
		if err := send("AUTH "+token+"\r\n", 1); err != nil {
			b.Fatal(err)
		}
	}
	return func() error { return send("RL.ALLOW checkout alice 100/s\r\n", 6) }
}

// serveBench runs a daemon with a store in memory until the benchmark ends.
func serveBench(b *testing.B, known *auth.Directory) *Server {
	b.Helper()
	s, err := memory.New(memory.Options{})
	if err != nil {
		b.Fatal(err)
	}
	d, err := New(Options{GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", RESPAddr: "127.0.0.1:0", Store: s, StoreName: "memory", Config: &Config{Clients: known}, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
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
