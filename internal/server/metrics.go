package server

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// maxNamespaces is how many namespaces have a label value of their own. As
// callers choose them, those that come later count as otherNamespaces.
const (
	maxNamespaces   = 100
	otherNamespaces = "other"
)

// maxLimits is how many limits of Envoy's configuration have a label value of
// their own. With detailed_metric or value_to_metric there is one for each value
// that clients send: those that come later count as otherLimits.
const (
	maxLimits   = 1000
	otherLimits = "other"
)

// An outcome is how a decision went, as a label.
type outcome int

const (
	outcomeAllowed outcome = iota
	outcomeDenied
	outcomeUnlimited
	outcomeShadow
	outcomeExempt
	outcomeFailedOpen
	outcomeFailedClosed
	outcomeLocalAllowed
	outcomeLocalDenied
	outcomeError
	outcomes
)

var outcomeNames = [outcomes]string{"allowed", "denied", "unlimited", "shadow", "exempt", "failed_open", "failed_closed", "local_allowed", "local_denied", "error"}

// metrics are what the server counts. Counters of labels known beforehand are
// looked up once, so that counting neither locks nor allocates.
type metrics struct {
	decisions *prometheus.CounterVec
	checks    [len(strategy.All) + 1][2]prometheus.Counter // by strategy; denied, allowed
	latency   map[string]prometheus.Observer               // by method
	refused   prometheus.Counter
	panics    prometheus.Counter

	storeLatency prometheus.Observer
	storeErrors  prometheus.Counter

	others *namespaceCounters // of all namespaces that have none of their own

	limitHits   *prometheus.CounterVec
	otherLimits *limitCounters // of all limits of Envoy's configuration that have none of their own

	mu         sync.RWMutex // protects the following
	namespaces map[string]*namespaceCounters
	limits     map[string]*limitCounters
}

// limitCounters are those of a limit of Envoy's configuration: within, over, and
// over in shadow mode.
type limitCounters [3]prometheus.Counter

var limitOutcomes = [len(limitCounters{})]string{"within_limit", "over_limit", "shadow"}

type namespaceCounters [outcomes]prometheus.Counter

// buckets are of a microsecond to half a second, each twice the one before.
var buckets = prometheus.ExponentialBuckets(1e-6, 2, 20)

func newMetrics(reg prometheus.Registerer, storeName string) *metrics {
	m := &metrics{namespaces: map[string]*namespaceCounters{}, limits: map[string]*limitCounters{}, latency: map[string]prometheus.Observer{}}
	m.decisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_decisions_total",
		Help: "Requests decided, by namespace and outcome. shadow are those that a limit in shadow mode would have denied; exempt those held to nothing; failed_open and failed_closed are those that the failure policy allowed and denied because the store had failed, local_allowed and local_denied those it had counted in this process; error are those that got no decision.",
	}, []string{"namespace", "outcome"})
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_limit_checks_total",
		Help: "Limits that requests were held to, by strategy and whether that limit alone allowed it.",
	}, []string{"strategy", "outcome"})
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "ratelimitd_request_duration_seconds",
		Help:    "Time from a call's arrival to its answer, by method; of a stream, of each message.",
		Buckets: buckets,
	}, []string{"method"})
	storeLatency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "ratelimitd_store_operation_duration_seconds",
		Help:    "Time the store took to decide what one call asked (a batch is one operation).",
		Buckets: buckets,
	}, []string{"store"})
	storeErrors := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_store_errors_total",
		Help: "Decisions and resets that the store failed to make.",
	}, []string{"store"})
	m.limitHits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_envoy_limit_hits_total",
		Help: "Hits asked for of the limits of Envoy's configuration, by limit and outcome: within_limit, over_limit, or shadow (over the limit, in shadow mode).",
	}, []string{"limit", "outcome"})
	m.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ratelimitd_refused_requests_total",
		Help: "Requests refused as invalid or for naming an unknown policy.",
	})
	m.panics = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ratelimitd_panics_total",
		Help: "Calls whose handling panicked: each is a defect, with its stack in the log.",
	})
	reg.MustRegister(m.decisions, m.limitHits, checks, latency, storeLatency, storeErrors, m.refused, m.panics)

	for _, s := range strategy.All {
		m.checks[s] = [2]prometheus.Counter{checks.WithLabelValues(s.String(), "denied"), checks.WithLabelValues(s.String(), "allowed")}
	}
	for _, method := range []string{methodUnary, methodBatch, methodStream, methodEnvoy} {
		m.latency[method] = latency.WithLabelValues(method)
	}
	m.others = m.newNamespace(otherNamespaces)
	m.otherLimits = m.newLimit(otherLimits)
	m.storeLatency, m.storeErrors = storeLatency.WithLabelValues(storeName), storeErrors.WithLabelValues(storeName)
	return m
}

// decided counts a decision.
func (m *metrics) decided(namespace string, o outcome) { m.namespace(namespace)[o].Inc() }

// checked counts what each limit said of a request.
func (m *metrics) checked(limits []strategy.Limit, statuses []strategy.Status) {
	for i := range statuses {
		allowed := 0
		if statuses[i].Allowed {
			allowed = 1
		}
		m.checks[limits[i].Strategy][allowed].Inc()
	}
}

// namespace returns the counters of a namespace, or those of the others.
func (m *metrics) namespace(name string) *namespaceCounters {
	m.mu.RLock()
	c, full := m.namespaces[name], len(m.namespaces) >= maxNamespaces
	m.mu.RUnlock()
	switch {
	case c != nil:
		return c
	case full:
		return m.others
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if c = m.namespaces[name]; c == nil {
		c = m.newNamespace(name)
		m.namespaces[name] = c
	}
	return c
}

func (m *metrics) newNamespace(name string) *namespaceCounters {
	c := new(namespaceCounters)
	for o := range outcomes {
		c[o] = m.decisions.WithLabelValues(name, outcomeNames[o])
	}
	return c
}

// since observes the time from start.
func since(start time.Time, o prometheus.Observer) { o.Observe(time.Since(start).Seconds()) }

// hits counts what was asked of a limit of Envoy's configuration.
func (m *metrics) hits(limit string, n uint64, over, shadow bool) {
	i := 0
	switch {
	case over && shadow:
		i = 2
	case over:
		i = 1
	}
	m.limit(limit)[i].Add(float64(n))
}

// limit returns the counters of a limit, or those of the others.
func (m *metrics) limit(name string) *limitCounters {
	m.mu.RLock()
	c, full := m.limits[name], len(m.limits) >= maxLimits
	m.mu.RUnlock()
	switch {
	case c != nil:
		return c
	case full:
		return m.otherLimits
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	if c = m.limits[name]; c == nil {
		c = m.newLimit(name)
		m.limits[name] = c
	}
	return c
}

func (m *metrics) newLimit(name string) *limitCounters {
	c := new(limitCounters)
	for i := range c {
		c[i] = m.limitHits.WithLabelValues(name, limitOutcomes[i])
	}
	return c
}
