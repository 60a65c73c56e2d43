package netlimit

import "github.com/prometheus/client_golang/prometheus"

var (
	connectionsDesc = prometheus.NewDesc("ratelimitd_connections",
		"Open connections, by port.", []string{"port"}, nil)
	maxDesc = prometheus.NewDesc("ratelimitd_max_connections",
		"How many connections there may be on all ports together.", nil, nil)
	refusedDesc = prometheus.NewDesc("ratelimitd_connections_refused_total",
		"Connections closed to keep to a bound, by port: those of an address that had too many, and spare connections that made room for others.", []string{"port", "bound"}, nil)
	sparesDesc = prometheus.NewDesc("ratelimitd_spare_connections_total",
		"Connections beyond the bound on all connections, by port. They are closed after a moment, which is enough for a probe.", []string{"port"}, nil)
	exhaustedDesc = prometheus.NewDesc("ratelimitd_descriptors_exhausted_total",
		"How often a port found no file descriptor for a new connection.", []string{"port"}, nil)
)

// Describe implements prometheus.Collector.
func (b *Bound) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connectionsDesc, maxDesc, refusedDesc, sparesDesc, exhaustedDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (b *Bound) Collect(metrics chan<- prometheus.Metric) {
	show := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	show(maxDesc, prometheus.GaugeValue, float64(b.max))
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.ports {
		show(connectionsDesc, prometheus.GaugeValue, float64(l.connections), l.name)
		show(refusedDesc, prometheus.CounterValue, float64(l.overAddress.Load()), l.name, "address")
		show(refusedDesc, prometheus.CounterValue, float64(l.overAll.Load()), l.name, "all")
		show(sparesDesc, prometheus.CounterValue, float64(l.toSpare.Load()), l.name)
		show(exhaustedDesc, prometheus.CounterValue, float64(l.exhaustions.Load()), l.name)
	}
}
