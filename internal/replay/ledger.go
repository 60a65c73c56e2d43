package replay

import (
	"cmp"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A ledger has what a lane has counted, or all lanes of a replica.
type ledger struct {
	born     uint64                     // how many events were before the one that is counted now
	rows     map[*strategy.Limit][]*row // by the first of a policy's limits
	ordered  []*row                     // by their birth
	counters []*counter                 // those of subjects that are remembered
	outcomes [16]uint64
	timeline timeline
	times    *series // of all
	refused  unreads
}

func newLedger() ledger {
	l := ledger{rows: map[*strategy.Limit][]*row{}}
	l.times = l.timeline.newSeries()
	return l
}

// outcome counts what became of a record.
func (l *ledger) outcome(o decide.Outcome, place int) {
	l.outcomes[o]++
	l.times.count(place, o == decide.Denied)
}

// count counts an answer of the limits of c.
func (c *counter) count(e *event, a *decide.Answer, place int) {
	c.asked++
	for i := range a.Decision.Statuses {
		c.limits[i].count(e.at, e.cost, !a.Decision.Statuses[i].Allowed, place)
	}
}

// newRow adds a row.
func (l *ledger) newRow(w row) *row {
	w.times, w.born = l.timeline.newSeries(), l.born
	w.shadow = w.shadow || w.limit.Shadow
	l.ordered = append(l.ordered, &w)
	return &w
}

// add adds what another lane has counted, which is then of l.
func (l *ledger) add(other *ledger) {
	l.timeline.join(&other.timeline)
	l.times.add(other.times)
	for i, n := range other.outcomes {
		l.outcomes[i] += n
	}
	into := map[*row]*row{}
	for limit, rows := range other.rows {
		if l.rows[limit] == nil {
			l.rows[limit] = rows
			continue
		}
		for i, w := range l.rows[limit] {
			into[rows[i]] = w
		}
	}
	for _, w := range other.ordered {
		if to := into[w]; to != nil {
			to.add(w)
		} else {
			l.ordered = append(l.ordered, w)
			l.timeline.all = append(l.timeline.all, w.times)
		}
	}
	for _, c := range other.counters {
		for i := range c.limits {
			if to := into[c.limits[i].row]; to != nil {
				c.limits[i].row = to
			}
		}
	}
	l.counters = append(l.counters, other.counters...)
	l.refused.add(other.refused.kinds)
}

// sort puts what l has of all lanes in the order of one.
func (l *ledger) sort() {
	slices.SortStableFunc(l.ordered, func(a, b *row) int { return cmp.Compare(a.born, b.born) })
	slices.SortStableFunc(l.refused.kinds, func(a, b unread) int { return cmp.Compare(a.born, b.born) })
}

// sorted returns the rows by name.
func (l *ledger) sorted() []*row {
	return slices.SortedStableFunc(slices.Values(l.ordered), func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.policy, b.policy), cmp.Compare(a.name, b.name), cmp.Compare(a.limit.Rate.Count, b.limit.Rate.Count))
	})
}

func share(part, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return float64(part) / float64(of)
}
