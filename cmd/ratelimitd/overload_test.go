package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// TestHeavyCaller has streams of the largest batches that there are ask for more than
// Redis can decide, while another namespace asks for little: each of that one's
// requests is decided, its counter stays exact, and Redis has never more to do than
// --store-max-in-flight says. (How long the innocent caller waits says less: Redis itself
// takes turns between connections, and a test's machine is busy. With 1000000 for the flag,
// which turns fair queueing off, Redis has 256 counters of each stream, and the test fails.)
func TestHeavyCaller(t *testing.T) {
	const (
		streams = 5
		asked   = 60
		right   = 30
		most    = 1024 // counters at Redis, by default
	)
	server := redistest.Start(t)
	// With more time than by default, as the machine of a test is often busy.
	at, _ := servesAt(t, nil, "--store=redis", "--redis-url="+server.URL, "--store-timeout=5s", "--deny-cache-ttl=0s")
	dial := func() *grpc.ClientConn {
		conn, err := grpc.NewClient(at.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	heavy, innocent := dial(), ratelimitv1.NewRateLimitServiceClient(dial())

	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	var messages atomic.Int64
	for s := range streams {
		batch := &ratelimitv1.ShouldAllowBatchRequest{}
		for i := range 1000 {
			r := &ratelimitv1.ShouldAllowRequest{Namespace: "heavy", Identifier: fmt.Sprint(s, " ", i)}
			for l := range 16 {
				r.Limits = append(r.Limits, &ratelimitv1.Limit{Rate: fmt.Sprintf("1000000/%dh", l+1)})
			}
			batch.Requests = append(batch.Requests, r)
		}
		encoded, err := proto.Marshal(batch)
		if err != nil {
			t.Fatal(err)
		}
		callers.Go(func() {
			stream, err := heavy.NewStream(ctx, &ratelimitv1.RateLimitService_ServiceDesc.Streams[0], ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName, grpc.ForceCodec(rawCodec{}))
			if err != nil {
				return
			}
			for stream.SendMsg(encoded) == nil {
				var reply []byte
				if stream.RecvMsg(&reply) != nil {
					return
				}
				messages.Add(1)
			}
		})
	}
	redistest.Eventually(t, "the heavy caller is answered", func() error {
		if n := messages.Load(); n < streams {
			return fmt.Errorf("%d messages", n)
		}
		return nil
	})

	answers := map[string]int{}
	allowed, atRedis := 0, 0
	var took []time.Duration
	for range asked {
		start := time.Now()
		answer, err := innocent.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{
			Namespace: "innocent", Identifier: "alice", Limits: []*ratelimitv1.Limit{{Rate: fmt.Sprint(right, "/d")}},
		})
		took = append(took, time.Since(start))
		atRedis = max(atRedis, inFlight(t, at.HTTP))
		answers[fmt.Sprint(status.Code(err), " ", answer.GetReason())]++
		if answer.GetAllowed() {
			allowed++
		}
	}
	slices.Sort(took)
	t.Logf("heavy: %d messages, up to %d counters at Redis; innocent: %v, %d allowed, p50 %v, p99 %v", messages.Load(), atRedis, answers, allowed, took[asked/2], took[asked*99/100])
	if atRedis == 0 || atRedis > most {
		t.Errorf("Redis has up to %d counters to decide at a time, want some, and at most %d", atRedis, most)
	}
	if allowed != right || len(answers) != 2 {
		t.Errorf("%d are allowed, want %d; the answers are %v", allowed, right, answers)
	}
}

// inFlight returns how many counters a daemon asks its store about at the moment.
func inFlight(t *testing.T, addr string) int {
	t.Helper()
	for line := range strings.Lines(page(t, "http://"+addr+"/metrics")) {
		if value, ok := strings.CutPrefix(line, "ratelimitd_store_in_flight "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(f)
		}
	}
	t.Fatal("there is no such metric")
	return 0
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (rawCodec) Name() string                       { return "proto" }
