package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// A trustRule says which ports are open to whom.
type trustRule struct {
	Trust
	ports    *ports
	gate     *gate // nil: callers are not known
	failures *auth.Failures
}

// anonymous returns who makes all calls if callers are not known. What does more harm
// than a decision is for those on this machine alone.
func (t *trustRule) anonymous() *auth.Caller {
	operations := []auth.Operation{auth.Decide, auth.Charge, auth.Refund}
	if onLoopback(t.ports.grpc) || t.AllowReset {
		operations = append(operations, auth.Reset)
	}
	if onLoopback(t.ports.http) {
		operations = append(operations, auth.Inspect)
	}
	return auth.Anonymous(operations...)
}

// httpIsOpen reports whether everybody may ask the HTTP port: if clients are not known,
// or if they are known by certificates alone and the port has no TLS to show them by.
func (t *trustRule) httpIsOpen() bool {
	return t.gate == nil || t.gate.directory.Load().Unnamed() && !t.speaks(t.HTTP)
}

// speaks reports whether a port speaks TLS.
func (t *trustRule) speaks(port bool) bool { return t.TLS != nil && port }

// mayReset has next answer only callers who may reset counters over HTTP. If callers are
// not known there, that is for those on this machine alone, whatever the gRPC port is.
func (t *trustRule) mayReset(next http.Handler) http.Handler {
	if !t.httpIsOpen() || t.AllowReset || onLoopback(t.ports.http) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		web.WriteError(w, 0, t.refuseReset())
	})
}

// refuseReset counts that somebody wants to reset counters who may not, and returns the
// error.
func (t *trustRule) refuseReset() error {
	t.failures.Add(auth.ForbiddenOperation)
	return auth.Anonymous(auth.Decide).Check(auth.Reset, "", "")
}

// warn logs, once, what the addresses and the credentials leave open.
func (t *trustRule) warn(logger *slog.Logger) {
	grpcAddr, httpAddr := addrOf(t.ports.grpc), addrOf(t.ports.http)
	grpcIsLocal, httpIsLocal := onLoopback(t.ports.grpc), onLoopback(t.ports.http)
	respIsLocal := t.ports.resp == nil || onLoopback(t.ports.resp)
	switch {
	case t.gate == nil && (!grpcIsLocal || !httpIsLocal || !respIsLocal):
		logger.Warn("no authentication: whoever reaches these addresses can use up the limits of everybody; set --auth-file, or --tls-client-ca, or listen on 127.0.0.1", "grpc", grpcAddr, "http", httpAddr, "resp", addrOf(t.ports.resp))
	case t.httpIsOpen():
		if !httpIsLocal {
			logger.Warn("the HTTP port is open: it has no TLS, so that nobody can show a certificate there; add http to --tls-ports, set --auth-file, or listen on 127.0.0.1", "http", httpAddr)
		}
	case !grpcIsLocal && !t.speaks(t.GRPC) || !httpIsLocal && !t.speaks(t.HTTP) || !respIsLocal && !t.speaks(t.RESP):
		logger.Warn("tokens are sent without encryption to a port without TLS; set --tls-cert and --tls-key, unless a mesh encrypts", "grpc_tls", t.speaks(t.GRPC), "http_tls", t.speaks(t.HTTP), "resp_tls", t.speaks(t.RESP))
	}
	if t.gate == nil && t.ports.admin != nil && !onLoopback(t.ports.admin) {
		logger.Warn("the admin port refuses every request: beyond loopback it needs clients with the operation admin; set --auth-file, or --admin-addr=127.0.0.1:6070", "admin", addrOf(t.ports.admin))
	}
}

// secureGRPC returns the credentials of the gRPC port. While no
// client has a token, one without a certificate fails in the handshake.
func (t *trustRule) secureGRPC(h *handshakes) credentials.TransportCredentials {
	if !t.speaks(t.GRPC) {
		return insecure.NewCredentials()
	}
	required := func() bool { return t.gate != nil && t.gate.directory.Load().NeedsCertificate() }
	return &loggedCredentials{credentials.NewTLS(t.TLS.Server(required, "h2")), h}
}

// secureRESP returns the TLS of the port for the protocol of Redis, or nil. While no client
// has a token, one without a certificate fails in the handshake, as over gRPC.
func (t *trustRule) secureRESP() *tls.Config {
	if !t.speaks(t.RESP) {
		return nil
	}
	return t.TLS.Server(func() bool { return t.gate != nil && t.gate.directory.Load().NeedsCertificate() })
}

// secureHTTP makes h speak TLS. Whether a client must be known, the gate decides for
// each path: health needs no certificate.
func (t *trustRule) secureHTTP(h *http.Server) {
	h.TLSConfig = t.TLS.Server(func() bool { return false }, "h2", "http/1.1")
	h.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxHTTPStreams}
}

// maxHTTPStreams is how many requests may be under way on one connection of HTTP/2.
const maxHTTPStreams = 100

// asCaller has a handler answer every request as one of c.
func asCaller(c *auth.Caller, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(auth.NewContext(r.Context(), c)))
	})
}

// permitted has a handler answer only those whom permit lets do o to the whole daemon.
func permitted(permit func(ctx context.Context, o auth.Operation, namespace, policy string) error, o auth.Operation, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := permit(r.Context(), o, "", ""); err != nil {
			web.WriteError(w, 0, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}
