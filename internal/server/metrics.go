package server

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/durations"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// maxNamespaces is how many namespaces that callers chose have a label value of
// their own; those that come later count as otherNamespaces. maxNamespaceLimits
// is how many limits of policies each namespace has; those that come later
// count as if no policy had them.
const (
	maxNamespaces      = 100
	otherNamespaces    = "other"
	maxNamespaceLimits = 200
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

// metrics are what the server counts. Counters are looked up in maps that are
// never written to but replaced, so that counting neither locks nor allocates.
type metrics struct {
	decisions *prometheus.CounterVec
	limits    *prometheus.CounterVec
	checks    [len(strategy.All) + 1]checkCounters // by strategy
	latency   map[string]*durations.Histogram      // by method
	refused   prometheus.Counter
	panics    prometheus.Counter
	grpc      *grpcCounters
	envoy     *limitHits

	storeLatency *durations.Histogram // nil of memory, where it would cost as much as it measures
	storeErrors  prometheus.Counter

	others     *namespaceCounters // of all namespaces that have none of their own
	namespaces atomic.Pointer[map[string]*namespaceCounters]
	chosen     atomic.Int32 // of namespaces, those that callers chose

	mu sync.Mutex // held to replace a map
}

// checkCounters count what a limit said: that it denied, and that it allowed.
type checkCounters [2]prometheus.Counter

func (c *checkCounters) count(allowed bool) {
	if allowed {
		c[1].Inc()
	} else {
		c[0].Inc()
	}
}

func (c *checkCounters) add(n *checkCounts) {
	for i := range n {
		if n[i] > 0 {
			c[i].Add(float64(n[i]))
		}
	}
}

// namespaceCounters are the counters of one namespace.
type namespaceCounters struct {
	outcomes [outcomes]prometheus.Counter
	inline   checkCounters // of limits that requests brought along
	limits   atomic.Pointer[map[limitName]*checkCounters]
}

// A limitName is a limit of the configuration, within its namespace.
type limitName struct{ policy, limit string }

// memoryStore is the name of the store that is in the process.
const memoryStore = "memory"

func newMetrics(reg prometheus.Registerer, storeName string) *metrics {
	m := &metrics{latency: map[string]*durations.Histogram{}, grpc: newGRPCCounters(reg), envoy: newLimitHits(reg)}
	m.namespaces.Store(new(map[string]*namespaceCounters))
	m.decisions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_decisions_total",
		Help: "Requests decided, by namespace and outcome. shadow are those that a limit in shadow mode would have denied; exempt those held to nothing; failed_open and failed_closed are those that the failure policy allowed and denied because the store had failed, local_allowed and local_denied those it had counted in this process; error are those that got no decision.",
	}, []string{"namespace", "outcome"})
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_limit_checks_total",
		Help: "Limits that requests were held to, by strategy and whether that limit alone allowed it.",
	}, []string{"strategy", "outcome"})
	m.limits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_limit_decisions_total",
		Help: "Limits that requests were held to, by namespace, the configuration's policy and limit, and whether that limit alone allowed it. Limits that requests brought along have neither policy nor limit.",
	}, []string{"namespace", "policy", "limit", "outcome"})
	methods := []string{methodUnary, methodBatch, methodStream, methodEnvoy, methodHTTP, methodAuthorize}
	latency := durations.NewVec("ratelimitd_request_duration_seconds",
		"Time from a call's arrival to its answer, by method; of a stream, of each message.", "method", methods...)
	storeErrors := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_store_errors_total",
		Help: "Decisions and resets that the store failed to make.",
	}, []string{"store"})
	m.refused = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ratelimitd_refused_requests_total",
		Help: "Requests refused as invalid or for naming an unknown policy.",
	})
	m.panics = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "ratelimitd_panics_total",
		Help: "Calls whose handling panicked: each is a defect, with its stack in the log.",
	})
	reg.MustRegister(m.decisions, m.limits, checks, latency, storeErrors, m.refused, m.panics)

	for _, s := range strategy.All {
		m.checks[s] = checkCounters{checks.WithLabelValues(s.String(), "denied"), checks.WithLabelValues(s.String(), "allowed")}
	}
	for _, method := range methods {
		m.latency[method] = latency.Of(method)
	}
	m.others = m.newCounters(otherNamespaces)
	m.storeErrors = storeErrors.WithLabelValues(storeName)
	if storeName != memoryStore {
		latency := durations.NewVec("ratelimitd_store_operation_duration_seconds",
			"Time that a store outside the process took to decide what one call asked (a batch is one operation).", "store", storeName)
		reg.MustRegister(latency)
		m.storeLatency = latency.Of(storeName)
	}
	return m
}

// decided counts a decision.
func (m *metrics) decided(namespace string, o outcome) { m.namespace(namespace).outcomes[o].Inc() }

// configured gives namespaces a label value of their own, however many have
// been chosen by callers.
func (m *metrics) configured(namespaces []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range namespaces {
		if (*m.namespaces.Load())[name] == nil {
			m.addNamespaceLocked(name)
		}
	}
}

// namespace returns the counters of a namespace, or those of the others.
func (m *metrics) namespace(name string) *namespaceCounters {
	if c := (*m.namespaces.Load())[name]; c != nil {
		return c
	}
	if m.chosen.Load() >= maxNamespaces {
		return m.others
	}
	return m.newNamespace(name)
}

func (m *metrics) newNamespace(name string) *namespaceCounters {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := (*m.namespaces.Load())[name]; c != nil {
		return c
	}
	if m.chosen.Load() >= maxNamespaces {
		return m.others
	}
	m.chosen.Add(1)
	return m.addNamespaceLocked(strings.Clone(name)) // it may be part of a large message
}

func (m *metrics) addNamespaceLocked(name string) *namespaceCounters {
	c := m.newCounters(name)
	m.namespaces.Store(with(*m.namespaces.Load(), name, c))
	return c
}

// limit returns the counters of a limit of the configuration; or, if its
// namespace c has too many, those of limits that requests bring along.
func (m *metrics) limit(namespace string, c *namespaceCounters, l limitName) *checkCounters {
	limits := *c.limits.Load()
	switch counters := limits[l]; {
	case counters != nil:
		return counters
	case c == m.others || len(limits) >= maxNamespaceLimits:
		return &c.inline
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	limits = *c.limits.Load()
	if counters := limits[l]; counters != nil {
		return counters
	}
	if len(limits) >= maxNamespaceLimits {
		return &c.inline
	}
	l.policy = strings.Clone(l.policy) // it may be part of a large message
	counters := m.newChecks(strings.Clone(namespace), l)
	c.limits.Store(with(limits, l, &counters))
	return &counters
}

// with returns a copy of all that has value for key.
func with[K comparable, V any](all map[K]V, key K, value V) *map[K]V {
	more := make(map[K]V, len(all)+1)
	maps.Copy(more, all)
	more[key] = value
	return &more
}

func (m *metrics) newCounters(namespace string) *namespaceCounters {
	c := &namespaceCounters{inline: m.newChecks(namespace, limitName{})}
	c.limits.Store(new(map[limitName]*checkCounters))
	for o := range outcomes {
		c.outcomes[o] = m.decisions.WithLabelValues(namespace, outcomeNames[o])
	}
	return c
}

func (m *metrics) newChecks(namespace string, l limitName) checkCounters {
	return checkCounters{
		m.limits.WithLabelValues(namespace, l.policy, l.limit, "denied"),
		m.limits.WithLabelValues(namespace, l.policy, l.limit, "allowed"),
	}
}
