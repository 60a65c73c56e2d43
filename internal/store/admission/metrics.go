package admission

import "github.com/prometheus/client_golang/prometheus"

var (
	capacityDesc = prometheus.NewDesc("ratelimitd_store_max_in_flight",
		"How many counters may be at the store at a time. There are fewer while the store is slow.", nil, nil)
	inFlightDesc = prometheus.NewDesc("ratelimitd_store_in_flight",
		"Counters that are at the store.", nil, nil)
	waitingDesc = prometheus.NewDesc("ratelimitd_store_waiting",
		"Counters that wait for their turn at the store.", nil, nil)
	waitsDesc = prometheus.NewDesc("ratelimitd_store_waits_total",
		"Pieces of work that had to wait for their turn at the store.", nil, nil)
	shedDesc = prometheus.NewDesc("ratelimitd_store_shed_total",
		"Pieces of work that the store was not asked about, because it is asked for too much, by cause.", []string{"cause"}, nil)
)

// Collector returns what collects the metrics of s.
func (s *Store) Collector() prometheus.Collector { return collector{s} }

type collector struct{ *Store }

// Describe implements prometheus.Collector.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{capacityDesc, inFlightDesc, waitingDesc, waitsDesc, shedDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	c.mu.Lock()
	capacity, inFlight, waiting := c.capacity, c.inFlight, c.waiting.backlog
	c.mu.Unlock()
	show := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	show(capacityDesc, prometheus.GaugeValue, float64(capacity))
	show(inFlightDesc, prometheus.GaugeValue, float64(inFlight))
	show(waitingDesc, prometheus.GaugeValue, float64(waiting))
	show(waitsDesc, prometheus.CounterValue, float64(c.waits.Load()))
	show(shedDesc, prometheus.CounterValue, float64(c.full.Load()), "full")
	show(shedDesc, prometheus.CounterValue, float64(c.late.Load()), "late")
}
