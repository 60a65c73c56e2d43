package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/server/adminapi"
	"github.com/ratelimitd/ratelimitd/internal/server/httpapi"
)

// newHTTP returns the server of the HTTP port: the fronts over HTTP, health and
// metrics.
func (s *Server) newHTTP(t *Trust, api *httpapi.API, metrics http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `ratelimitd

/healthz          is the process alive
/readyz           should it be sent requests
/metrics          Prometheus metrics
/v1/should-allow  ask, in JSON: one request or many
/v1/reserve, /v1/commit, /v1/cancel, /v1/reset
/v1/authorize     for reverse proxies
/rlconfig         the configuration in force
/json, /healthcheck  as envoyproxy/ratelimit
`)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /healthcheck", s.healthcheck)
	mux.Handle("GET /metrics", s.inspection(t, metrics))
	mux.HandleFunc("POST /json", s.guardPages(http.HandlerFunc(s.envoy.ServeJSON)))
	mux.HandleFunc("GET /rlconfig", s.guardPages(s.permitted(auth.Inspect, s.limitsInForce())))
	api.Handle(mux, s.guardPages, func(next http.Handler) http.HandlerFunc { return s.guardPages(s.mayReset(t, next)) })
	mux.HandleFunc(httpapi.PathAuthorize, api.Authorize)
	return s.openHTTP(t, "http", mux)
}

// newMetrics returns the server of the port for metrics alone. Who may see them on the
// HTTP port may here, and both have TLS or none has.
func (s *Server) newMetrics(o Options, metrics http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET "+o.Metrics.Path, s.inspection(&o.Trust, metrics))
	return s.openHTTP(&o.Trust, "metrics", mux)
}

// inspection has a handler of the HTTP port answer only those who may inspect the
// daemon, if its clients are known: it tells the names of namespaces and policies.
func (s *Server) inspection(t *Trust, next http.Handler) http.Handler {
	if s.httpIsOpen(t) {
		return next
	}
	return s.permitted(auth.Inspect, next)
}

// openHTTP returns the server of a port for callers.
func (s *Server) openHTTP(t *Trust, port string, handler http.Handler) *http.Server {
	chain := *s.chain
	if s.httpIsOpen(t) {
		chain.gate = nil
	}
	server := &http.Server{
		Handler:           chain.http(handler),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than proxies keep a connection, so that none sends on one we close
		MaxHeaderBytes:    64 << 10,        // proxies hand on all of their callers' headers
		ErrorLog:          s.httpLog(port),
	}
	if s.chain.gate != nil && chain.gate == nil {
		server.Handler = asCaller(s.anonymous(t), server.Handler)
	}
	if t.speaks(t.HTTP) {
		secureHTTP(t, server)
	}
	return server
}

// limitsInForce answers GET /rlconfig.
func (s *Server) limitsInForce() http.Handler {
	return s.envoy.ShowConfig(func() string { return s.config.Load().Text })
}

// newAdmin returns the server of the admin port. On loopback it asks nobody who he is;
// elsewhere it answers only those who may administer the daemon.
func (s *Server) newAdmin(o Options, metrics http.Handler) *http.Server {
	// Whoever gets as far as this may administer the daemon.
	operator := auth.Anonymous(auth.Decide, auth.Reset)
	handler := adminapi.New(adminapi.Options{
		Counter:      asCaller(operator, http.HandlerFunc(s.envoy.ShowCounter)),
		ResetCounter: asCaller(operator, http.HandlerFunc(s.envoy.ResetCounter)),
		Book:         s.book, Metrics: metrics, Limits: s.limitsInForce(), LogLevel: o.LogLevel, Logger: s.logger,
		TestClock: o.TestClock,
		Configuration: func() adminapi.Configuration {
			c := s.config.Load()
			return adminapi.Configuration{Flags: o.Flags, Version: c.Version, Policies: c.Text}
		},
	})
	chain := *s.chain
	local := s.adminListener == nil || onLoopback(s.adminListener)
	if local {
		chain.gate = nil
	} else {
		handler = s.permitted(auth.Admin, handler)
	}
	server := &http.Server{
		Handler:           s.guardAdmin(adminHosts(o.AdminAddr, o.Trust.AdminHosts), chain.http(handler)),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          s.httpLog("admin"),
	}
	if !local && o.Trust.speaks(o.Trust.Admin) {
		secureHTTP(&o.Trust, server)
	}
	return server
}

