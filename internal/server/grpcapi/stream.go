package grpcapi

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Streams live as long as their clients like. So that an idle one does not hold
// up a shutdown, nor hold its client to one server for ever, the server ends
// them: when it stops, and when they are old.

// ShouldAllowStream implements ratelimitv1.RateLimitServiceServer. When the
// stream is to end, the message under way is answered first.
func (a *API) ShouldAllowStream(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer) error {
	var end streamEnd
	done := make(chan error, 1)
	a.o.Streams.Go(func() { done <- a.answerStream(stream, &end) })
	old := time.NewTimer(a.o.Bounds.ConnectionAge)
	defer old.Stop()
	late := time.NewTimer(a.o.Bounds.MessageTimeout)
	defer late.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-old.C:
			return end.with(fault.ErrStreamAge)
		case <-a.o.Draining:
			return end.with(fault.ErrStopping)
		case <-late.C:
			if !end.received.Load() {
				return end.with(fault.ErrNoMessage)
			}
		}
	}
}

// A streamEnd is why the handler of a stream has returned, after which nothing
// may be sent.
type streamEnd struct {
	received atomic.Bool // whether a message has arrived

	mu  sync.Mutex // held while a message is answered; protects the following
	err error      // nil: it has not returned
}

// with ends the stream with err, which it returns.
func (s *streamEnd) with(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	return err
}

// answerStream answers the messages of stream until it ends, from either side.
func (a *API) answerStream(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer, end *streamEnd) (err error) {
	defer a.o.Faults.Recover(ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName, &err)
	latency := a.o.Latency.Of(MethodStream)
	call := inflight.CallFrom(stream.Context())
	for {
		in := arrival{pool: a.exchanges}
		err := stream.RecvMsg(&in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		end.received.Store(true)
		call.Decoded(in.bytes)
		if in.err != nil {
			return a.o.Faults.Undecodable(stream.Context(), ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName, in.err)
		}
		if err := in.answerMessage(stream, end, latency); err != nil {
			return err
		}
	}
}

// answerMessage answers one message of stream, which is e.
func (e *exchange) answerMessage(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer, end *streamEnd, latency *histogram.Histogram) error {
	end.mu.Lock()
	defer end.mu.Unlock()
	if end.err != nil {
		return end.err
	}
	defer latency.Since(histogram.Start())
	if err := e.decide(stream.Context()); err != nil {
		e.response.Results = append(e.response.GetResults()[:0], fault.Result(err))
	}
	return stream.SendMsg(e)
}
