package server

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// maxLimits is how many limits of Envoy's configuration have a label value of
// their own. With detailed_metric or value_to_metric there is one for each value
// that clients send: those that come later count as otherLimits.
const (
	maxLimits   = 1000
	otherLimits = "other"
)

// limitHits count what was asked of each limit of Envoy's configuration.
type limitHits struct {
	hits   *prometheus.CounterVec
	others *limitCounters // of all limits that have none of their own
	known  atomic.Pointer[map[string]*limitCounters]

	mu sync.Mutex // held to replace known
}

// limitCounters are those of a limit: within, over, and over in shadow mode.
type limitCounters [3]prometheus.Counter

var limitOutcomes = [len(limitCounters{})]string{"within_limit", "over_limit", "shadow"}

func newLimitHits(reg prometheus.Registerer) *limitHits {
	h := &limitHits{hits: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ratelimitd_envoy_limit_hits_total",
		Help: "Hits asked of the limits of Envoy's configuration, by whether they were within the limit, over it, or over it in shadow mode.",
	}, []string{"limit", "outcome"})}
	reg.MustRegister(h.hits)
	h.known.Store(new(map[string]*limitCounters))
	h.others = h.newCounters(otherLimits)
	return h
}

// count counts n hits of a limit.
func (h *limitHits) count(limit string, n uint64, over, shadow bool) {
	i := 0
	switch {
	case over && shadow:
		i = 2
	case over:
		i = 1
	}
	h.counters(limit)[i].Add(float64(n))
}

// counters returns the counters of a limit, or those of the others.
func (h *limitHits) counters(limit string) *limitCounters {
	known := *h.known.Load()
	if c := known[limit]; c != nil {
		return c
	}
	if len(known) >= maxLimits {
		return h.others
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	known = *h.known.Load()
	if c := known[limit]; c != nil || len(known) >= maxLimits {
		if c == nil {
			c = h.others
		}
		return c
	}
	c := h.newCounters(limit)
	h.known.Store(with(known, limit, c))
	return c
}

func (h *limitHits) newCounters(limit string) *limitCounters {
	c := new(limitCounters)
	for i := range c {
		c[i] = h.hits.WithLabelValues(limit, limitOutcomes[i])
	}
	return c
}
