package xds

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// maxVersionBytes is how much of a version metrics and the log show.
const maxVersionBytes = 64

// shown returns a version as metrics and the log show it.
func shown(version string) string {
	return strings.ToValidUTF8(version[:min(len(version), maxVersionBytes)], "")
}

// metrics are those of a client.
type metrics struct {
	connected         prometheus.Gauge
	accepted, refused prometheus.Counter
	version           *prometheus.GaugeVec
	updated           prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) metrics {
	updates := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_xds_updates_total",
		Help: "Messages with limits from the xDS server, by whether they were accepted, or refused because they cannot be used.",
	}, []string{"result"})
	m := metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_xds_connected",
			Help: "1 while there is a stream from the xDS server; 0 while there is none, and the limits in force stay.",
		}),
		accepted: updates.WithLabelValues("accepted"),
		refused:  updates.WithLabelValues("refused"),
		version: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ratelimitd_xds_version_info",
			Help: "1, with the xDS server's version of the limits in force.",
		}, []string{"version"}),
		updated: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_xds_last_update_timestamp_seconds",
			Help: "When limits last came in force from the xDS server or from the cache, in seconds since the Unix epoch. 0: never.",
		}),
	}
	registry.MustRegister(updates, m.connected, m.version, m.updated)
	return m
}

// inForce notes the version in force. There is one at a time, so that the label is
// bounded.
func (m *metrics) inForce(version string) {
	m.version.Reset()
	m.version.WithLabelValues(shown(version)).Set(1)
	m.updated.SetToCurrentTime()
}
