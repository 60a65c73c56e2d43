package codec

import (
	"context"

	"google.golang.org/grpc"
)

// A Receiver stands for a message to be received. It is told if that cannot be
// decoded, so that a server can answer that the argument is invalid: an error of
// Unmarshal gRPC itself answers as an internal error.
type Receiver interface {
	// Received returns the message to decode into, which is empty. It is
	// called when one has arrived, in so many bytes.
	Received(bytes int) any
	// Undecodable is called if it cannot be decoded.
	Undecodable(err error)
}

// A Refusal is what a server does about a message that cannot be decoded, by its
// method. It returns what the caller is told.
type Refusal func(ctx context.Context, method string, err error) error

// An envelope is the Receiver of a message that is none itself.
type envelope struct {
	message any
	err     error // why it cannot be decoded, or nil
}

// Received implements Receiver.
func (e *envelope) Received(int) any { return e.message }

// Undecodable implements Receiver.
func (e *envelope) Undecodable(err error) { e.err = err }

// Handler returns a handler of a method which does as h, but refuses messages
// that cannot be decoded.
func (r Refusal) Handler(fullMethod string, h grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		return h(srv, ctx, func(m any) error {
			e := envelope{message: m}
			if err := decode(&e); err != nil || e.err == nil {
				return err
			}
			return r(ctx, fullMethod, e.err)
		}, intercept)
	}
}

// Stream returns a stream which does as s, but refuses messages that cannot be
// decoded. A Receiver it leaves to whoever receives it.
func (r Refusal) Stream(fullMethod string, s grpc.ServerStream) grpc.ServerStream {
	return refusingStream{s, r, fullMethod}
}

type refusingStream struct {
	grpc.ServerStream
	refuse Refusal
	method string
}

// RecvMsg implements grpc.ServerStream.
func (s refusingStream) RecvMsg(m any) error {
	if _, ok := m.(Receiver); ok {
		return s.ServerStream.RecvMsg(m)
	}
	e := envelope{message: m}
	if err := s.ServerStream.RecvMsg(&e); err != nil || e.err == nil {
		return err
	}
	return s.refuse(s.Context(), s.method, e.err)
}