// serving reports whether the server has not begun to stop, and has the domains that
// it must have.
func (s *Server) serving(r *http.Request) bool {
	reply, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{})
	return err == nil && reply.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// whyNotServing says why serving is false.
func (s *Server) whyNotServing() string {
	if s.requireDomains && len(s.config.Load().Envoy.Domains()) == 0 {
		return "no domain is configured; put a file with one into --envoy-config-dir, or leave out --envoy-require-domains"
	}
	return "stopping"
}

// ready reports whether the daemon should be sent requests: until it begins to
// stop; not before the limits have come that it waits for; and not while the store
// fails, if callers then get nothing but errors.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	if !s.serving(r) {
		http.Error(w, s.whyNotServing(), http.StatusServiceUnavailable)
		return
	}
	if s.config.Load().Envoy.IsAwaited() {
		http.Error(w, "no limits have come from the xDS server yet", http.StatusServiceUnavailable)
		return
	}
	if err := s.core.Ready(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// healthcheck answers GET /healthcheck, as envoyproxy/ratelimit does: 500 when it
// is about to stop.
func (s *Server) healthcheck(w http.ResponseWriter, r *http.Request) {
	if !s.serving(r) {
		http.Error(w, s.whyNotServing(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "OK")
}

const (
	// maxScrapes is how many scrapes may be under way at a time, on all ports: one
	// collects some thousand values. Usually there are one or two Prometheus.
	maxScrapes = 4
	// scrapeTimeout is as long as Prometheus waits by default.
	scrapeTimeout = 10 * time.Second
)

// metricsHandler shows the metrics of a registry.
func metricsHandler(registry *prometheus.Registry, logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		Registry: registry, ErrorLog: &scrapeLog{logger: logger}, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	})
}

// A scrapeLog logs what goes wrong with scrapes, but not too often: whoever
// scrapes may go away in the middle, again and again.
type scrapeLog struct {
	logger *slog.Logger
	gate   lograte.Gate
}

// Println implements promhttp.Logger.
func (l *scrapeLog) Println(v ...any) {
	if n := l.gate.Pass(time.Now()); n > 0 {
		l.logger.Warn("metrics cannot be shown", "error", fmt.Sprint(v...), "scrapes", n)
	}
}

// An errorLog is an io.Writer for what the HTTP server of a port logs. Clients
// cause most of it, so each kind is logged only from time to time.
type errorLog struct {
	logger *slog.Logger
	port   string
	gates  [4]lograte.Gate // of the kinds in errorKinds, and of the rest
}

// errorKinds are what the lines begin with that a client, or a lack of file
// descriptors, can cause at will.
var errorKinds = [...]string{"http: TLS handshake error", "http: Accept error", "http: superfluous"}

func newErrorLog(logger *slog.Logger, port string) *errorLog {
	return &errorLog{logger: logger, port: port}
}

// maxErrorBytes is how much of such a line is logged.
const maxErrorBytes = 300

// Write implements io.Writer.
func (l *errorLog) Write(line []byte) (int, error) {
	kind := 0
	for kind < len(errorKinds) && !bytes.HasPrefix(line, []byte(errorKinds[kind])) {
		kind++
	}
	if n := l.gates[kind].Pass(time.Now()); n > 0 {
		text := strings.ToValidUTF8(string(line[:min(len(line), maxErrorBytes)]), "")
		l.logger.Warn("the HTTP server reports an error", "port", l.port, "error", strings.TrimSpace(text), "errors", n)
	}
	return len(line), nil
}
