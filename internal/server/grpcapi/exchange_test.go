package grpcapi

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// newTestExchange returns an exchange of an API over a store in memory.
func newTestExchange(tb testing.TB) *exchange {
	tb.Helper()
	counters, err := memory.New(memory.Options{MaxKeys: 10_000})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = counters.Close() })
	core := decide.New(decide.Options{Store: counters, Book: account.New(decide.Outcomes, time.Now), Logger: slog.New(slog.DiscardHandler)})
	return newExchange(newExchanges(core, histogram.NewVec("test", "test", "method", MethodUnary, MethodBatch, MethodStream), nil))
}

func ask(identifier string, limits ...*ratelimitv1.Limit) *ratelimitv1.ShouldAllowRequest {
	return &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: identifier, Limits: limits}
}

func limit(rate string) *ratelimitv1.Limit { return &ratelimitv1.Limit{Rate: rate} }

// TestExchangeOfLargeMessageIsDropped holds what is kept to its bound.
func TestExchangeOfLargeMessageIsDropped(t *testing.T) {
	for name, requests := range map[string][]*ratelimitv1.ShouldAllowRequest{
		"many requests": make([]*ratelimitv1.ShouldAllowRequest, maxKept+1),
		"many limits":   {{Limits: make([]*ratelimitv1.Limit, strategy.MaxLimits+1)}},
	} {
		e := newTestExchange(t)
		e.request.Requests = requests
		e.Sent(0)
		if len(e.request.GetRequests()) == 0 {
			t.Errorf("%s: kept", name)
		}
	}
	e := newTestExchange(t)
	e.request.Requests = []*ratelimitv1.ShouldAllowRequest{ask("alice", limit("1/s"))}
	e.Sent(0)
	if len(e.request.GetRequests()) != 0 {
		t.Error("a small message's exchange is dropped")
	}
}

// FuzzShouldAllow feeds the handlers whatever a client may send.
func FuzzShouldAllow(f *testing.F) {
	seed := func(in *ratelimitv1.ShouldAllowBatchRequest) {
		b, err := proto.Marshal(in)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	seed(&ratelimitv1.ShouldAllowBatchRequest{})
	seed(&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{
		ask("alice", limit("5/s"), &ratelimitv1.Limit{Rate: "1_000/day", Strategy: ratelimitv1.Strategy_TOKEN_BUCKET, Burst: 9, Name: "n"}),
		{Namespace: "x", Identifier: "y", Cost: proto.Uint64(1 << 63), DryRun: true, Limits: []*ratelimitv1.Limit{{Rate: "9/366d", Strategy: 3}}},
	}})
	f.Fuzz(func(t *testing.T, data []byte) {
		e := newTestExchange(t)
		if codec.New(nil).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &e.request) != nil {
			return
		}
		asked := e.request.GetRequests()
		err := e.decide(t.Context())
		if (err == nil) != (len(asked) > 0 && len(asked) <= apiv1.MaxBatch) {
			t.Fatalf("a batch of %d: %v", len(asked), err)
		}
		if _, err := proto.Marshal(e.Sending()); err != nil {
			t.Fatalf("the answer cannot be sent: %v", err)
		}
		for i, r := range e.response.GetResults() {
			if e := r.GetError(); e != nil {
				if code := codes.Code(e.GetCode()); code != codes.InvalidArgument && code != codes.NotFound {
					t.Fatalf("request %d: %v", i, e)
				}
				continue
			}
			if n := len(r.GetResponse().GetStatuses()); n != len(asked[i].GetLimits()) {
				t.Fatalf("request %d of %d limits has %d statuses", i, len(asked[i].GetLimits()), n)
			}
		}
	})
}

// BenchmarkBatch times a decision of a batch of 100, and of one alone, from
// message to message: what gRPC adds is not in it.
func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprintf("of_%d", size), func(b *testing.B) {
			e := newTestExchange(b)
			var batches [64]*ratelimitv1.ShouldAllowBatchRequest
			for i := range batches {
				batches[i] = &ratelimitv1.ShouldAllowBatchRequest{}
				for j := range size {
					batches[i].Requests = append(batches[i].Requests, ask(fmt.Sprintf("user:%d", i*size+j), limit("100/min")))
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e.request.Requests = batches[i%len(batches)].GetRequests()
				if err := e.decide(b.Context()); err != nil {
					b.Fatal(err)
				}
				e.batch.Clear()
				e.decoder.Clear()
				e.encoder.Clear()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/decision")
		})
	}
}
