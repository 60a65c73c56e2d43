// Package grpcapi is the front of the gRPC API ratelimit.v1: it decodes, calls
// the core, and encodes.
package grpcapi

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// The methods whose messages are timed, as the label of their latency.
const (
	MethodUnary  = "ShouldAllow"
	MethodBatch  = "ShouldAllowBatch"
	MethodStream = "ShouldAllowStream"
)

// Options say how to make an API. All but StreamAge are required.
type Options struct {
	Core    *decide.Core
	Faults  *fault.Log
	Latency *histogram.Vec // by method

	Streams   *sync.WaitGroup // counts the goroutines that answer streams
	Draining  <-chan struct{} // closed when the server begins to stop, which ends streams
	StreamAge time.Duration   // how old a stream becomes; 0: as old as its client likes
}

// An API answers ratelimit.v1.RateLimitService. New makes it.
type API struct {
	ratelimitv1.UnimplementedRateLimitServiceServer

	o         Options
	exchanges sync.Pool // of *exchange
}

// New returns an API.
func New(o Options) *API {
	a := &API{o: o}
	a.exchanges.New = func() any { return newExchange(a) }
	return a
}

// Register has s serve the API. Of the unary methods that decide, the memory of
// the messages is used again.
func (a *API) Register(s *grpc.Server) {
	d := ratelimitv1.RateLimitService_ServiceDesc
	d.Methods = slices.Clone(d.Methods)
	for i := range d.Methods {
		switch m := &d.Methods[i]; m.MethodName {
		case MethodUnary:
			m.Handler = a.handler(ratelimitv1.RateLimitService_ShouldAllow_FullMethodName, true)
		case MethodBatch:
			m.Handler = a.handler(ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName, false)
		default: // Reset
			m.Handler = codec.Refusal(a.o.Faults.Undecodable).Handler("/"+d.ServiceName+"/"+m.MethodName, m.Handler)
		}
	}
	s.RegisterService(&d, a)
}

// handler is gRPC's handler of a unary method, for messages that are single
// requests or batches. It does as the generated one, but for the exchange.
func (a *API) handler(fullMethod string, single bool) grpc.MethodHandler {
	info := &grpc.UnaryServerInfo{Server: a, FullMethod: fullMethod}
	return func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := arrival{api: a, single: single}
		if err := decode(&in); err != nil {
			return nil, err
		}
		if in.err != nil {
			return nil, a.o.Faults.Undecodable(ctx, fullMethod, in.err)
		}
		e := in.exchange
		if single {
			return intercept(ctx, e.request.GetRequests()[0], info, e.answerSingle)
		}
		return intercept(ctx, &e.request, info, e.answerBatch)
	}
}

// Reset implements ratelimitv1.RateLimitServiceServer.
func (a *API) Reset(ctx context.Context, in *ratelimitv1.ResetRequest) (*ratelimitv1.ResetResponse, error) {
	var d apiv1.Decoder
	var r decide.Request
	d.Reset(&r, in)
	if err := a.o.Core.Reset(ctx, &r); err != nil {
		return nil, fault.Error(err)
	}
	return &ratelimitv1.ResetResponse{}, nil
}
