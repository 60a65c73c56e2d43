package console

import (
	"time"

	dto "github.com/prometheus/client_model/go"
)

// A daemon is the state of the process and its store. What only grows is counted since the
// start.
type daemon struct {
	Version string    `json:"version"`
	Started time.Time `json:"started"`

	Store       string  `json:"store"`
	OnError     string  `json:"on_error"`
	StoreErrors float64 `json:"store_errors"`
	ServersGone float64 `json:"servers_gone"` // whose circuit breaker is open
	HasBreaker  bool    `json:"has_breaker"`

	// Of the counters in memory, which are there for on_error: local with other stores too.
	Keys      float64 `json:"keys"`
	MaxKeys   float64 `json:"max_keys"`
	Bytes     float64 `json:"bytes"`
	Evictions float64 `json:"evictions"`
	EvictShut float64 `json:"evictions_shut"` // of those who were denied, and so were set free

	Shards       float64 `json:"shards"`
	Acquisitions float64 `json:"lock_acquisitions"`
	Contentions  float64 `json:"lock_contentions"`
	Waited       float64 `json:"lock_wait_seconds"`
	Hottest      float64 `json:"hottest_lock_acquisitions"`

	DenyCacheHits float64 `json:"deny_cache_hits"`
	Heap          float64 `json:"process_bytes"`
	Refused       float64 `json:"refused_requests"`
	Panics        float64 `json:"panics"`
}

// figures are metrics by their names.
type figures map[string]*dto.MetricFamily

// has reports whether there is a metric of that name.
func (f figures) has(name string) bool { return f[name] != nil }

// sum returns the sum of the metrics of that name; of a histogram, that of what it has
// observed. With a label, it is that of those which have it.
func (f figures) sum(name string, label ...string) (sum float64) {
	for _, m := range f[name].GetMetric() {
		if len(label) == 2 && valueOf(m, label[0]) != label[1] {
			continue
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
	}
	return sum
}

func valueOf(m *dto.Metric, label string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == label {
			return l.GetValue()
		}
	}
	return ""
}

// daemon returns the state of the process.
func (c *Console) daemon() daemon {
	f := figures{}
	families, err := c.Metrics.Gather()
	if err != nil {
		c.Logger.Warn("the console cannot show all metrics", "error", err)
	}
	for _, family := range families {
		f[family.GetName()] = family
	}
	d := daemon{
		Version: "unknown", Started: c.started, Store: c.Store, OnError: string(c.OnError),
		StoreErrors: f.sum("ratelimitd_store_errors_total"),
		ServersGone: f.sum("ratelimitd_store_breaker_open"), HasBreaker: f.has("ratelimitd_store_breaker_open"),
		Keys: f.sum("ratelimitd_memory_keys"), MaxKeys: f.sum("ratelimitd_memory_max_keys"), Bytes: f.sum("ratelimitd_memory_bytes"),
		Evictions: f.sum("ratelimitd_memory_evictions_total"), EvictShut: f.sum("ratelimitd_memory_evictions_total", "state", "shut"),
		Shards: f.sum("ratelimitd_memory_shards"), Acquisitions: f.sum("ratelimitd_memory_lock_acquisitions_total"),
		Contentions: f.sum("ratelimitd_memory_lock_contentions_total"), Waited: f.sum("ratelimitd_memory_lock_wait_seconds"),
		Hottest:       f.sum("ratelimitd_memory_hottest_lock_acquisitions_total"),
		DenyCacheHits: f.sum("ratelimitd_deny_cache_hits_total"),
		Heap:          f.sum("process_resident_memory_bytes"),
		Refused:       f.sum("ratelimitd_refused_requests_total"), Panics: f.sum("ratelimitd_panics_total"),
	}
	if m := f["ratelimitd_build_info"].GetMetric(); len(m) > 0 {
		d.Version = valueOf(m[0], "version")
	}
	return d
}
