package envoyapi

import (
	"errors"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// calls count those of ShouldRateLimit.
type calls struct {
	begun   atomic.Uint64 // over gRPC
	invalid atomic.Uint64 // that could not be asked
	undone  atomic.Uint64 // that the store failed to answer
}

// failed counts the error of a call, which may be nil.
func (c *calls) failed(err error) {
	switch code := status.Code(err); {
	case code == codes.InvalidArgument || errors.Is(err, fault.ErrAwaited):
		c.invalid.Add(1) // as there
	case code == codes.Unavailable:
		c.undone.Add(1)
	}
}

// loads count configurations.
type loads struct{ applied, refused atomic.Uint64 }

// near returns how many of the hits of a request that a limit had left were above ratio
// of it. st is what came of them.
func near(ratio float64, st *strategy.Status, hits uint64) uint64 {
	threshold := uint64(float32(st.Limit) * float32(ratio)) // rounded as the service does
	if used := st.Limit - min(st.Limit, st.Remaining); used > threshold {
		return min(hits, used-threshold)
	}
	return 0
}

// Method is the label of the latency of ShouldRateLimit.
const Method = "ShouldRateLimit"

// A collector shows an API to Prometheus by the names of envoyproxy/ratelimit, so that
// dashboards which exist go on.
type collector struct {
	book  *account.Book
	calls *calls
	loads *loads
}

var (
	limitLabels = []string{"domain", "key1", "key2"}
	hitsDesc    = prometheus.NewDesc("ratelimit_service_rate_limit_total_hits", "Hits asked of a limit.", limitLabels, nil)
	overDesc    = prometheus.NewDesc("ratelimit_service_rate_limit_over_limit", "Hits of requests that were over the limit.", limitLabels, nil)
	nearDesc    = prometheus.NewDesc("ratelimit_service_rate_limit_near_limit", "Hits within the limit, and above --envoy-near-limit-ratio of it.", limitLabels, nil)
	withinDesc  = prometheus.NewDesc("ratelimit_service_rate_limit_within_limit", "Hits within the limit.", limitLabels, nil)
	shadowDesc  = prometheus.NewDesc("ratelimit_service_rate_limit_shadow_mode", "Hits over the limit that passed, since it is in shadow mode.", limitLabels, nil)
	errorsDesc  = prometheus.NewDesc("ratelimit_service_should_rate_limit_error", "Calls without an answer.", []string{"err_type"}, nil)
	appliedDesc = prometheus.NewDesc("ratelimit_service_config_load_success", "Configurations put in force, with that of the start.", nil, nil)
	refusedDesc = prometheus.NewDesc("ratelimit_service_config_load_error", "Configurations refused.", nil, nil)
	callsDesc   = prometheus.NewDesc("ratelimit_service_total_requests", "Calls begun.", []string{"grpc_method"}, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{hitsDesc, overDesc, nearDesc, withinDesc, shadowDesc, errorsDesc, appliedDesc, refusedDesc, callsDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	show := func(desc *prometheus.Desc, n uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	sums := map[[3]string]account.LimitHits{} // several limits may have the same labels
	c.book.Limits(func(h account.LimitHits) {
		labels := labelsOf(h.Limit)
		sum := sums[labels]
		sum.Within += h.Within
		sum.Over += h.Over
		sum.Shadow += h.Shadow
		sum.Near += h.Near
		sums[labels] = sum
	})
	for labels, h := range sums {
		show(hitsDesc, h.Within+h.Over+h.Shadow, labels[:]...)
		show(overDesc, h.Over+h.Shadow, labels[:]...)
		show(nearDesc, h.Near, labels[:]...)
		show(withinDesc, h.Within, labels[:]...)
		show(shadowDesc, h.Shadow, labels[:]...)
	}
	show(errorsDesc, c.calls.undone.Load(), "redis_error")
	show(errorsDesc, c.calls.invalid.Load(), "service_error")
	show(appliedDesc, c.loads.applied.Load())
	show(refusedDesc, c.loads.refused.Load())
	show(callsDesc, c.calls.begun.Load(), Method)
}

var (
	ipv4       = regexp.MustCompile(`\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}`)
	underscore = strings.NewReplacer(":", "_", "|", "_")
)

// labelsOf returns the labels of a limit by its path in the file: the first three parts
// of what the service names it to StatsD. What is deeper shares them.
func labelsOf(limit string) (labels [3]string) {
	name := ipv4.ReplaceAllStringFunc(underscore.Replace(limit), func(ip string) string { return strings.ReplaceAll(ip, ".", "_") })
	for i := range labels {
		labels[i], name, _ = strings.Cut(name, ".")
	}
	return labels
}
