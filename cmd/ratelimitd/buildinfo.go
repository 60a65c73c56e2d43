package main

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
)

// buildInfo collects which version this is.
func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "ratelimitd_build_info",
		Help:        "1, with the version of the daemon and of the Go that built it.",
		ConstLabels: prometheus.Labels{"version": versionString(), "go_version": runtime.Version()},
	}, func() float64 { return 1 })
}
