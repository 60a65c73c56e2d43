package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
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

// ShouldAllow implements ratelimitv1.RateLimitServiceServer.
func (s *Server) ShouldAllow(ctx context.Context, in *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
	defer since(time.Now(), s.metrics.latency[methodUnary])
	var response *ratelimitv1.ShouldAllowResponse
	var err error
	s.decide(ctx, []*ratelimitv1.ShouldAllowRequest{in}, func(_ int, _ []strategy.Limit, r *ratelimitv1.ShouldAllowResponse, e error) { response, err = r, e })
	return response, err
}

// ShouldAllowBatch implements ratelimitv1.RateLimitServiceServer.
func (s *Server) ShouldAllowBatch(ctx context.Context, in *ratelimitv1.ShouldAllowBatchRequest) (*ratelimitv1.ShouldAllowBatchResponse, error) {
	defer since(time.Now(), s.metrics.latency[methodBatch])
	return s.batch(ctx, in)
}

// Reset implements ratelimitv1.RateLimitServiceServer.
func (s *Server) Reset(ctx context.Context, in *ratelimitv1.ResetRequest) (*ratelimitv1.ResetResponse, error) {
	var r store.Request
	ns := s.config.Load().Policies.Namespace(in.GetNamespace())
	if _, err := s.resolve(in, ns, &r, nil); err != nil {
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

// batch decides the requests of one message. The error is of a message that is
// itself invalid; those of its requests are in their results.
func (s *Server) batch(ctx context.Context, in *ratelimitv1.ShouldAllowBatchRequest) (*ratelimitv1.ShouldAllowBatchResponse, error) {
	n := len(in.GetRequests())
	if n == 0 || n > maxBatch {
		s.metrics.refused.Inc()
		return nil, invalid("requests", fmt.Sprintf("%d requests; send 1 to %d in a message", n, maxBatch))
	}
	pointers := make([]*ratelimitv1.ShouldAllowResult, n)
	results := make([]ratelimitv1.ShouldAllowResult, n)
	answers := make([]ratelimitv1.ShouldAllowResult_Response, n)
	s.decide(ctx, in.GetRequests(), func(i int, _ []strategy.Limit, response *ratelimitv1.ShouldAllowResponse, err error) {
		if err != nil {
			pointers[i] = failedResult(err)
			return
		}
		answers[i].Response = response
		results[i].Result = &answers[i]
		pointers[i] = &results[i]
	})
	return &ratelimitv1.ShouldAllowBatchResponse{Results: pointers}, nil
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
		s.logger.Error("a call panicked; please report this defect with the stack", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = errPanicked
	}
}
