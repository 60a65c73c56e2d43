// Package respapi is the front of the API over the protocol of Redis (RESP 2 and 3): it
// decodes commands, calls the core, and encodes replies. Each client of Redis, in any
// language, is so a client of the daemon. It also answers CL.THROTTLE as redis-cell does,
// and THROTTLE as throttlecrab does.
//
// A connection is one goroutine. What it has received at a time is a turn: the commands
// are parsed, those that ask for a decision are decided as one batch of the core, and all
// replies are written at once. So a client that sends many commands before it reads the
// replies pays for the work of few.
//
// The package reads the protocol itself, in parse.go: see docs/dependencies.md.
package respapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/peer"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
)

// Method is the label of the latency of turns.
const Method = "RESP"

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

	Gate Gate        // nil: everybody may ask
	TLS  *tls.Config // nil: without
	// RefuseReset counts that somebody wants to reset who may not, as callers are neither
	// known nor on this machine, and returns the error. nil: the core knows who may.
	RefuseReset func() error
	// HandshakeFailed is told of a TLS handshake that failed.
	HandshakeFailed func(from, problem string)
}

// A Server answers connections. New makes it. It is safe for concurrent use.
type Server struct {
	o        Options
	commands commandCounts
	turns    sync.Pool // of *turn
	ids      atomic.Int64

	ctx      context.Context // of all that is asked; cut when the time to drain is over
	cut      context.CancelFunc
	draining atomic.Bool

	serving sync.WaitGroup // the goroutines of connections

	mu       sync.Mutex // protects the following
	listener net.Listener
	conns    map[*conn]struct{} // nil once the server has begun to stop
}

// New returns a Server.
func New(o Options) *Server {
	s := &Server{o: o, conns: map[*conn]struct{}{}}
	s.turns.New = func() any { return new(turn) }
	s.ctx, s.cut = context.WithCancel(context.Background())
	return s
}

// Serve answers the connections that l accepts, until Shutdown: then it returns nil. The
// error is that of l.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	stopped := s.conns == nil
	s.mu.Unlock()
	if stopped {
		_ = l.Close()
		return nil
	}
	for {
		raw, err := l.Accept()
		switch {
		case err == nil:
			s.start(raw)
		case s.draining.Load():
			return nil
		default:
			return err
		}
	}
}

// start answers a connection in a goroutine of its own.
func (s *Server) start(raw net.Conn) {
	c := &conn{server: s, Conn: raw, raw: raw, id: s.ids.Add(1)}
	c.base = peer.NewContext(s.ctx, &peer.Peer{Addr: raw.RemoteAddr()})
	s.mu.Lock()
	open := s.conns != nil
	if open {
		s.conns[c] = struct{}{}
		s.serving.Add(1)
	}
	s.mu.Unlock()
	if !open {
		_ = raw.Close()
		return
	}
	go func() {
		defer s.serving.Done()
		defer s.forget(c)
		c.serve()
	}()
}

func (s *Server) forget(c *conn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Shutdown takes no new connections, has what the others have received answered and
// closes them. When ctx ends it cuts short what is still under way.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.mu.Lock()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	conns := s.conns
	s.conns = nil
	for c := range conns {
		c.wake()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.serving.Wait(); close(done) }()
	defer s.cut()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cut()
	for c := range conns { // those that wait for a client to read
		_ = c.raw.Close()
	}
	<-done
	return errors.New("connections of the Redis protocol were cut")
}
