package server

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// Trust says how the daemon and its callers know one another. The zero Trust has no
// TLS. Whether callers are known at all, Config.Clients says.
type Trust struct {
	TLS *keypair.Pair // nil: no port speaks TLS
	// The ports that speak it. The admin port does only beyond loopback.
	GRPC, HTTP, Admin, RESP bool
	// AllowReset lets everybody reset counters, on any address, if callers are not
	// known.
	AllowReset bool
	AdminHosts []string // that the admin port answers to beside loopback
}

// anonymous returns who makes all calls if callers are not known. What does more harm
// than a decision is for those on this machine alone.
func (s *Server) anonymous(t *Trust) *auth.Caller {
	operations := []auth.Operation{auth.Decide, auth.Charge, auth.Refund}
	if onLoopback(s.grpcListener) || t.AllowReset {
		operations = append(operations, auth.Reset)
	}
	if onLoopback(s.httpListener) {
		operations = append(operations, auth.Inspect)
	}
	return auth.Anonymous(operations...)
}

// mayReset has next answer only callers who may reset counters over HTTP. If callers are
// not known there, that is for those on this machine alone, whatever the gRPC port is.
func (s *Server) mayReset(t *Trust, next http.Handler) http.Handler {
	if !s.httpIsOpen(t) || t.AllowReset || onLoopback(s.httpListener) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		web.WriteError(w, 0, s.refuseReset())
	})
}

// refuseReset counts that somebody wants to reset counters who may not, and returns the
// error.
func (s *Server) refuseReset() error {
	s.failures.Add(auth.ForbiddenOperation)
	return auth.Anonymous(auth.Decide).Check(auth.Reset, "", "")
}

// onLoopback reports whether only this machine reaches a listener.
func onLoopback(l net.Listener) bool {
	addr, ok := l.Addr().(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// httpIsOpen reports whether everybody may ask the HTTP port: if clients are not known,
// or if they are known by certificates alone and the port has no TLS to show them by.
func (s *Server) httpIsOpen(t *Trust) bool {
	return s.chain.gate == nil || s.chain.gate.directory.Load().Unnamed() && !t.speaks(t.HTTP)
}

// asCaller has a handler answer every request as one of c.
func asCaller(c *auth.Caller, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(auth.NewContext(r.Context(), c)))
	})
}

// warnOfTrust logs, once, what the addresses and the credentials leave open.
func (s *Server) warnOfTrust(t *Trust) {
	redis := s.respListener != nil && !onLoopback(s.respListener)
	open := !onLoopback(s.grpcListener) || !onLoopback(s.httpListener) || redis
	switch {
	case open && s.chain.gate == nil:
		s.logger.Warn("no authentication: whoever reaches these addresses can use up the limits of everybody; set --auth-file, or --tls-client-ca, or listen on 127.0.0.1", "grpc", s.GRPCAddr(), "http", s.HTTPAddr(), "resp", s.RESPAddr())
	case s.httpIsOpen(t):
		if !onLoopback(s.httpListener) {
			s.logger.Warn("the HTTP port is open: it has no TLS, so that nobody can show a certificate there; add http to --tls-ports, set --auth-file, or listen on 127.0.0.1", "http", s.HTTPAddr())
		}
	case !onLoopback(s.grpcListener) && !t.speaks(t.GRPC) || !onLoopback(s.httpListener) && !t.speaks(t.HTTP) || redis && !t.speaks(t.RESP):
		if s.chain.gate != nil {
			s.logger.Warn("tokens are sent without encryption to a port without TLS; set --tls-cert and --tls-key, unless a mesh encrypts", "grpc_tls", t.speaks(t.GRPC), "http_tls", t.speaks(t.HTTP), "resp_tls", t.speaks(t.RESP))
		}
	}
	if s.adminListener != nil && !onLoopback(s.adminListener) && s.chain.gate == nil {
		s.logger.Warn("the admin port refuses every request: beyond loopback it needs clients with the operation admin; set --auth-file, or --admin-addr=127.0.0.1:6070", "admin", s.AdminAddr())
	}
}

