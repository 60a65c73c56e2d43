package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// bounds returns the default bounds as change leaves them.
func bounds(change func(*config.Bounds)) config.Bounds {
	b := config.DefaultBounds()
	change(&b)
	return b
}

// largestBatch returns as large a batch as is valid.
func largestBatch() *ratelimitv1.ShouldAllowBatchRequest {
	in := &ratelimitv1.ShouldAllowBatchRequest{}
	for i := range 1000 {
		r := &ratelimitv1.ShouldAllowRequest{Namespace: strings.Repeat("n", 128), Identifier: fmt.Sprintf("%01024d", i), Cost: proto.Uint64(1 << 62), DryRun: true}
		for j := range 16 {
			r.Limits = append(r.Limits, &ratelimitv1.Limit{
				Rate: fmt.Sprint(j, "/", strings.Repeat(" ", 60), "h"), Name: fmt.Sprintf("%0128d", j), Burst: 1e9, Strategy: ratelimitv1.Strategy_TOKEN_BUCKET,
			})
		}
		in.Requests = append(in.Requests, r)
	}
	return in
}

func TestMessageBytes(t *testing.T) {
	largest := largestBatch()
	if size, most := proto.Size(largest), config.DefaultBounds().MessageBytes; size > most*3/4 {
		t.Errorf("the largest batch has %d bytes; the bound is %d, which leaves too little for fields to come", size, most)
	} else {
		t.Logf("the largest batch has %d bytes", size)
	}
	d := start(t, Options{Bounds: bounds(func(b *config.Bounds) { b.MessageBytes = 64 << 10 }), Config: envoyConfig(t, edge)})
	if _, err := d.client.ShouldAllowBatch(t.Context(), largest); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message beyond the bound: %v, want RESOURCE_EXHAUSTED", err)
	}
	if code, text := request(t, "POST", d, "/json", `{"domain":"`+strings.Repeat("x", 64<<10)+`"}`); code != 413 {
		t.Errorf("a body beyond the bound: %d %s", code, text)
	}
}

// TestMessageTimeout begins calls and streams and sends nothing.
func TestMessageTimeout(t *testing.T) {
	d := start(t, Options{Bounds: bounds(func(b *config.Bounds) { b.MessageTimeout = 100 * time.Millisecond })})
	for method, want := range map[string]codes.Code{
		ratelimitv1.RateLimitService_ShouldAllow_FullMethodName:       codes.Canceled,
		rlsv3.RateLimitService_ShouldRateLimit_FullMethodName:         codes.Canceled,
		ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName:  codes.DeadlineExceeded,
		ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName: codes.DeadlineExceeded,
	} {
		stream, err := d.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(ratelimitv1.ShouldAllowResponse)); status.Code(err) != want {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
	}
	// A stream that has brought one may be idle.
	stream, err := d.client.ShouldAllowStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stream.Send(&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{ask("alice", limit("5/h"))}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond) // three times as long as a first message may take
	}
}

func TestCalls(t *testing.T) {
	slow := &slowStore{begun: make(chan struct{}, 1), end: make(chan struct{})}
	d := start(t, Options{Store: slow, Bounds: bounds(func(b *config.Bounds) { b.Calls = 1 })})
	done := make(chan error, 1)
	go func() {
		_, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("5/h")))
		done <- err
	}()
	<-slow.begun
	_, err := d.client.ShouldAllow(t.Context(), ask("bob", limit("5/h")))
	if st := status.Convert(err); st.Code() != codes.ResourceExhausted || len(st.Details()) != 1 {
		t.Errorf("one call too many: %v with %v", err, st.Details())
	}
	if _, err := healthpb.NewHealthClient(d.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
	if n := d.metric(t, "ratelimitd_calls_refused_total"); n != 1 {
		t.Errorf("%v calls are counted as refused", n)
	}
	close(slow.end)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A slowStore allows everything, when it is told to.
type slowStore struct {
	store.Store
	begun, end chan struct{}
}

func (s *slowStore) Decide(_ context.Context, requests []store.Request, results []store.Result) {
	s.begun <- struct{}{}
	<-s.end
	for i := range results {
		results[i].Decision = strategy.Decision{Allowed: true, Statuses: make([]strategy.Status, len(requests[i].Limits))}
		results[i].Err = nil
	}
}

func (s *slowStore) DecidesTogether(*store.Request) bool { return true }
func (s *slowStore) Health(context.Context) error        { return nil }
func (s *slowStore) Close() error                        { return nil }

// A fullStore has no room for anything.
type fullStore struct{ slowStore }

func (s *fullStore) Decide(_ context.Context, _ []store.Request, results []store.Result) {
	for i := range results {
		results[i].Err = &store.Overload{RetryAfter: 1500 * time.Millisecond}
	}
}

// TestOverload has every front asked while the store is asked for too much. Nobody is
// let pass for it.
func TestOverload(t *testing.T) {
	d := start(t, Options{Store: new(fullStore), StoreName: "redis", OnError: policy.FailAllow, Config: envoyConfig(t, edge)})
	_, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("5/h")))
	st := status.Convert(err)
	if after, ok := fault.RetryAfter(st); st.Code() != codes.ResourceExhausted || !ok || after != 1500*time.Millisecond {
		t.Errorf("ShouldAllow: %v, and again after %v", err, after)
	}
	out, err := d.client.ShouldAllowBatch(t.Context(), &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{ask("a", limit("5/h")), ask("b", limit("5/h"))}})
	for _, r := range out.GetResults() {
		if r.GetError().GetCode() != int32(codes.ResourceExhausted) {
			t.Errorf("ShouldAllowBatch: %v, %v", out, err)
		}
	}
	answer, err := rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(t.Context(), envoyAsk(0, "user=alice"))
	if err != nil || answer.GetOverallCode() != rlsv3.RateLimitResponse_OVER_LIMIT {
		t.Errorf("ShouldRateLimit: %v, %v", answer, err)
	}
	for path, body := range map[string]string{
		"/v1/should-allow": `{"namespace":"n","identifier":"i","limits":[{"rate":"5/h"}]}`,
		"/v1/authorize?namespace=n&identifier=i&rate=5/h": "",
	} {
		resp, err := http.Post("http://"+d.HTTPAddr()+path, "application/json", strings.NewReader(body)) //nolint:noctx // the test has a timeout
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "2" {
			t.Errorf("%s: %s, %v", path, resp.Status, resp.Header)
		}
	}
	if n := d.metric(t, "ratelimitd_decisions_total", "outcome=shed", "namespace=n"); n != 2 {
		t.Errorf("%v are counted as shed, want 2", n)
	}
	if n := d.metric(t, "ratelimitd_store_errors_total"); n != 0 {
		t.Errorf("%v are counted as errors of the store", n)
	}
}
