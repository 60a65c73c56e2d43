package server

import (
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/durations"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Streams live as long as their clients like. So that one that is idle does not
// hold up a shutdown, the server ends them when it stops.

// ShouldAllowStream implements ratelimitv1.RateLimitServiceServer. When the
// server stops, the message under way is answered and the stream ends.
func (s *Server) ShouldAllowStream(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer) error {
	var ended endedStream
	done := make(chan error, 1)
	s.streams.Go(func() { done <- s.answerStream(stream, &ended) })
	select {
	case err := <-done:
		return err
	case <-s.draining:
		ended.mu.Lock()
		defer ended.mu.Unlock()
		ended.ended = true
		return errStopping
	}
}

// An endedStream says whether a stream's handler has returned, after which
// nothing may be sent.
type endedStream struct {
	mu    sync.Mutex // held while a message is answered; protects the following
	ended bool
}

// answerStream answers the messages of stream until it ends, from either side.
func (s *Server) answerStream(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer, ended *endedStream) (err error) {
	defer s.recovered(ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName, &err)
	for {
		var in receiving
		err := stream.RecvMsg(&in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.answerMessage(stream, in.exchange, ended); err != nil {
			return err
		}
	}
}

func (s *Server) answerMessage(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer, e *exchange, ended *endedStream) error {
	ended.mu.Lock()
	defer ended.mu.Unlock()
	if ended.ended {
		return errStopping
	}
	defer s.metrics.latency[methodStream].Since(durations.Start())
	if err := e.answer(stream.Context(), s); err != nil {
		e.response.Results = append(e.response.GetResults()[:0], failedResult(err))
	}
	return stream.SendMsg(e)
}

// farewell is how long the streams of other services stay when the server
// stops: for a watcher of its health to be told.
const farewell = 100 * time.Millisecond

// endStreams ends the streams of services that are not ours (health and
// reflection) when the server stops.
func (s *Server) endStreams(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if info.FullMethod == ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName {
		return handler(srv, stream)
	}
	ended := &endedSends{ServerStream: stream}
	done := make(chan error, 1)
	s.streams.Go(func() { done <- handler(srv, ended) })
	select {
	case err := <-done:
		return err
	case <-s.draining:
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		ended.mu.Lock()
		defer ended.mu.Unlock()
		ended.ended = true
		return errStopping
	}
}

// endedSends is a stream on which nothing is sent after its handler returned.
type endedSends struct {
	grpc.ServerStream
	endedStream
}

// SendMsg implements grpc.ServerStream.
func (s *endedSends) SendMsg(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errStopping
	}
	return s.ServerStream.SendMsg(m)
}
