package denycache

import "github.com/prometheus/client_golang/prometheus"

// A Collector collects a cache's metrics.
type Collector struct {
	cache             *Cache
	hits, keys, bytes *prometheus.Desc
}

var _ prometheus.Collector = (*Collector)(nil)

// Collector returns what collects the metrics of c.
func (c *Cache) Collector() *Collector {
	return &Collector{
		cache: c,
		hits: prometheus.NewDesc("ratelimitd_deny_cache_hits_total",
			"Denials that were repeated without asking the store.", nil, nil),
		keys: prometheus.NewDesc("ratelimitd_deny_cache_keys",
			"Identifiers whose denial is remembered; those whose denial is over are counted until others need the room.", nil, nil),
		bytes: prometheus.NewDesc("ratelimitd_deny_cache_bytes",
			"Memory of the denials that are remembered, in bytes.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.hits
	ch <- c.keys
	ch <- c.bytes
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	var hits uint64
	var keys, bytes int
	for i := range c.cache.shards {
		sh := &c.cache.shards[i]
		sh.mu.Lock()
		hits += sh.hits
		keys += len(sh.denials)
		bytes += sh.bytes
		sh.mu.Unlock()
	}
	ch <- prometheus.MustNewConstMetric(c.hits, prometheus.CounterValue, float64(hits))
	ch <- prometheus.MustNewConstMetric(c.keys, prometheus.GaugeValue, float64(keys))
	ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(bytes))
}
