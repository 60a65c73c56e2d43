package inflight

import "github.com/prometheus/client_golang/prometheus"

var (
	bytesDesc = prometheus.NewDesc("ratelimitd_in_flight_bytes",
		"What calls and requests hold: messages that arrive or are not decoded yet, replies that are not read yet, and 16 KiB for each gRPC call.", nil, nil)
	maxDesc = prometheus.NewDesc("ratelimitd_in_flight_max_bytes",
		"What they may hold together.", nil, nil)
	shedDesc = prometheus.NewDesc("ratelimitd_in_flight_shed_total",
		"Calls and requests ended to keep to that bound.", nil, nil)
	bodiesDesc = prometheus.NewDesc("ratelimitd_bodies_waiting",
		"Long bodies over HTTP that are not read yet, as many others are.", nil, nil)
	lateDesc = prometheus.NewDesc("ratelimitd_calls_late_total",
		"gRPC calls ended because a message did not arrive, or a reply was not read, in time.", []string{"wait"}, nil)
)

// Describe implements prometheus.Collector.
func (b *Bound) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{bytesDesc, maxDesc, shedDesc, bodiesDesc, lateDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (b *Bound) Collect(metrics chan<- prometheus.Metric) {
	show := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
	show(bytesDesc, prometheus.GaugeValue, float64(b.bytes.Load()))
	show(maxDesc, prometheus.GaugeValue, float64(b.o.Bytes))
	show(shedDesc, prometheus.CounterValue, float64(b.shed.Load()))
	show(bodiesDesc, prometheus.GaugeValue, float64(b.reading.Waiting()))
	show(lateDesc, prometheus.CounterValue, float64(b.lateMessages.Load()), "message")
	show(lateDesc, prometheus.CounterValue, float64(b.lateReplies.Load()), "reply")
}
