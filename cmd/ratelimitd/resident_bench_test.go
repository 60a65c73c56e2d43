package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// BenchmarkResident asks a daemon about a million identifiers. It reports how much memory the
// daemon has as the kernel counts it, garbage and all: at first, after as many requests about
// few identifiers, and with a million counters; and by how much each counter has made it
// grow.
func BenchmarkResident(b *testing.B) {
	const counters = 1_000_000
	for name, limit := range map[string]*ratelimitv1.Limit{
		"fixed_window":       {Rate: "100/h"},
		"sliding_window_log": {Rate: "100/h", Strategy: ratelimitv1.Strategy_SLIDING_WINDOW_LOG},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				at, stop := servesAt(b, nil, "--memory-max-keys=1250000") // the shards are not filled alike
				idle := residentMB(b, at.pid)
				askAbout(b, at.GRPC, limit, counters, 100)
				busy := residentMB(b, at.pid)
				askAbout(b, at.GRPC, limit, counters, counters)
				full := residentMB(b, at.pid)
				stop()
				b.ReportMetric(idle, "idle-MB")
				b.ReportMetric(busy, "busy-MB")
				b.ReportMetric(full, "full-MB")
				b.ReportMetric((full-busy)*1e6/counters, "B/counter")
				b.ReportMetric(0, "ns/op") // nobody waits for it
			}
		})
	}
}

// askAbout sends so many requests, about so many identifiers.
func askAbout(b *testing.B, addr string, limit *ratelimitv1.Limit, requests, identifiers int) {
	b.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	client := ratelimitv1.NewRateLimitServiceClient(conn)
	batch := &ratelimitv1.ShouldAllowBatchRequest{Requests: make([]*ratelimitv1.ShouldAllowRequest, 100)}
	for i := 0; i < requests; {
		for j := range batch.Requests {
			batch.Requests[j] = &ratelimitv1.ShouldAllowRequest{
				Namespace: "checkout", Identifier: fmt.Sprintf("user:%d", i%identifiers), Limits: []*ratelimitv1.Limit{limit},
			}
			i++
		}
		if _, err := client.ShouldAllowBatch(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
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
