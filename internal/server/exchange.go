package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/codec"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// An exchange is a message of many requests, its answer, and the memory of
// both, which is used again for others: making it anew was a quarter of what a
// decision in a batch costs.
type exchange struct {
	request  ratelimitv1.ShouldAllowBatchRequest
	response ratelimitv1.ShouldAllowBatchResponse

	// Of response.
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
type receiving struct{ *exchange }

var (
	_ codec.Receiver = (*receiving)(nil)
	_ codec.Sender   = (*exchange)(nil)
)

// Received implements codec.Receiver.
func (r *receiving) Received() proto.Message {
	r.exchange = exchanges.Get().(*exchange)
	return &r.request
}

// Sending implements codec.Sender.
func (e *exchange) Sending() proto.Message { return &e.response }

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
	e.responses.clear()
	clear(e.results)
	clear(e.answers)
	clear(e.response.GetResults())
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

// ShouldAllowBatch implements ratelimitv1.RateLimitServiceServer. gRPC calls
// answerBatch in its place.
func (s *Server) ShouldAllowBatch(ctx context.Context, in *ratelimitv1.ShouldAllowBatchRequest) (*ratelimitv1.ShouldAllowBatchResponse, error) {
	var e exchange
	e.request.Requests = in.GetRequests()
	if err := e.answer(ctx, s); err != nil {
		return nil, err
	}
	return &e.response, nil
}

// answerBatch is gRPC's handler of ShouldAllowBatch.
func answerBatch(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
	var in receiving
	if err := decode(&in); err != nil {
		return nil, err
	}
	info := &grpc.UnaryServerInfo{Server: srv, FullMethod: ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName}
	return intercept(ctx, in.exchange, info, func(ctx context.Context, in any) (any, error) {
		s, e := srv.(*Server), in.(*exchange)
		defer since(time.Now(), s.metrics.latency[methodBatch])
		if err := e.answer(ctx, s); err != nil {
			return nil, err
		}
		return e, nil
	})
}

// service is the API's, with our own handler of ShouldAllowBatch.
func service() *grpc.ServiceDesc {
	d := ratelimitv1.RateLimitService_ServiceDesc
	d.Methods = append([]grpc.MethodDesc(nil), d.Methods...)
	for i := range d.Methods {
		if d.Methods[i].MethodName == methodBatch {
			d.Methods[i].Handler = answerBatch
		}
	}
	return &d
}
