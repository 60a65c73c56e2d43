package server

import (
	"sync/atomic"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// callCounters count calls by method and code, under the names that dashboards
// for gRPC servers expect. The library that is usual for it looks each counter
// up by its labels in each call: 1.1 µs and two allocations.
type callCounters struct {
	started *prometheus.CounterVec
	handled *prometheus.CounterVec
	known   map[string]*methodCounters // by full method: those that are called often

	max      int           // unary calls under way
	underWay atomic.Int64  // unary calls
	refused  atomic.Uint64 // calls beyond the bound on them
}

// methodCounters are those of one method.
type methodCounters struct {
	started prometheus.Counter
	handled [codes.Unauthenticated + 1]prometheus.Counter
}

// The values of the label grpc_type.
const (
	typeUnary  = "unary"
	typeStream = "stream"
)

func newCallCounters(reg prometheus.Registerer, maxCalls int) *callCounters {
	c := &callCounters{
		max: maxCalls,
		started: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_started_total",
			Help: "Calls begun.",
		}, []string{"grpc_method", "grpc_type"}),
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "grpc_server_handled_total",
			Help: "Calls ended, by code.",
		}, []string{"grpc_method", "grpc_type", "grpc_code"}),
		known: map[string]*methodCounters{},
	}
	reg.MustRegister(c, c.started, c.handled)
	for _, method := range []string{
		ratelimitv1.RateLimitService_ShouldAllow_FullMethodName,
		ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName,
		ratelimitv1.RateLimitService_Reset_FullMethodName,
		ratelimitv1.RateLimitService_Reserve_FullMethodName,
		ratelimitv1.RateLimitService_Commit_FullMethodName,
		ratelimitv1.RateLimitService_Cancel_FullMethodName,
		rlsv3.RateLimitService_ShouldRateLimit_FullMethodName,
	} {
		c.known[method] = c.of(method, typeUnary)
	}
	stream := ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName
	c.known[stream] = c.of(stream, typeStream)
	return c
}

// of returns the counters of a method.
func (c *callCounters) of(method, kind string) *methodCounters {
	m := &methodCounters{started: c.started.WithLabelValues(method, kind)}
	for code := range m.handled {
		m.handled[code] = c.handled.WithLabelValues(method, kind, codes.Code(code).String())
	}
	return m
}

// start counts a call that begins, and returns what counts its end.
func (c *callCounters) start(method, kind string) *methodCounters {
	m := c.known[method]
	if m == nil { // of the health service, or reflection: seldom
		m = c.of(method, kind)
	}
	m.started.Inc()
	return m
}

// end counts a call that ended with err.
func (m *methodCounters) end(err error) {
	code := status.Code(err)
	if int(code) >= len(m.handled) { // no code of gRPC's
		code = codes.Unknown
	}
	m.handled[code].Inc()
}

var (
	callsDesc = prometheus.NewDesc("ratelimitd_calls_in_flight",
		"gRPC calls whose message has arrived and that are not answered yet, without streams, and connections of the protocol of Redis whose commands are being decided.", nil, nil)
	maxCallsDesc = prometheus.NewDesc("ratelimitd_max_calls",
		"How many there may be.", nil, nil)
	refusedDesc = prometheus.NewDesc("ratelimitd_calls_refused_total",
		"Calls refused to keep to that bound.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *callCounters) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{callsDesc, maxCallsDesc, refusedDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *callCounters) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(callsDesc, prometheus.GaugeValue, float64(c.underWay.Load()))
	metrics <- prometheus.MustNewConstMetric(maxCallsDesc, prometheus.GaugeValue, float64(c.max))
	metrics <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(c.refused.Load()))
}
