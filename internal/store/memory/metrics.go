package memory

import (
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Collector collects a store's metrics. It holds each shard's lock only while it
// reads a few numbers.
type Collector struct{ store *Store }

var _ prometheus.Collector = Collector{}

var (
	keysDesc = prometheus.NewDesc("ratelimitd_memory_keys",
		"Counters in memory. An expired counter counts until it is swept.", nil, nil)
	maxKeysDesc = prometheus.NewDesc("ratelimitd_memory_max_keys",
		"How many counters may be in memory before some are evicted.", nil, nil)
	logEntriesDesc = prometheus.NewDesc("ratelimitd_memory_log_entries",
		"Room for entries of all sliding window logs in memory. An entry takes 16 bytes.", nil, nil)
	bytesDesc = prometheus.NewDesc("ratelimitd_memory_bytes",
		"Memory of the counters, their index and their logs, in bytes.", nil, nil)
	evictionsDesc = prometheus.NewDesc("ratelimitd_memory_evictions_total",
		"Live counters dropped to make room, by what was full (keys, logs), by what they were (open: used by less than half; used: by half or more; shut: denied, and so set free) and by whose new counter took the room (same or other namespace).", []string{"cause", "state", "pushed_by"}, nil)
	shardsDesc = prometheus.NewDesc("ratelimitd_memory_shards",
		"Shards. Each has its own lock.", nil, nil)
	acquisitionsDesc = prometheus.NewDesc("ratelimitd_memory_lock_acquisitions_total",
		"How often a shard's lock was taken.", nil, nil)
	contentionsDesc = prometheus.NewDesc("ratelimitd_memory_lock_contentions_total",
		"How often a shard's lock had to be waited for because another goroutine held it.", nil, nil)
	hottestDesc = prometheus.NewDesc("ratelimitd_memory_hottest_lock_acquisitions_total",
		"How often the lock of the busiest shard was taken.", nil, nil)
	waitDesc = prometheus.NewDesc("ratelimitd_memory_lock_wait_seconds",
		"How long shards' locks were waited for, each time that one had to be waited for.", nil, nil)

	snapshotTimeDesc = prometheus.NewDesc("ratelimitd_memory_snapshot_timestamp_seconds",
		"When the last snapshot of the counters was complete, in seconds since the Unix epoch.", nil, nil)
	snapshotDurationDesc = prometheus.NewDesc("ratelimitd_memory_snapshot_duration_seconds",
		"How long this process took for its last snapshot of the counters.", nil, nil)
	snapshotBytesDesc = prometheus.NewDesc("ratelimitd_memory_snapshot_bytes",
		"How large the last snapshot of the counters is.", nil, nil)
	snapshotFailuresDesc = prometheus.NewDesc("ratelimitd_memory_snapshot_failures_total",
		"Snapshots of the counters that could not be written.", nil, nil)
)

// Collector returns what collects the metrics of s.
func (s *Store) Collector() Collector { return Collector{s} }

// Describe implements prometheus.Collector.
func (Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		keysDesc, maxKeysDesc, logEntriesDesc, bytesDesc, evictionsDesc,
		shardsDesc, acquisitionsDesc, contentionsDesc, hottestDesc, waitDesc,
		snapshotTimeDesc, snapshotDurationDesc, snapshotBytesDesc, snapshotFailuresDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	var keys, share, entries, bytes int
	var acquired, contended, hottest uint64
	var evicted evictions
	var waits [len(waitBounds) + 1]uint64
	var waited time.Duration
	for i := range c.store.shards {
		sh := &c.store.shards[i]
		sh.lock()
		keys += sh.held()
		share += sh.share
		entries += sh.entries
		bytes += sh.bytes()
		acquired += sh.acquired
		hottest = max(hottest, sh.acquired)
		contended += sh.contended
		waited += sh.waited
		for i, n := range sh.waits {
			waits[i] += n
		}
		for why := range causes {
			for state := range states {
				for by, n := range sh.evicted[why][state] {
					evicted[why][state][by] += n
				}
			}
		}
		sh.mu.Unlock()
	}
	gauge := func(d *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(keysDesc, keys)
	gauge(maxKeysDesc, share)
	gauge(logEntriesDesc, entries)
	gauge(bytesDesc, bytes)
	for why := range causes {
		for state, name := range [states]string{"open", "used", "shut"} {
			counter(evictionsDesc, evicted[why][state][sameNamespace], why.String(), name, "same")
			counter(evictionsDesc, evicted[why][state][otherNamespace], why.String(), name, "other")
		}
	}
	gauge(shardsDesc, len(c.store.shards))
	counter(acquisitionsDesc, acquired)
	counter(contentionsDesc, contended)
	counter(hottestDesc, hottest)

	within, buckets := uint64(0), make(map[float64]uint64, len(waitBounds))
	for i, bound := range waitBounds {
		within += waits[i]
		buckets[bound.Seconds()] = within
	}
	ch <- prometheus.MustNewConstHistogram(waitDesc, contended, waited.Seconds(), buckets)
	if k := c.store.kept; k != nil {
		k.collect(ch)
	}
}

func (k *keeper) collect(ch chan<- prometheus.Metric) {
	k.mu.Lock()
	defer k.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	at := 0.0 // there is none yet
	if !k.last.IsZero() {
		at = float64(k.last.UnixMicro()) / 1e6
	}
	gauge(snapshotTimeDesc, at)
	gauge(snapshotDurationDesc, k.took.Seconds())
	gauge(snapshotBytesDesc, float64(k.bytes))
	ch <- prometheus.MustNewConstMetric(snapshotFailuresDesc, prometheus.CounterValue, float64(k.failures))
}

// bytes returns how much memory t uses, without what the allocator adds.
func (t *table) bytes() int {
	chunks := (int(t.used) + chunkSize - 1) / chunkSize
	rankings := 0
	for _, g := range t.groups[:cap(t.groups)] {
		rankings += int(unsafe.Sizeof(g)) + 4*cap(g.open) + cap(g.shut)*int(unsafe.Sizeof(shutSlot{}))
	}
	for _, h := range t.holdings[:cap(t.holdings)] {
		rankings += int(unsafe.Sizeof(h)) + 4*cap(h.groups)
	}
	return chunks*int(unsafe.Sizeof(chunk{})) + rankings + 4*(cap(t.places)+cap(t.freeGroups)+cap(t.uses)) +
		8*(len(t.chunks)+len(*t.index.Load())) + 4*(cap(t.free)+cap(t.logOwner)) +
		cap(t.logs)*int(unsafe.Sizeof(strategy.Log{})) + 16*t.entries
}
