package replay

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
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
	envoy *envoyapi.API // which asks the core
	store *memory.Store
	clock atomic.Int64
	batch decide.Batch

	rows     map[*strategy.Limit][]*row // by the first of a policy's limits
	ordered  []*row
	counters []*counter          // those of subjects that are remembered
	shared   map[string]*counter // of descriptors, by domain and identifier
	outcomes [16]uint64
	timeline timeline
	times    *series // of all
	refused  unreads
	question envoyapi.Question
}

// replicaOptions say what a daemon is told.
type replicaOptions struct {
	policies *config.Policies
	memory   memory.Options
	onError  policy.OnError
	envoy    envoyapi.Settings
}

// newReplica returns a replica of a daemon with such options. Close it.
func newReplica(index int, o replicaOptions, logger *slog.Logger) (*replica, error) {
	r := &replica{index: index, rows: map[*strategy.Limit][]*row{}, shared: map[string]*counter{}}
	r.times = r.timeline.newSeries()
	o.memory.Now = func() strategy.Instant { return strategy.Instant(r.clock.Load()) }
	o.memory.Logger = logger
	counters, err := memory.New(o.memory)
	if err != nil {
		return nil, err
	}
	r.store = counters
	book := account.New(decide.Outcomes, nil)
	r.core = decide.New(decide.Options{
		Store: counters, OnError: o.onError, MaxLogCount: o.memory.MaxLogCount, Logger: logger, Book: book,
	})
	r.core.SetPolicies(o.policies.Namespaces)
	r.envoy = envoyapi.New(envoyapi.Options{Settings: o.envoy, Core: r.core, Book: book, Faults: fault.NewLog(book, logger)})
	r.envoy.SetConfig(o.policies.Domains)
	counters.Favour(o.policies.Names())
	return r, nil
}

func (r *replica) close() { _ = r.store.Close() }

// decide decides events, which are in order, and sets the outcome of each in outcomes. For a
// record of several events that is what became of the record.
func (r *replica) decide(ctx context.Context, events []event, outcomes []decide.Outcome) {
	for len(events) > 0 {
		n := 0
		if events[0].who.IsDescriptor {
			n = r.decideRecord(ctx, events, outcomes)
		} else {
			n = r.decideInstant(ctx, events, outcomes)
		}
		events, outcomes = events[n:], outcomes[n:]
	}
}

// decideInstant decides the first events, which are of one instant, and returns how many.
func (r *replica) decideInstant(ctx context.Context, events []event, outcomes []decide.Outcome) int {
	at, n := events[0].at, 1
	for n < len(events) && n < maxTogether && events[n].at == at {
		n++
	}
	r.clock.Store(at)
	b := &r.batch
	b.Requests = decide.Resized(b.Requests, n)
	for i := range events[:n] {
		e := &events[i]
		b.Requests[i] = decide.Request{Namespace: e.who.Namespace, Identifier: e.who.Identifier, Policy: e.who.Policy, Cost: e.cost}
	}
	r.core.Decide(ctx, b)
	place := r.timeline.place(at)
	for i := range events[:n] {
		outcomes[i] = r.count(&events[i], &b.Answers[i], place)
	}
	return n
}

// count counts an answer, and returns its outcome.
func (r *replica) count(e *event, a *decide.Answer, place int) decide.Outcome {
	if a.Err != nil {
		r.refuse(a.Err)
		return decide.Undecided
	}
	r.outcome(a.Outcome, place)
	s := &e.who.sides[r.index]
	if a.Outcome == decide.Denied {
		s.denied++
	}
	if len(a.Decision.Statuses) == 0 {
		return a.Outcome // it is exempt
	}
	if s.counter == nil {
		s.counter = r.newCounter(e.who, e.who.Identifier, r.rowsOf(e.who, a.Limits))
	}
	s.count(e, a, place)
	return a.Outcome
}

// outcome counts what became of a record.
func (r *replica) outcome(o decide.Outcome, place int) {
	r.outcomes[o]++
	r.times.count(place, o == decide.Denied)
}

// refuse counts a record that was not decided.
func (r *replica) refuse(err error) {
	kind := "a request that a daemon refuses"
	if errors.Is(err, decide.ErrUnknownPolicy) {
		kind = "a policy that the configuration does not have"
	}
	r.refused.count(unread{kind, 1, err.Error()})
}

// count counts an answer of the limits of c.
func (c *counter) count(e *event, a *decide.Answer, place int) {
	c.asked++
	for i := range a.Decision.Statuses {
		c.limits[i].count(e, !a.Decision.Statuses[i].Allowed, place)
	}
}

