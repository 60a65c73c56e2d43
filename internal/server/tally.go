package server

import (
	"github.com/ratelimitd/ratelimitd/internal/hotkeys"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A tally counts what one call asks. The requests of a call are mostly of one
// namespace, so the metrics are looked up and written to once for all of them.
// The zero tally has counted nothing.
type tally struct {
	name      string
	counters  *namespaceCounters // of the namespace called name; nil: of none yet
	hot       hotkeys.Recorder   // likewise, if recording
	recording bool

	outcomes [outcomes]uint32
	checks   [len(strategy.All) + 1]checkCounts
	inline   checkCounts
}

// checkCounts are what checkCounters are to be raised by.
type checkCounts [2]uint32

func (c *checkCounts) count(allowed bool) {
	if allowed {
		c[1]++
	} else {
		c[0]++
	}
}

// in has t count in a namespace.
func (t *tally) in(m *metrics, name string) {
	if t.counters != nil && t.name == name {
		return
	}
	t.flush(m)
	t.name, t.counters = name, m.namespace(name)
}

// decided counts a decision.
func (t *tally) decided(m *metrics, namespace string, o outcome) {
	t.in(m, namespace)
	t.outcomes[o]++
}

// checked counts what each limit said of r. policy is the one of the
// configuration that the limits are of, or "" if the request brought them.
func (t *tally) checked(m *metrics, r *store.Request, policy string, statuses []strategy.Status) {
	t.in(m, r.Namespace)
	for i := range statuses {
		l, allowed := &r.Limits[i], statuses[i].Allowed
		t.checks[l.Strategy].count(allowed)
		if policy == "" {
			t.inline.count(allowed)
		} else {
			m.limit(r.Namespace, t.counters, limitName{policy, l.Name}).count(allowed)
		}
	}
}

// asked notes who asked, in the namespace that t counts in.
func (t *tally) asked(hot *hotkeys.Tracker, identifier string, denied bool) {
	if !t.recording {
		t.hot, t.recording = hot.In(t.name), true
	}
	t.hot.Record(identifier, denied)
}

// flush adds what was counted to the metrics, after which nothing is.
func (t *tally) flush(m *metrics) {
	if t.counters == nil {
		return
	}
	for o, n := range t.outcomes {
		if n > 0 {
			t.counters.outcomes[o].Add(float64(n))
		}
	}
	for i := range t.checks {
		m.checks[i].add(&t.checks[i])
	}
	t.counters.inline.add(&t.inline)
	*t = tally{}
}
