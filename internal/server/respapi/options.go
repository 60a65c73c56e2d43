package respapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// A Gate knows who asks.
type Gate interface {
	// InForce returns what clients are known by. It is another value once that has
	// changed: then connections find out again who asks.
	InForce() *auth.Directory
	// Admit returns a context with the caller that a token or a certificate belongs to.
	// Either may be missing. The error is an *auth.Refusal.
	Admit(ctx context.Context, token string, certificate *x509.Certificate) (context.Context, error)
}

// Calls bound how many turns are under way, with the calls of other fronts.
type Calls interface {
	Begin() bool // reports whether there may be one more; only then End must follow
	End()
}

// Options say how to make a Server. All are required but Gate, TLS and RefuseReset.
type Options struct {
	Core    *decide.Core
	Faults  *fault.Log
	Latency *histogram.Histogram // of turns that decide
	Calls   Calls
	Bounds  config.Bounds
	Turns   *turns.Turns // of what takes long

	Gate Gate        // nil: everybody may ask
	TLS  *tls.Config // nil: without
	// RefuseReset counts that somebody wants to reset who may not, as callers are neither
	// known nor on this machine, and returns the error. nil: the core knows who may.
	RefuseReset func() error
	// HandshakeFailed is told of a TLS handshake that failed.
	HandshakeFailed func(from, problem string)
}
