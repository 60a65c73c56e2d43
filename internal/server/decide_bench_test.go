package server

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// BenchmarkBatch times a decision of a batch of 100, and of one alone, from
// message to message: what gRPC adds is not in it.
func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprintf("of_%d", size), func(b *testing.B) {
			s := quietServer(b)
			var batches [64]*ratelimitv1.ShouldAllowBatchRequest
			for i := range batches {
				batches[i] = &ratelimitv1.ShouldAllowBatchRequest{}
				for j := range size {
					batches[i].Requests = append(batches[i].Requests, ask(fmt.Sprintf("user:%d", i*size+j), limit("100/min")))
				}
			}
			b.ReportAllocs()
			var e exchange
			for i := 0; b.Loop(); i++ {
				e.request.Requests = batches[i%len(batches)].GetRequests()
				if err := e.answer(b.Context(), s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/decision")
		})
	}
}

// quietServer returns a server in memory that does not listen for calls.
func quietServer(b *testing.B) *Server {
	b.Helper()
	counters, err := memory.New(memory.Options{})
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Options{GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Store: counters, StoreName: "memory",
		Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		s.grpc.Stop()
		_, _ = s.grpcListener.Close(), s.httpListener.Close()
		if err := counters.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}
