package breaker

import "github.com/prometheus/client_golang/prometheus"

// Collector returns what collects the metrics of b.
func (b *Breaker) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ratelimitd_store_breaker_open",
		Help: "How many servers of the store are not asked because they keep failing, but for four probes a second each.",
	}, func() float64 { return float64(b.Open()) })
}
