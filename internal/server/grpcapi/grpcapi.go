// Package grpcapi is the front of the gRPC API ratelimit.v1: it decodes, calls
// the core, and encodes.
package grpcapi

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// An API answers ratelimit.v1.RateLimitService. New makes it.
type API struct {
	ratelimitv1.UnimplementedRateLimitServiceServer

	o         Options
	exchanges *exchanges
	service   apiv1.Service
}

// New returns an API.
func New(o Options) *API {
	return &API{o: o, exchanges: newExchanges(o.Core, o.Latency, o.Turns), service: apiv1.Service{Core: o.Core}}
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
		default: // those that are called seldom
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
		in := arrival{pool: a.exchanges, single: single}
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
	out, err := a.service.Reset(ctx, in)
	return out, fault.Error(err)
}

// Reserve implements ratelimitv1.RateLimitServiceServer.
func (a *API) Reserve(ctx context.Context, in *ratelimitv1.ReserveRequest) (*ratelimitv1.ReserveResponse, error) {
	out, err := a.service.Reserve(ctx, in)
	return out, fault.Error(err)
}

// Commit implements ratelimitv1.RateLimitServiceServer.
func (a *API) Commit(ctx context.Context, in *ratelimitv1.CommitRequest) (*ratelimitv1.CommitResponse, error) {
	out, err := a.service.Commit(ctx, in)
	return out, fault.Error(err)
}

// Cancel implements ratelimitv1.RateLimitServiceServer.
func (a *API) Cancel(ctx context.Context, in *ratelimitv1.CancelRequest) (*ratelimitv1.CancelResponse, error) {
	out, err := a.service.Cancel(ctx, in)
	return out, fault.Error(err)
}
