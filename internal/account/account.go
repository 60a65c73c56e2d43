// Package account counts what was decided, by namespace and limit, and knows
// who asks most. All of it is bounded: callers cannot make it grow by the names
// that they send. Its counters are plain numbers; collector.go shows them to
// Prometheus.
package account

import (
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// maxNamespaces is how many namespaces that callers choose have counters of
	// their own. Those that come later share one set. Namespaces of the
	// configuration always have their own.
	maxNamespaces = 100
	// maxConfigured is how many namespaces, and how many of Envoy's limits, have
	// counters of their own in all, with those of the configuration: each is several
	// time series.
	maxConfigured = 10_000
	// maxNamespaceLimits is how many limits of policies each namespace has
	// counters for. Callers cannot make up any of them: the bound is for configurations
	// that change their names again and again. Those that come later count as limits that
	// callers send.
	maxNamespaceLimits = 1000
	// maxEnvoyLimits is how many limits of Envoy's configuration have counters
	// of their own. With detailed_metric or value_to_metric there is one for each
	// value that clients send.
	maxEnvoyLimits = 1000
	// maxNameBytes is how long a name may be that has counters of its own: it
	// becomes the value of a label.
	maxNameBytes = 128
	// maxOutcomes is room for the outcomes of all decisions.
	maxOutcomes = 16

	// Others is the name of what shares the counters of all that have none of
	// their own.
	Others = "other"
)

// A Book has the accounts of one daemon. New makes it. It is safe for
// concurrent use.
type Book struct {
	Refused     atomic.Uint64 // requests that were invalid, or named an unknown policy
	Undecodable atomic.Uint64 // messages that are not what their method takes
	Ignored     atomic.Uint64 // parts of Envoy's requests that could not be heeded
	Panics      atomic.Uint64 // calls whose handling panicked
	StoreErrors atomic.Uint64 // decisions and resets that the store failed to make

	outcomes   []string // their names
	checks     [len(strategy.All) + 1]checks
	namespaces table[string, namespace]
	others     *namespace
	envoy      table[string, hits]
	envoyRest  hits

	now  func() time.Time
	seed maphash.Seed // of identifiers
}

// New returns a Book that has counted nothing. outcomes are the names of what
// Entry.Outcome says, at most 16. now is the clock. If it is nil, nobody asks for the hot
// keys, and none are kept.
func New(outcomes []string, now func() time.Time) *Book {
	b := &Book{outcomes: outcomes, now: now, seed: maphash.MakeSeed()}
	b.namespaces.room, b.envoy.room = maxNamespaces, maxEnvoyLimits
	b.others = b.newNamespace(Others)
	return b
}

// A namespace is the account of one namespace.
type namespace struct {
	name     string
	outcomes [maxOutcomes]atomic.Uint64
	inline   checks // of limits that requests brought along
	limits   table[limitName, checks]
	hot      hotKeys
}

// A limitName is a limit of the configuration, within its namespace.
type limitName struct{ policy, limit string }

// checks count what a limit said of requests: [0] that it denied them, and [1]
// that it allowed them.
type checks [2]atomic.Uint64

// hits count what was asked of a limit of Envoy's configuration: within, over,
// and over in shadow mode; and of those within, how many were near it.
type hits [4]atomic.Uint64

func (b *Book) newNamespace(name string) *namespace {
	n := &namespace{name: name}
	if b.now != nil {
		n.hot.began = b.now()
	}
	n.limits.room = maxNamespaceLimits
	return n
}

// Configured gives namespaces accounts of their own, however many callers have
// chosen.
func (b *Book) Configured(names []string) {
	b.namespaces.keep(fitting(names), maxConfigured, b.newNamespace)
}

// ConfiguredLimits gives limits of Envoy's configuration counters of their own,
// however many others clients have chosen by the values that they send.
func (b *Book) ConfiguredLimits(names []string) {
	b.envoy.keep(fitting(names), maxConfigured, func(string) *hits { return new(hits) })
}

// fitting returns those of names that fit.
func fitting(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !fits(name) })
}

// namespace returns the account of a namespace, or that of the others.
func (b *Book) namespace(name string) *namespace {
	if n := b.namespaces.all()[name]; n != nil {
		return n
	}
	if !fits(name) {
		return b.others
	}
	n := b.namespaces.find(name, func() (string, *namespace) {
		name := strings.Clone(name) // it may be part of a large message
		return name, b.newNamespace(name)
	})
	if n == nil {
		return b.others
	}
	return n
}

// fits reports whether a name can be the value of a label that is its own.
func fits(name string) bool {
	return len(name) <= maxNameBytes && utf8.ValidString(name) && name != Others
}