// speaks reports whether a port speaks TLS.
func (t *Trust) speaks(port bool) bool { return t.TLS != nil && port }

// secureGRPC returns the credentials of the gRPC port, or nil without TLS. While no
// client has a token, one without a certificate fails in the handshake.
func (s *Server) secureGRPC(t *Trust) credentials.TransportCredentials {
	if !t.speaks(t.GRPC) {
		return nil
	}
	required := func() bool { return s.chain.gate != nil && s.chain.gate.directory.Load().NeedsCertificate() }
	return &loggedCredentials{credentials.NewTLS(t.TLS.Server(required, "h2")), s.handshakes}
}

// serveHTTP serves on l, with TLS if h has it.
func serveHTTP(h *http.Server, l net.Listener) error {
	if h.TLSConfig != nil {
		return h.ServeTLS(l, "", "")
	}
	return h.Serve(l)
}

// secureHTTP makes h speak TLS. Whether a client must be known, the gate decides for
// each path: health needs no certificate.
func secureHTTP(t *Trust, h *http.Server) {
	h.TLSConfig = t.TLS.Server(func() bool { return false }, "h2", "http/1.1")
	h.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxHTTPStreams}
}

// maxHTTPStreams is how many requests may be under way on one connection of HTTP/2.
const maxHTTPStreams = 100

// handshakes count and log TLS handshakes that fail.
type handshakes struct {
	failures *auth.Failures
	logger   *slog.Logger
	gate     lograte.Gate
}

// failed notes a handshake that failed, unless the client only went away, as probes of
// ports do.
func (h *handshakes) failed(from, problem string) {
	h.failures.Add(auth.Handshake)
	if n := h.gate.Pass(time.Now()); n > 0 {
		h.logger.Warn("a TLS handshake failed; look at the certificates of both sides", "peer", from, "error", problem, "handshakes", n)
	}
}

// loggedCredentials tell of handshakes that fail.
type loggedCredentials struct {
	credentials.TransportCredentials
	handshakes *handshakes
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *loggedCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) {
		c.handshakes.failed(conn.RemoteAddr().String(), err.Error())
	}
	return secure, info, err
}

// Clone implements credentials.TransportCredentials.
func (c *loggedCredentials) Clone() credentials.TransportCredentials {
	return &loggedCredentials{c.TransportCredentials.Clone(), c.handshakes}
}

// httpLog returns the logger of the http.Server of a port.
func (s *Server) httpLog(port string) *log.Logger {
	return log.New(&httpLog{s.handshakes, newErrorLog(s.logger, port)}, "", 0)
}

// An httpLog takes the lines of an http.Server apart.
type httpLog struct {
	handshakes *handshakes
	rest       *errorLog
}

// Write implements io.Writer.
func (l *httpLog) Write(line []byte) (int, error) {
	problem, isHandshake := strings.CutPrefix(strings.TrimSpace(string(line)), "http: TLS handshake error from ")
	switch {
	case !isHandshake:
		return l.rest.Write(line)
	case !strings.HasSuffix(problem, ": EOF"):
		from, problem, _ := strings.Cut(problem, ": ")
		l.handshakes.failed(from, problem)
	}
	return len(line), nil
}

// failuresCollector shows auth.Failures to Prometheus.
type failuresCollector struct{ failures *auth.Failures }

var failuresDesc = prometheus.NewDesc("ratelimitd_auth_failures_total",
	"Calls, requests and connections refused because of who asks or where from, by reason.", []string{"reason"}, nil)

// Describe implements prometheus.Collector.
func (c failuresCollector) Describe(descs chan<- *prometheus.Desc) { descs <- failuresDesc }

