// Package tracing makes the daemon take part in distributed traces: it exports a
// span for each gRPC call, within the caller's trace, and one below it for the
// store.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc/filters"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// NewProvider returns a provider that exports spans by OTLP over gRPC, to where
// the standard variables say: OTEL_EXPORTER_OTLP_ENDPOINT and the others of that
// kind; OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES. It does
// not wait for the collector, and loses spans that it cannot hand over. Shutdown
// hands over what is left. What goes wrong meanwhile is logged, by way of logger.
func NewProvider(ctx context.Context, version string, logger *slog.Logger) (*sdktrace.TracerProvider, error) {
	logTo(logger)
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", "ratelimitd"), attribute.String("service.version", version)),
		resource.WithFromEnv(), // wins over the above
	)
	if err != nil { // an attribute is missing, which is no reason to trace nothing
		otel.Handle(fmt.Errorf("the attributes of all spans: %w", err))
	}
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)), nil
}

// GRPC returns the option that makes a gRPC server record a span for each call,
// within the trace that the caller names by the headers of W3C's Trace Context.
// Health checks have none.
func GRPC(provider trace.TracerProvider) grpc.ServerOption {
	return grpc.StatsHandler(otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(provider),
		otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(filters.Not(filters.HealthCheck())),
	))
}

// A Store is a store.Store in front of another, with a span for each decision
// and reset.
type Store struct {
	store.Store
	name   string
	tracer trace.Tracer
}

// NewStore returns a Store in front of s, which it owns. name is how spans call s.
func NewStore(s store.Store, name string, provider trace.TracerProvider) *Store {
	return &Store{s, name, provider.Tracer("github.com/ratelimitd/ratelimitd/internal/tracing")}
}

// Decide implements store.Store.
func (s *Store) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	ctx, span := s.start(ctx, "Decide")
	defer span.End()
	s.Store.Decide(ctx, requests, results)
	denied := 0
	for i := range results {
		switch {
		case results[i].Err != nil:
			span.SetStatus(codes.Error, results[i].Err.Error())
		case !results[i].Allowed:
			denied++
		}
	}
	span.SetAttributes(attribute.Int("ratelimitd.requests", len(requests)), attribute.Int("ratelimitd.denied", denied))
}

// Reset implements store.Store.
func (s *Store) Reset(ctx context.Context, r *store.Request) error {
	ctx, span := s.start(ctx, "Reset")
	defer span.End()
	err := s.Store.Reset(ctx, r)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

func (s *Store) start(ctx context.Context, operation string) (context.Context, trace.Span) {
	return s.tracer.Start(ctx, s.name+" "+operation, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("ratelimitd.store", s.name)))
}

// flushTimeout is the longest that a shutdown waits for a collector.
const flushTimeout = 5 * time.Second

// Flush hands over the spans that are left, and shuts provider down.
func Flush(provider *sdktrace.TracerProvider, logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil {
		logger.Warn("the last spans are lost", "error", err)
	}
}
