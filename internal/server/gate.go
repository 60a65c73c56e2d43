package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
)

const (
	healthService = "/grpc.health.v1.Health/"
	watchHealth   = healthService + "Watch"
)

// A gate finds out who makes a call, and lets nobody pass whom it does not know.
// What a caller may do, the core decides.
type gate struct {
	directory atomic.Pointer[auth.Directory] // that in force
	failures  *auth.Failures
	logger    *slog.Logger
	refused   lograte.Gate
}

// A proof is what a caller shows.
type proof struct {
	authorization string // the header; "" if there is none
	certificate   *x509.Certificate
	from          fmt.Stringer // its address, for the log
}

// admit returns the context of a call, with its caller in it. The error is a
// *auth.Refusal.
func (g *gate) admit(ctx context.Context, p proof) (context.Context, error) {
	caller, err := g.directory.Load().Find(p.authorization, p.certificate)
	if err == nil {
		return auth.NewContext(ctx, caller), nil
	}
	if refusal, ok := errors.AsType[*auth.Refusal](err); ok {
		g.failures.Add(refusal.Reason)
		if calls := g.refused.Pass(time.Now()); calls > 0 {
			g.logger.Warn("a call is refused, as nobody knows who makes it; give its client a token or a certificate, or find out who it is", "peer", p.from.String(), "reason", refusal.Reason.String(), "calls", calls)
		}
	}
	return nil, err
}

// admitGRPC is admit for a gRPC call. Health needs no credentials: those who ask for
// it are often part of the platform, and learn nothing but that. Reflection does need
// them: strangers are shown nothing that they cannot use.
func (g *gate) admitGRPC(ctx context.Context, method string) (context.Context, error) {
	if g == nil || strings.HasPrefix(method, healthService) {
		return ctx, nil
	}
	var p proof
	if values := metadata.ValueFromIncomingContext(ctx, "authorization"); len(values) == 1 {
		p.authorization = values[0]
	}
	if from, ok := peer.FromContext(ctx); ok {
		p.from = from.Addr
		if info, ok := from.AuthInfo.(credentials.TLSInfo); ok {
			p.certificate = verified(&info.State)
		}
	}
	admitted, err := g.admit(ctx, p)
	if err != nil {
		return nil, fault.Error(err)
	}
	return admitted, nil
}

// An address is where an HTTP request comes from.
type address string

// String implements fmt.Stringer.
func (a address) String() string { return string(a) }

// verified returns the certificate that a client has shown, or nil.
func verified(state *tls.ConnectionState) *x509.Certificate {
	if state == nil || len(state.VerifiedChains) == 0 {
		return nil
	}
	return state.VerifiedChains[0][0]
}

// withoutCredentials are the paths that anybody may ask: see admitGRPC.
var withoutCredentials = map[string]bool{"/healthz": true, "/readyz": true, "/healthcheck": true}

// admitHTTP is admit for an HTTP request.
func (g *gate) admitHTTP(r *http.Request) (*http.Request, error) {
	if g == nil || withoutCredentials[r.URL.Path] {
		return r, nil
	}
	p := proof{certificate: verified(r.TLS), from: address(r.RemoteAddr)}
	if values := r.Header.Values("Authorization"); len(values) == 1 {
		p.authorization = values[0]
	}
	ctx, err := g.admit(r.Context(), p)
	if err != nil {
		return nil, err
	}
	return r.WithContext(ctx), nil
}

// admitStream is admitGRPC for a stream.
func (g *gate) admitStream(method string, stream grpc.ServerStream) (grpc.ServerStream, error) {
	if g == nil {
		return stream, nil
	}
	s := &admittedStream{ServerStream: stream, gate: g, method: method, directory: g.directory.Load()}
	var err error
	s.ctx, err = g.admitGRPC(stream.Context(), method)
	return s, err
}

// An admittedStream is a stream whose caller is known. When the directory changes, it
// finds him again with the next message: a token that is withdrawn ends its streams.
type admittedStream struct {
	grpc.ServerStream
	gate      *gate
	method    string
	directory *auth.Directory // that knew the caller of ctx
	ctx       context.Context
}

// Context implements grpc.ServerStream.
func (s *admittedStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream.
func (s *admittedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	inForce := s.gate.directory.Load()
	if inForce == s.directory {
		return nil
	}
	ctx, err := s.gate.admitGRPC(s.ServerStream.Context(), s.method)
	if err != nil {
		return err
	}
	s.ctx, s.directory = ctx, inForce
	return nil
}
