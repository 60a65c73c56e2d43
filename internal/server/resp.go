package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"

	"google.golang.org/grpc/peer"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/respapi"
)

// RESPAddr returns the address that serves the protocol of Redis, or "".
func (s *Server) RESPAddr() string {
	if s.respListener == nil {
		return ""
	}
	return s.respListener.Addr().String()
}

// newRESP returns the server of the port for the protocol of Redis.
func (s *Server) newRESP(o Options, latency *histogram.Histogram) *respapi.Server {
	t := &o.Trust
	options := respapi.Options{
		Core: s.core, Faults: s.chain.faults, Latency: latency, Calls: respCalls{s.chain}, Bounds: o.Bounds,
		TLS: s.secureRESP(t), HandshakeFailed: s.handshakes.failed,
	}
	if s.chain.gate != nil {
		options.Gate = respGate{s.chain.gate}
	} else if !t.AllowReset && !onLoopback(s.respListener) {
		options.RefuseReset = s.refuseReset
	}
	front := respapi.New(options)
	o.Registry.MustRegister(front)
	return front
}

// secureRESP returns the TLS of the port, or nil. While no client has a token, one without
// a certificate fails in the handshake, as over gRPC.
func (s *Server) secureRESP(t *Trust) *tls.Config {
	if !t.speaks(t.RESP) {
		return nil
	}
	return t.TLS.Server(func() bool { return s.chain.gate != nil && s.chain.gate.directory.Load().NeedsCertificate() })
}

// stopRESP stops the port, gracefully until ctx ends. The channel is closed when it has.
func (s *Server) stopRESP(ctx context.Context) <-chan struct{} {
	stopped := make(chan struct{})
	if s.resp == nil {
		close(stopped)
		return stopped
	}
	go func() {
		defer close(stopped)
		if err := s.resp.Shutdown(ctx); err != nil {
			s.logger.Warn("the protocol of Redis: connections are still busy after the drain timeout: ending them", "drain_timeout", s.drain.String())
		}
	}()
	return stopped
}

// respCalls bound the turns of connections with the calls over gRPC: see chain.
type respCalls struct{ *chain }

// Begin implements respapi.Calls.
func (c respCalls) Begin() bool {
	if c.calls.underWay.Add(1) <= int64(c.bounds.Calls) {
		return true
	}
	c.calls.underWay.Add(-1)
	c.calls.refused.Add(1)
	return false
}

// End implements respapi.Calls.
func (c respCalls) End() { c.calls.underWay.Add(-1) }

// respGate is the gate as the protocol of Redis has it.
type respGate struct{ *gate }

// InForce implements respapi.Gate.
func (g respGate) InForce() *auth.Directory { return g.directory.Load() }

// Admit implements respapi.Gate. ctx has the peer.
func (g respGate) Admit(ctx context.Context, token string, certificate *x509.Certificate) (context.Context, error) {
	p := proof{certificate: certificate}
	if token != "" {
		p.authorization = "Bearer " + token
	}
	if from, ok := peer.FromContext(ctx); ok {
		p.from = from.Addr
	}
	return g.admit(ctx, p)
}
