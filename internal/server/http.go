package server

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ratelimitd/ratelimitd/internal/policy"
)

// httpHandler returns the handler of the HTTP port.
func (s *Server) httpHandler(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "ratelimitd\n\n/healthz  is the process alive\n/readyz   should it be sent requests\n/metrics  Prometheus metrics\n/v1/should-allow  ask, in JSON\n/v1/authorize     for reverse proxies\n/rlconfig the configuration in force\n/json, /healthcheck  as envoyproxy/ratelimit\n")
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("POST /json", s.envoyJSON)
	mux.HandleFunc("GET /healthcheck", s.healthcheck)
	mux.HandleFunc("GET /rlconfig", s.showConfig)
	mux.HandleFunc("/v1/should-allow", s.shouldAllowHTTP)
	mux.HandleFunc("/v1/authorize", s.authorize)
	mux.Handle("GET /metrics", s.metricsHandler(registry))
	return s.recoverHTTP(mux)
}

// recoverHTTP recovers from a panic of next as recoverUnary does.
func (s *Server) recoverHTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		defer func() {
			if err != nil {
				writeError(w, httpCode(err), err)
			}
		}()
		defer s.recovered("HTTP", &err)
		next.ServeHTTP(w, r)
	})
}

func (s *Server) metricsHandler(registry *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry, ErrorLog: errorLog{s}})
}

// ready reports whether the daemon should be sent requests: until it begins to
// stop; and not while the store fails, if callers then get nothing but errors.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	reply, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	if s.onError == policy.FailError {
		if err := s.store.Health(r.Context()); err != nil {
			http.Error(w, fmt.Sprintf("the store fails: %v", err), http.StatusServiceUnavailable)
			return
		}
	}
	fmt.Fprintln(w, "ready")
}

// errorLog logs what goes wrong with a scrape.
type errorLog struct{ s *Server }

func (l errorLog) Println(v ...any) {
	l.s.logger.Warn("metrics can not be shown", "error", fmt.Sprint(v...))
}