// decideRecord decides the descriptors of the first record, and returns how many there are.
func (r *replica) decideRecord(ctx context.Context, events []event, outcomes []decide.Outcome) int {
	n := 1
	for events[n-1].more {
		n++
	}
	place := r.timeline.place(events[0].at)
	outcome := r.ask(ctx, events[:n], place)
	if outcome != decide.Undecided {
		r.outcome(outcome, place)
	}
	for i := range n {
		outcomes[i] = outcome
	}
	return n
}

// ask asks for the descriptors of one record.
func (r *replica) ask(ctx context.Context, events []event, place int) decide.Outcome {
	q := &r.question
	q.Domain, q.Hits, q.Descriptors = events[0].who.Namespace, events[0].cost, q.Descriptors[:0]
	for i := range events {
		if len(events[i].who.Entries) > 0 {
			q.Descriptors = append(q.Descriptors, events[i].who.Entries)
		}
	}
	if len(q.Descriptors) == 0 {
		return decide.Exempt // Envoy does not ask
	}
	held := false
	r.clock.Store(events[0].at)
	over, err := r.envoy.Ask(ctx, q, func(i int, ruling envoyapi.Ruling) {
		if ruling.Answer != nil {
			held = true
			r.rule(&events[i], ruling, place)
		}
	})
	switch {
	case err != nil:
		r.refuse(err)
		return decide.Undecided
	case over:
		return decide.Denied
	case held:
		return decide.Allowed
	default:
		return decide.Exempt
	}
}

// rule counts what became of one descriptor.
func (r *replica) rule(e *event, ruling envoyapi.Ruling, place int) {
	a, s := ruling.Answer, &e.who.sides[r.index]
	if a.Outcome == decide.Denied {
		s.denied++
	}
	if len(a.Decision.Statuses) == 0 {
		return
	}
	if s.counter == nil {
		s.counter = r.counterOf(e.who, ruling)
	}
	s.count(e, a, place)
}

// counterOf returns the counter of a descriptor, which others may share.
func (r *replica) counterOf(who *subject, ruling envoyapi.Ruling) *counter {
	m := ruling.Match
	key := who.Namespace + "\x00" + m.Identifier
	c := r.shared[key]
	if c == nil {
		c = r.newCounter(who, m.Identifier, r.rowsOfMatch(who, ruling))
		if !who.others {
			r.shared[key] = c
		}
	}
	return c
}

// newCounter returns a counter of rows.
func (r *replica) newCounter(who *subject, identifier string, rows []*row) *counter {
	c := &counter{identifier: identifier, limits: make([]hold, len(rows))}
	for i := range rows {
		c.limits[i].row = rows[i]
	}
	if !who.others {
		r.counters = append(r.counters, c)
	}
	return c
}

// rowsOf returns the rows of limits of a policy.
func (r *replica) rowsOf(who *subject, limits []strategy.Limit) []*row {
	rows := r.rows[&limits[0]]
	if rows == nil {
		for i := range limits {
			rows = append(rows, r.newRow(row{namespace: who.Namespace, policy: who.Policy, name: limits[i].Counter(), limit: &limits[i]}))
		}
		r.rows[&limits[0]] = rows
	}
	return rows
}

// rowsOfMatch returns the rows of a limit of Envoy's configuration: one for each of its rates.
func (r *replica) rowsOfMatch(who *subject, ruling envoyapi.Ruling) []*row {
	l := ruling.Match.Limit
	rows := r.rows[&l.Parts[0].Limit]
	if rows == nil {
		for i := range l.Parts {
			w := row{namespace: who.Namespace, name: strings.TrimPrefix(l.Name(), who.Namespace+"."), limit: &l.Parts[i].Limit, mode: ruling.Asked.Mode}
			if len(l.Parts) > 1 {
				w.name += " " + w.limit.Counter()
			}
			w.shadow = ruling.Asked.Limits[i].Shadow
			rows = append(rows, r.newRow(w))
		}
		r.rows[&l.Parts[0].Limit] = rows
	}
	return rows
}

func (r *replica) newRow(w row) *row {
	w.times = r.timeline.newSeries()
	w.shadow = w.shadow || w.limit.Shadow
	r.ordered = append(r.ordered, &w)
	return &w
}

// sorted returns the rows by name.
func (r *replica) sorted() []*row {
	return slices.SortedStableFunc(slices.Values(r.ordered), func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.policy, b.policy), cmp.Compare(a.name, b.name), cmp.Compare(a.limit.Rate.Count, b.limit.Rate.Count))
	})
}
