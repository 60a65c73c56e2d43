package server

import (
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
)

// MetricsOptions say where metrics are shown, beside the HTTP port, and which.
type MetricsOptions struct {
	Addr string // host:port that has nothing else; "": there is none
	Path string // there
	// Envoy says that those of envoyproxy/ratelimit are shown too, by its names.
	Envoy bool
}

// showAsEnvoy registers what shows metrics by the names of envoyproxy/ratelimit.
func (s *Server) showAsEnvoy(o Options, latency *histogram.Vec) {
	if !o.Metrics.Envoy {
		return
	}
	times := latency.Of(envoyapi.Method).As("ratelimit_service_response_time_seconds",
		"Time from a call's arrival to its answer.", "grpc_method", envoyapi.Method)
	o.Registry.MustRegister(times, s.envoy.Collector())
}
