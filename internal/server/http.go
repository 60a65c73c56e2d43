package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/server/httpapi"
)

// An httpPort is what the HTTP port serves.
type httpPort struct {
	state   state
	api     *httpapi.API
	envoy   *envoyapi.API
	text    func() string // our own policies in force, as YAML
	metrics http.Handler
}

// handler returns the handler of the HTTP port.
func (p *httpPort) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `ratelimitd

/healthz          is the process alive
/readyz           should it be sent requests
/metrics          Prometheus metrics
/v1/should-allow  ask, in JSON
/v1/authorize     for reverse proxies
/rlconfig         the configuration in force
/json, /healthcheck  as envoyproxy/ratelimit
`)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", p.state.ready)
	mux.HandleFunc("GET /healthcheck", p.state.healthcheck)
	mux.Handle("GET /metrics", p.metrics)
	mux.HandleFunc("POST /json", p.envoy.ServeJSON)
	mux.HandleFunc("GET /rlconfig", p.envoy.ShowConfig(p.text))
	mux.HandleFunc(httpapi.PathShouldAllow, p.api.ShouldAllow)
	mux.HandleFunc(httpapi.PathAuthorize, p.api.Authorize)
	return mux
}

// newHTTPServer returns a server of handler, with the bounds of the HTTP port.
func newHTTPServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than proxies keep a connection, so that none sends on one we close
		MaxHeaderBytes:    64 << 10,        // proxies hand on all of their callers' headers
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// newAdminServer returns a server of handler, with the bounds of the admin port:
// a profile takes as long as it is asked to.
func newAdminServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
	}
}

// A state tells load balancers and orchestrators how the daemon is.
type state struct {
	health *health.Server
	core   *decide.Core
}

// serving reports whether the server has not begun to stop.
func (s state) serving(r *http.Request) bool {
	reply, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{})
	return err == nil && reply.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// ready reports whether the daemon should be sent requests: until it begins to
// stop; and not while the store fails, if callers then get nothing but errors.
func (s state) ready(w http.ResponseWriter, r *http.Request) {
	if !s.serving(r) {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
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
func (s state) healthcheck(w http.ResponseWriter, r *http.Request) {
	if !s.serving(r) {
		http.Error(w, "stopping", http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "OK")
}

// metricsHandler shows the metrics of a registry.
func metricsHandler(registry *prometheus.Registry, logger *slog.Logger) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry, ErrorLog: scrapeLog{logger}})
}

// scrapeLog logs what goes wrong with a scrape.
type scrapeLog struct{ logger *slog.Logger }

func (l scrapeLog) Println(v ...any) {
	l.logger.Warn("metrics cannot be shown", "error", fmt.Sprint(v...))
}
