package replay

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A lane decides for some of the subjects: those whose counters are in its part of the shards of
// the store. So lanes decide at the same time, and yet each counter is asked in the order of the
// log, and each shard evicts what it would if there were one lane. It is for one goroutine.
type lane struct {
	number uint8
	side   int // of a subject, which it writes to
	store  clocked
	core   *decide.Core
	envoy  *envoyapi.API // which asks the core
	batch  decide.Batch

	touched  byte                // what fetch has read, so that it is read
	shared   map[string]*counter // of descriptors, by domain and identifier
	question envoyapi.Question
	ledger
}

// clocked is a store whose clock is that of the log: of one lane.
type clocked struct {
	*memory.Store
	now strategy.Instant
}

// Decide implements store.Store.
func (c *clocked) Decide(_ context.Context, requests []store.Request, results []store.Result) {
	c.DecideAt(c.now, requests, results)
}

// A stretch is a batch, and what a replica decides.
type stretch struct {
	*batch
	first    uint64           // how many events were before it
	outcomes []decide.Outcome // of each event; for a record of several, that of the record. nil: nobody wants them
}

// decide decides those of the events that are of l.
func (l *lane) decide(ctx context.Context, s *stretch) {
	if s.events[0].who.IsDescriptor { // as all are then, and there is one lane
		for i := 0; i < len(s.events); {
			i += l.decideRecord(ctx, s, i)
		}
		return
	}
	for some := range slices.Chunk(s.ofLane[l.number], maxTogether) {
		l.fetch(s, some)
		for len(some) > 0 {
			n, at := 1, s.events[some[0]].at
			for n < len(some) && s.events[some[n]].at == at {
				n++
			}
			l.decideInstant(ctx, s, some[:n])
			some = some[n:]
		}
	}
}

// fetch counts events as asked, and touches what deciding them needs. So the processor waits for the
// memory of many at a time, and not for each: that took more time than all else.
func (l *lane) fetch(s *stretch, mine []int32) {
	for _, n := range mine {
		l.ask(&s.events[n])
	}
	for _, n := range mine {
		who := s.events[n].who
		l.touched += who.Identifier[0]
		if c := who.sides[l.side].counter; c != nil {
			l.touched += byte(c.asked) + byte(c.limits[0].peak)
		}
	}
}

// decideInstant decides events of one instant.
func (l *lane) decideInstant(ctx context.Context, s *stretch, mine []int32) {
	b := &l.batch
	b.Requests = decide.Resized(b.Requests, len(mine))
	for i, n := range mine {
		e := &s.events[n]
		q := &b.Requests[i]
		q.Namespace, q.Identifier, q.Policy, q.Limits, q.Cost, q.Aside = e.who.Namespace, e.who.Identifier, "", nil, e.cost, true
		// What a subject was held to once, it is held to until the end.
		if c := e.who.sides[l.side].counter; c != nil {
			q.Limits = c.policy
		} else {
			q.Policy = e.who.Policy
		}
	}
	at := s.events[mine[0]].at
	l.store.now = strategy.Instant(at)
	l.core.Decide(ctx, b)
	place := l.timeline.place(at)
	for i, n := range mine {
		l.born = s.first + uint64(n) //nolint:gosec // it is an index
		s.set(int(n), l.count(&s.events[n], &b.Answers[i], place))
	}
}

// set sets the outcome of event i.
func (s *stretch) set(i int, o decide.Outcome) {
	if s.outcomes != nil {
		s.outcomes[i] = o
	}
}

// count counts an answer, and returns its outcome.
func (l *lane) count(e *event, a *decide.Answer, place int) decide.Outcome {
	if a.Err != nil {
		l.refuse(a.Err)
		return decide.Undecided
	}
	l.outcome(a.Outcome, place)
	s := &e.who.sides[l.side]
	if a.Outcome == decide.Denied {
		s.denied++
	}
	if len(a.Decision.Statuses) == 0 {
		return a.Outcome // it is exempt
	}
	if s.counter == nil {
		s.counter = l.newCounter(e.who, e.who.Identifier, l.rowsOf(e.who, a.Limits))
		s.policy = a.Limits
	}
	s.count(e, a, place)
	return a.Outcome
}

