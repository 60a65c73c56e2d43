package breaker

import "github.com/prometheus/client_golang/prometheus"

// Collector returns what collects the metrics of b.
func (b *Breaker) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ratelimitd_store_breaker_open",
		Help: "1 while the store is not asked because it keeps failing, but for four probes a second; else 0.",
	}, func() float64 {
		if b.IsOpen() {
			return 1
		}
		return 0
	})
}
