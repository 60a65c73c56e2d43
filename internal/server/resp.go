package server

import (
	"context"
	"crypto/x509"

	"google.golang.org/grpc/peer"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/server/respapi"
)

// newRESP returns the server of the port for the protocol of Redis. options have what
// neither t nor c knows.
func newRESP(options respapi.Options, t *trustRule, c *chain) *respapi.Server {
	options.Faults, options.Calls, options.Turns, options.TLS = c.faults, respCalls{c.calls}, c.turns, t.secureRESP()
	if t.gate != nil {
		options.Gate = respGate{t.gate}
	} else if !t.AllowReset && !onLoopback(t.ports.resp) {
		options.RefuseReset = t.refuseReset
	}
	return respapi.New(options)
}

// respCalls bound the turns of connections with the calls over gRPC.
type respCalls struct{ *callCounters }

// Begin implements respapi.Calls.
func (c respCalls) Begin() bool {
	if c.underWay.Add(1) <= int64(c.max) {
		return true
	}
	c.underWay.Add(-1)
	c.refused.Add(1)
	return false
}

// End implements respapi.Calls.
func (c respCalls) End() { c.underWay.Add(-1) }

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
