package replay

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// maxTogether is how many events of one instant are decided in a batch.
const maxTogether = 256

// A replica decides as a daemon of one configuration would. It has a daemon's core and a
// daemon's store in memory, whose clock is that of the log.
type replica struct {
	index int // of its side of a subject
	core  *decide.Core
	store *memory.Store
	clock atomic.Int64
	batch decide.Batch

	rows     map[*strategy.Limit][]*row // by the first of a policy's limits
	ordered  []*row
	outcomes [16]uint64
	times    timeline
	refused  unreads
}

// A row counts what was asked of one limit.
type row struct {
	namespace, policy string
	limit             *strategy.Limit
	asked, denied     uint64
	units             uint64
	times             []point // by the timeline of its replica
}

// newReplica returns a replica of a daemon with the policies p, whose store is of o. Close
// it.
func newReplica(index int, p *config.Policies, o memory.Options, onError policy.OnError, logger *slog.Logger) (*replica, error) {
	r := &replica{index: index, rows: map[*strategy.Limit][]*row{}}
	o.Now = func() strategy.Instant { return strategy.Instant(r.clock.Load()) }
	o.Logger = logger
	counters, err := memory.New(o)
	if err != nil {
		return nil, err
	}
	r.store = counters
	r.core = decide.New(decide.Options{
		Store: counters, OnError: onError, MaxLogCount: o.MaxLogCount, Logger: logger,
		Book: account.New(decide.Outcomes, nil),
	})
	r.core.SetPolicies(p.Namespaces)
	counters.Favour(p.Names())
	return r, nil
}

func (r *replica) close() { _ = r.store.Close() }

// decide decides events, which are in order, and sets the outcome of each in outcomes.
func (r *replica) decide(ctx context.Context, events []event, outcomes []decide.Outcome) {
	for len(events) > 0 {
		at, n := events[0].at, 1
		for n < len(events) && n < maxTogether && events[n].at == at {
			n++
		}
		r.clock.Store(at)
		b := &r.batch
		b.Requests = decide.Resized(b.Requests, n)
		for i := range events[:n] {
			e := &events[i]
			b.Requests[i] = decide.Request{Namespace: e.who.namespace, Identifier: e.who.identifier, Policy: e.who.policy, Cost: e.cost}
		}
		r.core.Decide(ctx, b)
		place := r.times.place(at, r.ordered)
		for i := range events[:n] {
			outcomes[i] = r.count(&events[i], &b.Requests[i], &b.Answers[i], place)
		}
		events, outcomes = events[n:], outcomes[n:]
	}
}

// count counts an answer, and returns its outcome.
func (r *replica) count(e *event, q *decide.Request, a *decide.Answer, place int) decide.Outcome {
	if a.Err != nil {
		kind := "a request that a daemon refuses"
		if errors.Is(a.Err, decide.ErrUnknownPolicy) {
			kind = "a policy that the configuration does not have"
		}
		r.refused.count(unread{kind, 1, a.Err.Error()})
		return decide.Undecided
	}
	r.outcomes[a.Outcome]++
	denied := a.Outcome == decide.Denied
	r.times.all = r.times.count(r.times.all, place, denied)
	s := &e.who.sides[r.index]
	if denied {
		s.denied++
	}
	if len(a.Decision.Statuses) == 0 {
		return a.Outcome // it is exempt
	}
	if s.limits == nil {
		s.limits = r.holds(q, a.Limits)
	}
	for i := range a.Decision.Statuses {
		h, refuses := &s.limits[i], !a.Decision.Statuses[i].Allowed
		w := h.row
		w.asked++
		w.units += e.cost
		if refuses {
			w.denied++
			if h.denied++; h.denied == 1 {
				h.first = e.at
			}
			h.last = e.at
		}
		w.times = r.times.count(w.times, place, refuses)
		h.demand(e)
	}
	return a.Outcome
}

// demand counts what e asks in the period of h's limit.
func (h *hold) demand(e *event) {
	period := int64(h.row.limit.Rate.Period / time.Microsecond)
	if period == 0 {
		return // it is unlimited
	}
	if window := e.at / period; window != h.window {
		h.window, h.units = window, 0
	}
	h.units += e.cost
	h.peak = max(h.peak, h.units)
}

// holds returns what counts for a subject that is held to limits.
func (r *replica) holds(q *decide.Request, limits []strategy.Limit) []hold {
	rows := r.rows[&limits[0]]
	if rows == nil {
		for i := range limits {
			w := &row{namespace: q.Namespace, policy: q.Policy, limit: &limits[i]}
			rows = append(rows, w)
			r.ordered = append(r.ordered, w)
		}
		r.rows[&limits[0]] = rows
	}
	holds := make([]hold, len(rows))
	for i := range rows {
		holds[i].row = rows[i]
	}
	return holds
}

// sorted returns the rows by name.
func (r *replica) sorted() []*row {
	return slices.SortedStableFunc(slices.Values(r.ordered), func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.policy, b.policy), cmp.Compare(a.limit.Counter(), b.limit.Counter()), cmp.Compare(a.limit.Rate.Count, b.limit.Rate.Count))
	})
}
