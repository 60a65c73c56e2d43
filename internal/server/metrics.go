package server

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
)

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

// memoryStore is the name of the store that is in the process. Its decisions are
// not timed: that would cost as much as it measures.
const memoryStore = "memory"

// storeLatency returns what the store's decisions are timed by, or nil.
func storeLatency(o Options) *histogram.Histogram {
	if o.StoreName == memoryStore {
		return nil
	}
	latency := histogram.NewVec("ratelimitd_store_operation_duration_seconds",
		"Time that a store outside the process took to decide what one call asked (a batch is one operation).", "store", o.StoreName)
	o.Registry.MustRegister(latency)
	return latency.Of(o.StoreName)
}

// showAsEnvoy registers what shows metrics by the names of envoyproxy/ratelimit.
func showAsEnvoy(registry prometheus.Registerer, api *envoyapi.API, latency *histogram.Vec) {
	times := latency.Of(envoyapi.Method).As("ratelimit_service_response_time_seconds",
		"Time from a call's arrival to its answer.", "grpc_method", envoyapi.Method)
	registry.MustRegister(times, api.Collector())
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
