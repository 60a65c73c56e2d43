package server

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ratelimitd/ratelimitd/internal/auth"
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
/v1/should-allow  ask, in JSON
/v1/authorize     for reverse proxies
/rlconfig         the configuration in force
/json, /healthcheck  as envoyproxy/ratelimit
`)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /healthcheck", s.healthcheck)
	chain := *s.chain
	if s.httpIsOpen(t) {
		chain.gate = nil
	}
	if chain.gate != nil { // they tell the names of namespaces and policies
		metrics = s.permitted(auth.Inspect, metrics)
	}
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("POST /json", s.guardPages(http.HandlerFunc(s.envoy.ServeJSON)))
	mux.HandleFunc("GET /rlconfig", s.guardPages(s.permitted(auth.Inspect, s.limitsInForce())))
	mux.HandleFunc(httpapi.PathShouldAllow, s.guardPages(http.HandlerFunc(api.ShouldAllow)))
	mux.HandleFunc(httpapi.PathAuthorize, api.Authorize)
	server := &http.Server{
		Handler:           chain.http(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than proxies keep a connection, so that none sends on one we close
		MaxHeaderBytes:    64 << 10,        // proxies hand on all of their callers' headers
		ErrorLog:          s.httpLog(),
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
	handler := adminapi.New(adminapi.Options{
		Book: s.book, Metrics: metrics, Limits: s.limitsInForce(), LogLevel: o.LogLevel, Logger: s.logger,
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
		ErrorLog:          s.httpLog(),
	}
	if !local && o.Trust.speaks(o.Trust.Admin) {
		secureHTTP(&o.Trust, server)
	}
	return server
}

// serving reports whether the server has not begun to stop.
func (s *Server) serving(r *http.Request) bool {
	reply, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{})
	return err == nil && reply.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// ready reports whether the daemon should be sent requests: until it begins to
// stop; and not while the store fails, if callers then get nothing but errors.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
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
func (s *Server) healthcheck(w http.ResponseWriter, r *http.Request) {
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
