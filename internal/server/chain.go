package server

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
	"github.com/ratelimitd/ratelimitd/internal/turns"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A chain is what every call passes before and after its front, in this order:
//
//  1. It is counted, by method and by the code that it ends with. Unary calls beyond
//     the bound on them end here; most do so in the tap, before their message is read.
//  2. A panic ends this call alone, and is logged.
//  3. If the daemon knows its callers: who makes the call is put into its context,
//     and a call of somebody unknown ends here. What the caller may do, the core
//     decides.
//  4. Streams alone: a message that cannot be decoded is INVALID_ARGUMENT. (The
//     handlers of unary methods do that, as they decode.)
//  5. Streams of other services alone: they end when the server stops.
type chain struct {
	calls    *callCounters
	gate     *gate // nil: callers are not known
	faults   *fault.Log
	streams  *sync.WaitGroup // the goroutines that answer streams
	draining <-chan struct{} // closed when the server begins to stop
	turns    *turns.Turns    // of what takes long

	messageTimeout time.Duration // how long a call's message may take to arrive
}

// tap is called when a call begins, before any of its message is read. It refuses what is
// beyond the bound on calls, and gives the rest a deadline until which its message
// must have arrived. (It is that of the whole call: no decision takes as long. Streams of
// our API have bounds of their own, and whoever watches health may do so for long. What asks
// for one decision is ended below gRPC: a deadline was a twentieth of what it took.)
func (c *chain) tap(ctx context.Context, call *tap.Info) (context.Context, error) {
	once := asksOnce(call.FullMethodName)
	begun, ok := inflight.Begin(ctx, once)
	if !ok {
		return nil, fault.ErrTooManyBytes
	}
	if call.FullMethodName != ratelimitv1.RateLimitService_ShouldAllow_FullMethodName { // whose answers are small
		ctx = inflight.NewCallContext(ctx, begun)
	}
	if call.FullMethodName == ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName || call.FullMethodName == watchHealth {
		return ctx, nil
	}
	if c.calls.underWay.Load() >= int64(c.calls.max) && !strings.HasPrefix(call.FullMethodName, healthService) {
		c.calls.refused.Add(1)
		return nil, fault.ErrTooManyCalls
	}
	if once && begun != (inflight.Call{}) {
		return ctx, nil
	}
	latest := time.Now().Add(c.messageTimeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(latest) {
		return ctx, nil // gRPC ends it by then
	}
	ctx, cancel := context.WithDeadline(ctx, latest)
	_ = cancel // gRPC cancels the context above it when the call ends
	return ctx, nil
}

// asksOnce reports whether a method asks for one decision, so that nothing of it waits for long
// but its message.
func asksOnce(method string) bool {
	return method == ratelimitv1.RateLimitService_ShouldAllow_FullMethodName || method == rlsv3.RateLimitService_ShouldRateLimit_FullMethodName
}

// unary is the chain of unary calls. It is one function, as gRPC makes an
// allocation a call for each further one.
func (c *chain) unary(ctx context.Context, in any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (out any, err error) {
	call := c.calls.start(info.FullMethod, typeUnary)
	underWay := c.calls.underWay.Add(1)
	defer func() { c.calls.underWay.Add(-1); call.end(err) }()
	defer c.faults.Recover(info.FullMethod, &err)
	if underWay > int64(c.calls.max) && !strings.HasPrefix(info.FullMethod, healthService) {
		c.calls.refused.Add(1)
		return nil, fault.ErrTooManyCalls
	}
	if ctx, err = c.gate.admitGRPC(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, in)
}

// stream is the chain of streams.
func (c *chain) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	call := c.calls.start(info.FullMethod, typeStream)
	defer func() { call.end(err) }()
	defer c.faults.Recover(info.FullMethod, &err)
	if stream, err = c.gate.admitStream(info.FullMethod, stream); err != nil {
		return err
	}
	stream = codec.Refusal(c.faults.Undecodable).Stream(info.FullMethod, stream)
	if info.FullMethod == ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName {
		return handler(srv, stream) // it ends by itself, with the message under way answered
	}
	return c.endWhenDraining(srv, stream, handler)
}

// http is the chain of HTTP requests. (Their counts and times are the fronts'.)
func (c *chain) http(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		defer func() {
			if err != nil {
				web.WriteError(w, 0, err)
			}
		}()
		defer c.faults.Recover("HTTP", &err)
		admitted, refusal := c.gate.admitHTTP(r)
		if refusal != nil {
			err = refusal
			return
		}
		next.ServeHTTP(w, admitted)
	})
}

// farewell is how long the streams of other services stay when the server
// stops: for a watcher of its health to be told.
const farewell = 100 * time.Millisecond

// endWhenDraining handles a stream, and ends it when the server stops.
func (c *chain) endWhenDraining(srv any, stream grpc.ServerStream, handler grpc.StreamHandler) error {
	closable := &closableStream{ServerStream: stream}
	done := make(chan error, 1)
	c.streams.Go(func() {
		var err error
		defer func() { done <- err }()
		defer c.faults.Recover("a stream of another service", &err)
		err = handler(srv, closable)
	})
	select {
	case err := <-done:
		return err
	case <-c.draining:
	}
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		closable.close()
		return fault.ErrStopping
	}
}

// A closableStream is a stream on which nothing is sent after it is closed.
type closableStream struct {
	grpc.ServerStream
	mu     sync.Mutex // held while a message is sent; protects the following
	closed bool
}

func (s *closableStream) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// RecvMsg implements grpc.ServerStream.
func (s *closableStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if message, ok := m.(proto.Message); ok && err == nil {
		inflight.CallFrom(s.Context()).Decoded(proto.Size(message))
	}
	return err
}

// SendMsg implements grpc.ServerStream.
func (s *closableStream) SendMsg(m any) error {
	if message, ok := m.(proto.Message); ok {
		inflight.CallFrom(s.Context()).Reply(proto.Size(message))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fault.ErrStopping
	}
	return s.ServerStream.SendMsg(m)
}
