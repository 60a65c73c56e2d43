package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// residentBatch is how many identifiers a call of BenchmarkResident is about.
const residentBatch = 100

// BenchmarkResident asks a daemon about many identifiers, on 8 connections with 16 calls
// under way on each. It reports how much memory the daemon has as the kernel counts it,
// garbage and all: at first, after a million requests about few identifiers, and with all
// counters; and by how much each counter has made it grow.
func BenchmarkResident(b *testing.B) {
	envoy := filepath.Join(b.TempDir(), "envoy")
	if err := os.Mkdir(envoy, 0o755); err != nil {
		b.Fatal(err)
	}
	limits := "domain: edge\ndescriptors: [{key: user, rate_limit: {unit: hour, requests_per_unit: 100}}]\n"
	if err := os.WriteFile(filepath.Join(envoy, "edge.yaml"), []byte(limits), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name     string
		counters int
		ask      func(*grpc.ClientConn) func(ctx context.Context, first, identifiers int) error
	}{
		{"fixed_window/10000", 10_000, askAPI(&ratelimitv1.Limit{Rate: "100/h"})},
		{"fixed_window/100000", 100_000, askAPI(&ratelimitv1.Limit{Rate: "100/h"})},
		{"fixed_window/1000000", 1_000_000, askAPI(&ratelimitv1.Limit{Rate: "100/h"})},
		{"envoy/10000", 10_000, askEnvoy},
		{"envoy/100000", 100_000, askEnvoy},
		{"envoy/1000000", 1_000_000, askEnvoy},
		{"sliding_window_log/1000000", 1_000_000, askAPI(&ratelimitv1.Limit{Rate: "100/h", Strategy: ratelimitv1.Strategy_SLIDING_WINDOW_LOG})},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for b.Loop() {
				at, stop := servesAt(b, nil, "--memory-max-keys=1250000", "--envoy-config-dir="+envoy) // the shards are not filled alike
				idle := residentMB(b, at.pid)
				askAbout(b, at.GRPC, bench.ask, 1_000_000, residentBatch)
				busy := residentMB(b, at.pid)
				askAbout(b, at.GRPC, bench.ask, max(1_000_000, bench.counters), bench.counters)
				full := residentMB(b, at.pid)
				stop()
				b.ReportMetric(idle, "idle-MB")
				b.ReportMetric(busy, "busy-MB")
				b.ReportMetric(full, "full-MB")
				b.ReportMetric((full-busy)*1e6/float64(bench.counters), "B/counter")
				b.ReportMetric(0, "ns/op") // nobody waits for it
			}
		})
	}
}

// askAPI returns what makes a call with residentBatch requests of our API, each with limit.
func askAPI(limit *ratelimitv1.Limit) func(*grpc.ClientConn) func(ctx context.Context, first, identifiers int) error {
	return func(conn *grpc.ClientConn) func(ctx context.Context, first, identifiers int) error {
		client := ratelimitv1.NewRateLimitServiceClient(conn)
		return func(ctx context.Context, first, identifiers int) error {
			batch := &ratelimitv1.ShouldAllowBatchRequest{Requests: make([]*ratelimitv1.ShouldAllowRequest, residentBatch)}
			for i := range batch.Requests {
				batch.Requests[i] = &ratelimitv1.ShouldAllowRequest{
					Namespace: "checkout", Identifier: fmt.Sprintf("user:%d", (first+i)%identifiers), Limits: []*ratelimitv1.Limit{limit},
				}
			}
			_, err := client.ShouldAllowBatch(ctx, batch)
			return err
		}
	}
}

// askEnvoy returns what makes a call with residentBatch descriptors of Envoy's API.
func askEnvoy(conn *grpc.ClientConn) func(ctx context.Context, first, identifiers int) error {
	client := rlsv3.NewRateLimitServiceClient(conn)
	return func(ctx context.Context, first, identifiers int) error {
		request := &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: make([]*commonv3.RateLimitDescriptor, residentBatch)}
		for i := range request.Descriptors {
			request.Descriptors[i] = &commonv3.RateLimitDescriptor{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "user", Value: fmt.Sprintf("user:%d", (first+i)%identifiers)}}}
		}
		_, err := client.ShouldRateLimit(ctx, request)
		return err
	}
}

// askAbout sends so many requests, about so many identifiers.
func askAbout(b *testing.B, addr string, ask func(*grpc.ClientConn) func(ctx context.Context, first, identifiers int) error, requests, identifiers int) {
	b.Helper()
	const connections, callers = 8, 16 // of each connection
	var callsMade atomic.Int64
	var asking sync.WaitGroup
	for range connections {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		call := ask(conn)
		for range callers {
			asking.Go(func() {
				for {
					first := int(callsMade.Add(1)-1) * residentBatch
					if first >= requests {
						return
					}
					if err := call(b.Context(), first, identifiers); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
	}
	asking.Wait()
}

// residentMB returns the resident memory of a process.
func residentMB(b *testing.B, pid int) float64 {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / 1e6
}
