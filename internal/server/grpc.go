package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/store"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// The methods, as the label of their latency.
const (
	methodUnary     = "ShouldAllow"
	methodBatch     = "ShouldAllowBatch"
	methodStream    = "ShouldAllowStream"
	methodEnvoy     = "ShouldRateLimit"
	methodHTTP      = "/v1/should-allow"
	methodAuthorize = "/v1/authorize"
)

// Reset implements ratelimitv1.RateLimitServiceServer.
func (s *Server) Reset(ctx context.Context, in *ratelimitv1.ResetRequest) (*ratelimitv1.ResetResponse, error) {
	var r store.Request
	ns := s.config.Load().Policies.Namespace(in.GetNamespace())
	if _, err := s.resolve(in, ns, &r, nil, new(lastLimits)); err != nil {
		s.metrics.refused.Inc()
		return nil, err
	}
	if s.fallback != nil {
		if err := s.fallback.Reset(ctx, &r); err != nil {
			return nil, storeFailed(err)
		}
	}
	if err := s.store.Reset(ctx, &r); err != nil {
		if gone := callerGone(ctx); gone != nil {
			return nil, gone
		}
		s.metrics.storeErrors.Inc()
		return nil, storeFailed(err)
	}
	return &ratelimitv1.ResetResponse{}, nil
}

func failedResult(err error) *ratelimitv1.ShouldAllowResult {
	return &ratelimitv1.ShouldAllowResult{Result: &ratelimitv1.ShouldAllowResult_Error{Error: status.Convert(err).Proto()}}
}

// recoverUnary turns a panic into the status of the one call it concerns.
func (s *Server) recoverUnary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (out any, err error) {
	defer s.recovered(info.FullMethod, &err)
	return handler(ctx, in)
}

// recovered, deferred, recovers from a panic: a defect of ours, which is logged
// and sets err.
func (s *Server) recovered(method string, err *error) {
	if p := recover(); p != nil {
		s.metrics.panics.Inc()
		if calls := s.panicked.due(time.Now()); calls > 0 { // who finds what panics may send it again and again
			s.logger.Error("a call panicked; please report this defect with the stack", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()), "calls", calls)
		}
		*err = errPanicked
	}
}