// limit returns the counters of a limit of n's configuration; or, if n has too
// many, those of the limits that requests bring along.
func (b *Book) limit(n *namespace, policy, limit string) *checks {
	if n == b.others {
		return &n.inline
	}
	l := limitName{policy, limit}
	c := n.limits.find(l, func() (limitName, *checks) {
		l.policy = strings.Clone(l.policy) // it may be part of a large message
		return l, new(checks)
	})
	if c == nil {
		return &n.inline
	}
	return c
}

// Hits are those that one request asked of a limit of Envoy's configuration.
type Hits struct {
	N      uint64
	Over   uint64 // how many of N were over the limit
	Near   uint64 // how many of the others were near it
	Shadow bool   // whether the limit is in shadow mode
}

// Hit counts n hits of a limit of Envoy's configuration.
func (b *Book) Hit(limit string, n Hits) {
	var h *hits
	if fits(limit) {
		h = b.envoy.find(limit, func() (string, *hits) { return strings.Clone(limit), new(hits) })
	}
	if h == nil {
		h = &b.envoyRest
	}
	over := &h[1]
	if n.Shadow {
		over = &h[2]
	}
	addSome(&h[0], n.N-n.Over)
	addSome(over, n.Over)
	addSome(&h[3], n.Near)
}

// addSome adds n to count, which costs something even if n is 0.
func addSome(count *atomic.Uint64, n uint64) {
	if n > 0 {
		count.Add(n)
	}
}

// A LimitHits is what was asked of one limit of Envoy's configuration since the start.
type LimitHits struct {
	Limit                      string
	Within, Over, Shadow, Near uint64 // Near are of Within
}

// Limits calls f for each limit of Envoy's configuration that was asked anything. The
// last is of those that share their counters.
func (b *Book) Limits(f func(LimitHits)) {
	show := func(limit string, h *hits) {
		if n := (LimitHits{limit, h[0].Load(), h[1].Load(), h[2].Load(), h[3].Load()}); n.Within+n.Over+n.Shadow > 0 {
			f(n)
		}
	}
	for limit, h := range b.envoy.all() {
		show(limit, h)
	}
	show(Others, &b.envoyRest)
}

// A Tally counts what one batch asks, and adds it to a Book at once. The
// requests of a batch are mostly of one namespace, so that its account is found
// and written to once for all of them. The zero Tally has counted nothing.
type Tally struct {
	name      string
	namespace *namespace // the account that the following are for; nil: of none yet

	outcomes [maxOutcomes]uint32
	checks   [len(strategy.All) + 1][2]uint32
	inline   [2]uint32
}

// Add counts e.
func (t *Tally) Add(b *Book, e *Entry) {
	if t.namespace == nil || t.name != e.Namespace {
		t.Flush(b)
		t.name, t.namespace = e.Namespace, b.namespace(e.Namespace)
	}
	t.outcomes[e.Outcome]++
	for i := range e.Statuses {
		l, said := &e.Limits[i], 0
		if e.Statuses[i].Allowed {
			said = 1
		}
		t.checks[l.Strategy][said]++
		if e.Policy == "" {
			t.inline[said]++
		} else {
			b.limit(t.namespace, e.Policy, l.Name)[said].Add(1)
		}
	}
	if e.Identifier != "" && b.now != nil {
		b.record(t.namespace, e)
	}
}

// Flush adds what t has counted to b, after which t has counted nothing.
func (t *Tally) Flush(b *Book) {
	if t.namespace == nil {
		return
	}
	for i, n := range t.outcomes {
		add(&t.namespace.outcomes[i], n)
	}
	for i := range t.checks {
		add(&b.checks[i][0], t.checks[i][0])
		add(&b.checks[i][1], t.checks[i][1])
	}
	add(&t.namespace.inline[0], t.inline[0])
	add(&t.namespace.inline[1], t.inline[1])
	*t = Tally{}
}

// add adds n to counter. It writes no 0: the memory is shared by all processors.
func add(counter *atomic.Uint64, n uint32) {
	if n > 0 {
		counter.Add(uint64(n))
	}
}

// HotKeys returns up to limit keys of each list of each namespace, by name.
func (b *Book) HotKeys(limit int) []HotKeys {
	all := b.namespaces.all()
	top := make([]HotKeys, 0, len(all)+1)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		top = append(top, all[name].hot.top(name, limit, b.now()))
	}
	if others := b.others.hot.top(Others, limit, b.now()); len(others.Asked) > 0 {
		top = append(top, others)
	}
	return top
}

// record notes who asked, in the account n.
func (b *Book) record(n *namespace, e *Entry) {
	weight := 1.0
	if n.hot.sampled.Load() {
		if rand.Uint32()%sampleEvery != 0 {
			return
		}
		weight = sampleEvery
	}
	who := asker{maphash.String(b.seed, e.Identifier), e.Namespace, e.Identifier}
	if n == b.others {
		who.hash ^= maphash.String(b.seed, e.Namespace) * 31
	}
	n.hot.add(who, e, weight, b.now())
}
