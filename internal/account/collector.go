package account

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A collector shows a Book to Prometheus.
type collector struct {
	book  *Book
	store string // its name
}

// Collector returns what shows b to Prometheus. store is the name of the store.
func (b *Book) Collector(store string) prometheus.Collector { return collector{b, store} }

var (
	decisionsDesc = prometheus.NewDesc("ratelimitd_decisions_total",
		"Requests decided, by namespace and outcome. shadow: a limit in shadow mode would have denied it. exempt: it was held to no limit. failed_open and failed_closed: the store had failed, and the failure policy allowed or denied it. local_allowed and local_denied: the store had failed, and this process counted it. error: it got no decision.",
		[]string{"namespace", "outcome"}, nil)
	checksDesc = prometheus.NewDesc("ratelimitd_limit_checks_total",
		"Limits that requests were held to, by strategy and whether that limit alone allowed it.",
		[]string{"strategy", "outcome"}, nil)
	limitsDesc = prometheus.NewDesc("ratelimitd_limit_decisions_total",
		"Limits that requests were held to, by namespace, policy and limit of the configuration, and whether that limit alone allowed it. Limits that requests bring along have neither policy nor limit.",
		[]string{"namespace", "policy", "limit", "outcome"}, nil)
	envoyDesc = prometheus.NewDesc("ratelimitd_envoy_limit_hits_total",
		"Hits asked of the limits of Envoy's configuration, by whether they were within the limit, over it, or over it in shadow mode.",
		[]string{"limit", "outcome"}, nil)
	refusedDesc = prometheus.NewDesc("ratelimitd_refused_requests_total",
		"Requests refused because they were invalid or named an unknown policy.", nil, nil)
	undecodableDesc = prometheus.NewDesc("ratelimitd_undecodable_messages_total",
		"Messages refused because they were not what their method takes.", nil, nil)
	ignoredDesc = prometheus.NewDesc("ratelimitd_envoy_ignored_total",
		"Parts of Envoy's requests that could not be heeded, such as a limit of a descriptor with an unknown unit: the descriptor was held to its configured limit.", nil, nil)
	panicsDesc = prometheus.NewDesc("ratelimitd_panics_total",
		"Calls whose handling panicked: each is a defect, with its stack in the log.", nil, nil)
	storeErrorsDesc = prometheus.NewDesc("ratelimitd_store_errors_total",
		"Decisions and resets that the store failed to make.", []string{"store"}, nil)

	checkOutcomes = [len(checks{})]string{"denied", "allowed"}
	hitOutcomes   = [...]string{"within_limit", "over_limit", "shadow"}
)

// Describe implements prometheus.Collector.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{decisionsDesc, checksDesc, limitsDesc, envoyDesc, refusedDesc, undecodableDesc, ignoredDesc, panicsDesc, storeErrorsDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	b := c.book
	show := func(desc *prometheus.Desc, n uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	showChecks := func(desc *prometheus.Desc, of *checks, labels ...string) {
		for i, outcome := range checkOutcomes {
			show(desc, of[i].Load(), append(slices.Clip(labels), outcome)...)
		}
	}
	showNamespace := func(n *namespace) {
		for i, outcome := range b.outcomes {
			show(decisionsDesc, n.outcomes[i].Load(), n.name, outcome)
		}
		showChecks(limitsDesc, &n.inline, n.name, "", "")
		for l, of := range n.limits.all() {
			showChecks(limitsDesc, of, n.name, l.policy, l.limit)
		}
	}
	for _, n := range b.namespaces.all() {
		showNamespace(n)
	}
	showNamespace(b.others)
	for _, s := range strategy.All {
		showChecks(checksDesc, &b.checks[s], s.String())
	}
	b.Limits(func(h LimitHits) {
		for i, n := range []uint64{h.Within, h.Over, h.Shadow} {
			show(envoyDesc, n, h.Limit, hitOutcomes[i])
		}
	})
	show(refusedDesc, b.Refused.Load())
	show(undecodableDesc, b.Undecodable.Load())
	show(ignoredDesc, b.Ignored.Load())
	show(panicsDesc, b.Panics.Load())
	show(storeErrorsDesc, b.StoreErrors.Load(), c.store)
}
