package target

import (
	"context"
	"errors"
	"fmt"
	"sync"

	envoycommon "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoyv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func verdictOf(r *ratelimitv1.ShouldAllowResponse) Verdict {
	switch {
	case r == nil:
		return Failed
	case r.GetReason() == ratelimitv1.Reason_STORE_FAILURE:
		return StoreFailed
	case r.GetAllowed():
		return Allowed
	default:
		return Denied
	}
}

type unary struct {
	client  ratelimitv1.RateLimitServiceClient
	request *ratelimitv1.ShouldAllowRequest
}

func (s *unary) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	s.request.Identifier = identifiers[0]
	out, err := s.client.ShouldAllow(ctx, s.request)
	if err != nil {
		return err
	}
	verdicts[0] = verdictOf(out)
	return nil
}

// A batchRequest is a message that a session sends again and again, with other
// identifiers.
type batchRequest struct {
	prototype *ratelimitv1.ShouldAllowRequest
	message   ratelimitv1.ShouldAllowBatchRequest
}

func (b *batchRequest) about(identifiers []string) *ratelimitv1.ShouldAllowBatchRequest {
	for len(b.message.GetRequests()) < len(identifiers) {
		b.message.Requests = append(b.message.Requests, &ratelimitv1.ShouldAllowRequest{
			Namespace: b.prototype.GetNamespace(), Limits: b.prototype.GetLimits(), Policy: b.prototype.GetPolicy(), Cost: b.prototype.Cost,
		})
	}
	for i, id := range identifiers {
		b.message.Requests[i].Identifier = id
	}
	return &b.message
}

func (b *batchRequest) verdicts(out *ratelimitv1.ShouldAllowBatchResponse, verdicts []Verdict) error {
	results := out.GetResults()
	if len(results) != len(verdicts) {
		if len(results) == 1 && results[0].GetError() != nil {
			return errors.New(results[0].GetError().GetMessage())
		}
		return fmt.Errorf("%d results for %d requests", len(results), len(verdicts))
	}
	for i, r := range results {
		verdicts[i] = verdictOf(r.GetResponse())
		if e := r.GetError(); e != nil && len(results) == 1 {
			return errors.New(e.GetMessage())
		}
	}
	return nil
}

type batch struct {
	client ratelimitv1.RateLimitServiceClient
	batchRequest
}

func (s *batch) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	out, err := s.client.ShouldAllowBatch(ctx, s.about(identifiers))
	if err != nil {
		return err
	}
	return s.verdicts(out, verdicts)
}

// A stream is shared by several sessions, so that many messages are under way on it.
// Answers come in the order of the messages.
type stream struct {
	stream ratelimitv1.RateLimitService_ShouldAllowStreamClient
	done   chan struct{} // closed when the stream has ended
	err    error         // why it has ended; read it only after done is closed

	mu      sync.Mutex // makes sending a message and waiting for its answer one step
	waiting chan chan<- *ratelimitv1.ShouldAllowBatchResponse
}

// maxWaiting is more than the number of sessions that share a stream.
const maxWaiting = 1 << 16

func newStream(ctx context.Context, conn *grpc.ClientConn) (*stream, error) {
	out, err := ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllowStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", err)
	}
	s := &stream{stream: out, done: make(chan struct{}), waiting: make(chan chan<- *ratelimitv1.ShouldAllowBatchResponse, maxWaiting)}
	go s.receive()
	return s, nil
}

func (s *stream) receive() {
	defer close(s.done)
	for {
		out, err := s.stream.Recv()
		if err != nil {
			s.err = err
			return
		}
		select {
		case reply := <-s.waiting:
			reply <- out
		default:
			s.err = errors.New("the server sent an answer without a request")
			return
		}
	}
}

type streamSession struct {
	*stream
	batchRequest
	reply chan *ratelimitv1.ShouldAllowBatchResponse // of length 1
}

func (s *streamSession) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	in := s.about(identifiers)
	s.mu.Lock()
	s.waiting <- s.reply // before Send, because the answer may come before Send returns
	err := s.stream.stream.Send(in)
	s.mu.Unlock()
	if err != nil {
		<-s.done
		return s.err
	}
	select {
	case out := <-s.reply:
		return s.verdicts(out, verdicts)
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

type envoy struct {
	client  envoyv3.RateLimitServiceClient
	request *envoyv3.RateLimitRequest
	entry   *envoycommon.RateLimitDescriptor_Entry
}

func (s *envoy) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	s.entry.Value = identifiers[0]
	out, err := s.client.ShouldRateLimit(ctx, s.request)
	if err != nil {
		return err
	}
	verdicts[0] = envoyVerdict(out.GetOverallCode())
	return nil
}

func envoyVerdict(code envoyv3.RateLimitResponse_Code) Verdict {
	switch code {
	case envoyv3.RateLimitResponse_OK:
		return Allowed
	case envoyv3.RateLimitResponse_OVER_LIMIT:
		return Denied
	default:
		return Failed
	}
}
