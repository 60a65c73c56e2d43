package memcached

import "github.com/prometheus/client_golang/prometheus"

// A Collector collects a store's metrics.
type Collector struct{ store *Store }

var _ prometheus.Collector = Collector{}

var (
	conflictsDesc = prometheus.NewDesc("ratelimitd_memcached_cas_conflicts_total",
		"Writes that memcached refused because of another write in between. Each was tried again while attempts were left.", nil, nil)
	exhaustedDesc = prometheus.NewDesc("ratelimitd_memcached_attempts_exhausted_total",
		"How often the counters of an identifier could not be written because every attempt met a conflict until the attempts or the time ran out.", nil, nil)
)

var (
	evictedDesc = prometheus.NewDesc("ratelimitd_memcached_evicted_counters_total",
		"Counters dropped before their time, because their identifier has more than fit into one item.", nil, nil)
	fullDesc = prometheus.NewDesc("ratelimitd_memcached_full_items_total",
		"Requests denied because the counters of their identifier fill its item, and none may be dropped.", nil, nil)
	corruptDesc = prometheus.NewDesc("ratelimitd_memcached_corrupt_items_total",
		"Items that hold what this program did not write. Their requests failed, and their counters started again.", nil, nil)
)

// Collector returns what collects the metrics of s.
func (s *Store) Collector() Collector { return Collector{s} }

// Describe implements prometheus.Collector.
func (Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- conflictsDesc
	ch <- exhaustedDesc
	ch <- evictedDesc
	ch <- fullDesc
	ch <- corruptDesc
}

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(conflictsDesc, prometheus.CounterValue, float64(c.store.conflicts.Load()))
	ch <- prometheus.MustNewConstMetric(exhaustedDesc, prometheus.CounterValue, float64(c.store.exhausted.Load()))
	ch <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, float64(c.store.evicted.Load()))
	ch <- prometheus.MustNewConstMetric(fullDesc, prometheus.CounterValue, float64(c.store.full.Load()))
	ch <- prometheus.MustNewConstMetric(corruptDesc, prometheus.CounterValue, float64(c.store.corrupt.Load()))
}
