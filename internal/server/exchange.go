package server

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/codec"
	"github.com/ratelimitd/ratelimitd/internal/durations"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// An exchange is a message of requests, its answer, and the memory of both,
// which is used again for others: making it anew was most of what the handlers
// cost.
type exchange struct {
	request  ratelimitv1.ShouldAllowBatchRequest
	response ratelimitv1.ShouldAllowBatchResponse
	single   *ratelimitv1.ShouldAllowResponse // the answer to a request that came alone; nil: response is

	// Of the answers.
	responses responses
	results   []ratelimitv1.ShouldAllowResult
	answers   []ratelimitv1.ShouldAllowResult_Response
}

// maxKept is how many requests a message may have whose memory is kept: a few
// very large messages are not to hold on to theirs. Nor is one with a request of
// more limits than are valid.
const maxKept = 256

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// A receiving is an exchange that begins when its request has arrived: a stream
// on which none does holds no memory.
type receiving struct {
	*exchange
	alone bool // it is one request, and no batch
}

var (
	_ codec.Receiver = (*receiving)(nil)
	_ codec.Sender   = (*exchange)(nil)
)

// Received implements codec.Receiver.
func (r *receiving) Received() proto.Message {
	r.exchange = exchanges.Get().(*exchange)
	if r.alone {
		return r.first()
	}
	return &r.request
}

// first returns the request of e, which has none yet, for a message that is
// one request.
func (e *exchange) first() *ratelimitv1.ShouldAllowRequest {
	if requests := e.request.GetRequests(); cap(requests) > 0 && requests[:1][0] != nil {
		e.request.Requests = requests[:1]
	} else {
		e.request.Requests = []*ratelimitv1.ShouldAllowRequest{{}}
	}
	return e.request.Requests[0]
}

// Sending implements codec.Sender.
func (e *exchange) Sending() proto.Message {
	if e.single != nil {
		return e.single
	}
	return &e.response
}

// Sent implements codec.Sender. Nobody may use e after it.
func (e *exchange) Sent() {
	if len(e.request.GetRequests()) > maxKept {
		return
	}
	for _, r := range e.request.GetRequests() {
		if len(r.GetLimits()) > strategy.MaxLimits {
			return
		}
	}
	e.request.ResetVT()
	e.single = nil
	e.responses.clear()
	clear(e.results)
	clear(e.answers)
	clear(e.response.GetResults())
	e.results, e.answers, e.response.Results = e.results[:0], e.answers[:0], e.response.Results[:0]
	exchanges.Put(e)
}

// answer decides the requests of e. The error is of a message that is itself
// invalid; those of its requests are in their results.
func (e *exchange) answer(ctx context.Context, s *Server) error {
	n := len(e.request.GetRequests())
	if n == 0 || n > maxBatch {
		s.metrics.refused.Inc()
		return invalid("requests", fmt.Sprintf("%d requests; send 1 to %d in a message", n, maxBatch))
	}
	e.response.Results = resized(e.response.GetResults(), n)
	e.results, e.answers = resized(e.results, n), resized(e.answers, n)
	s.decideInto(ctx, e.request.GetRequests(), &e.responses, func(i int, _ []strategy.Limit, response *ratelimitv1.ShouldAllowResponse, err error) {
		if err != nil {
			e.response.Results[i] = failedResult(err)
			return
		}
		e.answers[i].Response = response
		e.results[i].Result = &e.answers[i]
		e.response.Results[i] = &e.results[i]
	})
	return nil
}

// answerAlone decides the one request of e.
func (e *exchange) answerAlone(ctx context.Context, s *Server) (err error) {
	s.decideInto(ctx, e.request.GetRequests(), &e.responses, func(_ int, _ []strategy.Limit, response *ratelimitv1.ShouldAllowResponse, failed error) {
		e.single, err = response, failed
	})
	return err
}

// ShouldAllow implements ratelimitv1.RateLimitServiceServer.
func (s *Server) ShouldAllow(ctx context.Context, in *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
	var e exchange
	e.request.Requests = []*ratelimitv1.ShouldAllowRequest{in}
	err := e.answerAlone(ctx, s)
	return e.single, err
}

// ShouldAllowBatch implements ratelimitv1.RateLimitServiceServer.
func (s *Server) ShouldAllowBatch(ctx context.Context, in *ratelimitv1.ShouldAllowBatchRequest) (*ratelimitv1.ShouldAllowBatchResponse, error) {
	var e exchange
	e.request.Requests = in.GetRequests()
	if err := e.answer(ctx, s); err != nil {
		return nil, err
	}
	return &e.response, nil
}

// service is the API's, but gRPC calls ShouldAllow and ShouldAllowBatch with
// exchanges.
func (s *Server) service() *grpc.ServiceDesc {
	d := ratelimitv1.RateLimitService_ServiceDesc
	d.Methods = slices.Clone(d.Methods)
	for i := range d.Methods {
		switch m := &d.Methods[i]; m.MethodName {
		case methodUnary:
			m.Handler = s.handler(ratelimitv1.RateLimitService_ShouldAllow_FullMethodName, m.MethodName, true, (*exchange).answerAlone)
		case methodBatch:
			m.Handler = s.handler(ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName, m.MethodName, false, (*exchange).answer)
		}
	}
	return &d
}

// handler is gRPC's handler of a method that answer answers, as the one that is
// generated but for the exchange.
func (s *Server) handler(fullMethod, method string, alone bool, answer func(*exchange, context.Context, *Server) error) grpc.MethodHandler {
	latency := s.metrics.latency[method]
	info := &grpc.UnaryServerInfo{Server: s, FullMethod: fullMethod}
	handle := func(ctx context.Context, in any) (any, error) {
		defer latency.Since(durations.Start())
		e := in.(*exchange)
		if err := answer(e, ctx, s); err != nil {
			return nil, err
		}
		return e, nil
	}
	return func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := receiving{alone: alone}
		if err := decode(&in); err != nil {
			return nil, err
		}
		return intercept(ctx, in.exchange, info, handle)
	}
}