// refuse counts a record that was not decided.
func (l *lane) refuse(err error) {
	kind := "a request that a daemon refuses"
	if errors.Is(err, decide.ErrUnknownPolicy) {
		kind = "a policy that the configuration does not have"
	}
	l.refused.count(unread{kind: kind, count: 1, example: err.Error(), born: l.born})
}

// ask counts an event of a subject.
func (l *lane) ask(e *event) {
	if l.side == 0 {
		e.who.asked++
	}
}

// decideRecord decides the descriptors of the record that begins with event i, and returns how
// many there are.
func (l *lane) decideRecord(ctx context.Context, s *stretch, i int) int {
	n := 1
	for s.events[i+n-1].more {
		n++
	}
	events := s.events[i : i+n]
	l.born = s.first + uint64(i) //nolint:gosec // it is an index
	place := l.timeline.place(events[0].at)
	outcome := l.decideDescriptors(ctx, events, place)
	if outcome != decide.Undecided {
		l.outcome(outcome, place)
	}
	for j := range events {
		l.ask(&events[j])
		s.set(i+j, outcome)
	}
	return n
}

// decideDescriptors asks for the descriptors of one record.
func (l *lane) decideDescriptors(ctx context.Context, events []event, place int) decide.Outcome {
	q := &l.question
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
	l.store.now = strategy.Instant(events[0].at)
	over, err := l.envoy.Ask(ctx, q, func(i int, ruling envoyapi.Ruling) {
		if ruling.Answer != nil {
			held = true
			l.rule(&events[i], ruling, place)
		}
	})
	switch {
	case err != nil:
		l.refuse(err)
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
func (l *lane) rule(e *event, ruling envoyapi.Ruling, place int) {
	a, s := ruling.Answer, &e.who.sides[l.side]
	if a.Outcome == decide.Denied {
		s.denied++
	}
	if len(a.Decision.Statuses) == 0 {
		return
	}
	if s.counter == nil {
		s.counter = l.counterOf(e.who, ruling)
	}
	s.count(e, a, place)
}

// counterOf returns the counter of a descriptor, which others may share.
func (l *lane) counterOf(who *subject, ruling envoyapi.Ruling) *counter {
	m := ruling.Match
	key := who.Namespace + "\x00" + m.Identifier
	c := l.shared[key]
	if c == nil {
		c = l.newCounter(who, m.Identifier, l.rowsOfMatch(who, ruling))
		if !who.others {
			l.shared[key] = c
		}
	}
	return c
}

// newCounter returns a counter of rows.
func (l *lane) newCounter(who *subject, identifier string, rows []*row) *counter {
	c := newCounter(who, l.side, identifier, rows)
	if !who.others {
		l.counters = append(l.counters, c)
	}
	return c
}

// rowsOf returns the rows of limits of a policy.
func (l *lane) rowsOf(who *subject, limits []strategy.Limit) []*row {
	rows := l.rows[&limits[0]]
	if rows == nil {
		for i := range limits {
			rows = append(rows, l.newRow(row{namespace: who.Namespace, policy: who.Policy, name: limits[i].Counter(), limit: &limits[i]}))
		}
		l.rows[&limits[0]] = rows
	}
	return rows
}

// rowsOfMatch returns the rows of a limit of Envoy's configuration: one for each of its rates.
func (l *lane) rowsOfMatch(who *subject, ruling envoyapi.Ruling) []*row {
	of := ruling.Match.Limit
	rows := l.rows[&of.Parts[0].Limit]
	if rows == nil {
		for i := range of.Parts {
			w := row{namespace: who.Namespace, name: strings.TrimPrefix(of.Name(), who.Namespace+"."), limit: &of.Parts[i].Limit, mode: ruling.Asked.Mode}
			if len(of.Parts) > 1 {
				w.name += " " + w.limit.Counter()
			}
			w.shadow = ruling.Asked.Limits[i].Shadow
			rows = append(rows, l.newRow(w))
		}
		l.rows[&of.Parts[0].Limit] = rows
	}
	return rows
}
