package memory

import "github.com/prometheus/client_golang/prometheus"

// A Collector collects a store's metrics. It takes each shard's lock for as
// long as it takes to read a few numbers.
type Collector struct{ store *Store }

var _ prometheus.Collector = Collector{}

var (
	keysDesc = prometheus.NewDesc("ratelimitd_memory_keys",
		"Counters held in memory; those that have expired are counted until they are swept.", nil, nil)
	maxKeysDesc = prometheus.NewDesc("ratelimitd_memory_max_keys",
		"Counters that may be held in memory before some are evicted.", nil, nil)
	logEntriesDesc = prometheus.NewDesc("ratelimitd_memory_log_entries",
		"Room of all sliding window logs in memory, in entries of 16 bytes.", nil, nil)
	evictionsDesc = prometheus.NewDesc("ratelimitd_memory_evictions_total",
		"Live counters dropped to make room, by whether they were open (would have allowed more) or shut (denied).", []string{"state"}, nil)
	acquisitionsDesc = prometheus.NewDesc("ratelimitd_memory_lock_acquisitions_total",
		"Times that a shard's lock was taken.", nil, nil)
	contentionsDesc = prometheus.NewDesc("ratelimitd_memory_lock_contentions_total",
		"Times that a shard's lock was held by another and had to be waited for.", nil, nil)
	waitDesc = prometheus.NewDesc("ratelimitd_memory_lock_wait_seconds_total",
		"Time spent waiting for shards' locks.", nil, nil)
)

// Collector returns what collects the metrics of s.
func (s *Store) Collector() Collector { return Collector{s} }

// Describe implements prometheus.Collector.
func (Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{keysDesc, maxKeysDesc, logEntriesDesc, evictionsDesc, acquisitionsDesc, contentionsDesc, waitDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	var keys, share, entries int
	var acquired, contended, open, shut uint64
	var waited float64
	for i := range c.store.shards {
		sh := &c.store.shards[i]
		sh.lock()
		keys += sh.held()
		share += sh.share
		entries += sh.entries
		acquired += sh.acquired
		contended += sh.contended
		waited += sh.waited.Seconds()
		open += sh.evictedOpen
		shut += sh.evictedShut
		sh.mu.Unlock()
	}
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(keysDesc, float64(keys))
	gauge(maxKeysDesc, float64(share))
	gauge(logEntriesDesc, float64(entries))
	counter(evictionsDesc, float64(open), "open")
	counter(evictionsDesc, float64(shut), "shut")
	counter(acquisitionsDesc, float64(acquired))
	counter(contentionsDesc, float64(contended))
	counter(waitDesc, waited)
}
