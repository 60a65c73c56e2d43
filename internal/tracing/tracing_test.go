package tracing_test

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/tracing"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A collector receives spans by OTLP.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer

	mu    sync.Mutex // protects the following
	spans []*tracev1.Span
	about map[string]string // the resource's attributes
}

// Export implements collectorv1.TraceServiceServer.
func (c *collector) Export(_ context.Context, in *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range in.GetResourceSpans() {
		for _, a := range r.GetResource().GetAttributes() {
			c.about[a.GetKey()] = a.GetValue().GetStringValue()
		}
		for _, s := range r.GetScopeSpans() {
			c.spans = append(c.spans, s.GetSpans()...)
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// TestSpans has a daemon answer a caller that is within a trace, and looks at
// what a collector receives.
func TestSpans(t *testing.T) {
	received := &collector{about: map[string]string{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	otlp := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(otlp, received)
	done := make(chan error, 1)
	go func() { done <- otlp.Serve(listener) }()
	t.Cleanup(func() {
		otlp.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	t.Setenv("OTEL_SERVICE_NAME", "limits")

	spans, err := tracing.NewProvider(t.Context(), "v1.2.3", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	counters, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Options{
		GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", GRPC: []grpc.ServerOption{tracing.GRPC(spans)},
		Store: tracing.NewStore(counters, "memory", spans), StoreName: "memory", Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	const traceID, callerID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	within := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+traceID+"-"+callerID+"-01")
	request := &ratelimitv1.ShouldAllowRequest{Namespace: "a", Identifier: "b", Limits: []*ratelimitv1.Limit{{Rate: "0/s"}}}
	if _, err := ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(within, request); err != nil {
		t.Fatal(err)
	}
	if _, err := healthpb.NewHealthClient(conn).Check(within, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	stop()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	flush, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := spans.Shutdown(flush); err != nil {
		t.Fatal(err)
	}

	received.mu.Lock()
	defer received.mu.Unlock()
	find := func(name string) *tracev1.Span {
		i := slices.IndexFunc(received.spans, func(s *tracev1.Span) bool { return s.GetName() == name })
		if i < 0 {
			t.Fatalf("no span is called %q: %v", name, received.spans)
		}
		return received.spans[i]
	}
	call, decide := find("ratelimit.v1.RateLimitService/ShouldAllow"), find("memory Decide")
	if len(received.spans) != 2 {
		t.Errorf("%d spans, want that of the call and that of the store: %v", len(received.spans), received.spans)
	}
	if hex.EncodeToString(call.GetTraceId()) != traceID || hex.EncodeToString(call.GetParentSpanId()) != callerID {
		t.Errorf("the call's span is not within the caller's: %v", call)
	}
	if string(decide.GetParentSpanId()) != string(call.GetSpanId()) || string(decide.GetTraceId()) != string(call.GetTraceId()) {
		t.Errorf("the store's span is not within the call's: %v", decide)
	}
	counts := map[string]int64{}
	for _, a := range decide.GetAttributes() {
		counts[a.GetKey()] = a.GetValue().GetIntValue()
	}
	if counts["ratelimitd.requests"] != 1 || counts["ratelimitd.denied"] != 1 {
		t.Errorf("the store's span says %v", decide.GetAttributes())
	}
	if received.about["service.name"] != "limits" || received.about["service.version"] != "v1.2.3" {
		t.Errorf("the spans are of %v", received.about)
	}
}