// Collect implements prometheus.Collector.
func (c failuresCollector) Collect(metrics chan<- prometheus.Metric) {
	c.failures.Each(func(reason string, n uint64) {
		metrics <- prometheus.MustNewConstMetric(failuresDesc, prometheus.CounterValue, float64(n), reason)
	})
}

// permitted has a handler answer only those who may do o to the whole daemon.
func (s *Server) permitted(o auth.Operation, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.core.Permit(r.Context(), o, "", ""); err != nil {
			web.WriteError(w, 0, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Pages of other sites make requests with the reach of the browser that shows them:
// to the ports of this machine too. A browser says where a page is from
// (Sec-Fetch-Site, Origin), and to which name it believes to speak (Host).

// refuseForeign refuses a request that a page of another site makes, or that is for a
// name that is not the daemon's.
func (s *Server) refuseForeign(w http.ResponseWriter, reason auth.Reason, code int, format string, args ...any) {
	s.failures.Add(reason)
	web.WriteError(w, code, fault.Forbidden(auth.Refuse(reason, format, args...)))
}

// guardAdmin has the admin port answer only for names that are the daemon's, and to no
// page of another site. A name that an attacker has point to 127.0.0.1 is neither
// loopback nor configured. Unlike elsewhere it refuses to be read too: a profile costs
// time.
func (s *Server) guardAdmin(names hosts, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !names.has(r.Host) {
			s.refuseForeign(w, auth.ForeignHost, http.StatusMisdirectedRequest, "host: %s is not a name of this admin port; ask for 127.0.0.1, or start the daemon with --admin-host", quote.Cut(r.Host))
			return
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" || s.pages.Check(r) != nil {
			s.refuseForeign(w, auth.CrossSite, http.StatusForbidden, "a page of another site may not use the admin port")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// guardPages keeps pages of other sites from consuming quota, and from reading what
// is configured.
//
// /v1/authorize is not among what it guards: reverse proxies hand on the headers of
// the client that they ask for, so that Origin and Sec-Fetch-Site are normal there and
// say nothing about who asks. Where pages can reach that path, only credentials help:
// a browser sends no bearer token of its own.
func (s *Server) guardPages(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		fromPage := r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
		// By a name that an attacker has point here, a page is of this very site. One that
		// is known by a token is no such page.
		known := auth.FromContext(r.Context())
		rebound := (fromPage || r.Method == http.MethodGet) && arrivedOnLoopback(r.Context()) && !isLoopbackOrAddress(r.Host) &&
			(known == nil || known.Name() == "")
		if s.pages.Check(r) != nil || rebound {
			s.refuseForeign(w, auth.CrossSite, http.StatusForbidden, "a page of another site may not ask; call this from a service, and without the headers Origin and Sec-Fetch-Site")
			return
		}
		next.ServeHTTP(w, r)
	}
}

// arrivedOnLoopback reports whether a request came over the loopback interface.
func arrivedOnLoopback(ctx context.Context) bool {
	addr, ok := ctx.Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && addr.IP.IsLoopback()
}

// hostOf returns the host of a Host header, in lower case.
func hostOf(header string) string {
	host, _, err := net.SplitHostPort(header)
	if err != nil { // it has no port
		host = header
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// isLoopbackOrAddress reports whether a Host header is localhost or an address: no
// name that an attacker could have point here.
func isLoopbackOrAddress(header string) bool {
	host := hostOf(header)
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost"
}

// hosts are the names of the admin port beside those of loopback, in lower case.
type hosts map[string]bool

// adminHosts returns the names of an admin port at addr.
func adminHosts(addr string, configured []string) hosts {
	names := hosts{}
	for _, name := range append([]string{addr}, configured...) {
		if host := hostOf(name); host != "" {
			names[host] = true
		}
	}
	return names
}

// has reports whether a Host header names the admin port.
func (h hosts) has(header string) bool {
	host := hostOf(header)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback() || h[host]
}
