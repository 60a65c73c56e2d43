package redis

import "github.com/prometheus/client_golang/prometheus"

// A Collector collects a store's metrics.
type Collector struct{ store *Store }

var _ prometheus.Collector = Collector{}

var (
	pipelinesDesc = prometheus.NewDesc("ratelimitd_redis_pipelines_total",
		"Round trips to Redis with at least one decision.", nil, nil)
	decisionsDesc = prometheus.NewDesc("ratelimitd_redis_decisions_total",
		"Decisions asked for in these round trips. Concurrent decisions share a round trip.", nil, nil)
	waitingDesc = prometheus.NewDesc("ratelimitd_redis_waiting",
		"Calls that wait for the next round trip.", nil, nil)
	connectionsDesc = prometheus.NewDesc("ratelimitd_redis_connections",
		"Connections to Redis, by whether they are in use or idle.", []string{"state"}, nil)
	poolTimeoutsDesc = prometheus.NewDesc("ratelimitd_redis_pool_timeouts_total",
		"Round trips that got no connection in time, because all were in use.", nil, nil)
	valuesDesc = prometheus.NewDesc("ratelimitd_redis_bad_values_total",
		"Requests that failed because a key holds no counter: foreign, a value of another type, which stays; or corrupt, a value that was deleted.", []string{"kind"}, nil)
	evictsDesc = prometheus.NewDesc("ratelimitd_redis_evicts_counters",
		"1 if a server drops keys when its memory is full, as its maxmemory-policy says, and so sets limits free; 0 if not, or if the server does not say.", nil, nil)
	sharedDesc = prometheus.NewDesc("ratelimitd_redis_shared_scripts",
		"1 if requests of several identifiers share scripts, because one server owns all keys; otherwise 0.", nil, nil)
)

// Collector returns what collects the metrics of s.
func (s *Store) Collector() Collector { return Collector{s} }

// Describe implements prometheus.Collector.
func (c Collector) Describe(descs chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, descs) }

// Collect implements prometheus.Collector.
func (c Collector) Collect(metrics chan<- prometheus.Metric) {
	p, pool := c.store.pipes, c.store.client.PoolStats()
	emit := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	emit(pipelinesDesc, prometheus.CounterValue, float64(p.pipelines.Load()))
	emit(decisionsDesc, prometheus.CounterValue, float64(p.questions.Load()))
	emit(waitingDesc, prometheus.GaugeValue, float64(p.waiting()))
	emit(connectionsDesc, prometheus.GaugeValue, float64(pool.IdleConns), "idle")
	emit(connectionsDesc, prometheus.GaugeValue, float64(pool.TotalConns-min(pool.IdleConns, pool.TotalConns)), "used")
	emit(poolTimeoutsDesc, prometheus.CounterValue, float64(pool.Timeouts))
	emit(valuesDesc, prometheus.CounterValue, float64(c.store.foreign.Load()), "foreign")
	emit(valuesDesc, prometheus.CounterValue, float64(c.store.damaged.Load()), "corrupt")
	evicting := 0.0
	if c.store.evicts.found.Load() {
		evicting = 1
	}
	emit(evictsDesc, prometheus.GaugeValue, evicting)
	shared := 0.0
	if p.shares() {
		shared = 1
	}
	emit(sharedDesc, prometheus.GaugeValue, shared)
}
