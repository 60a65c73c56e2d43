// Package hotkeys tells which identifiers ask most at present, and which are
// denied most, in memory that is bounded whatever is asked.
//
// Each namespace has two sketches by the Space-Saving algorithm (Metwally,
// Agrawal, El Abbadi: Efficient computation of frequent and top-k elements in
// data streams, 2005), of counts that lose half their weight in halfLife.
package hotkeys

import (
	"cmp"
	"hash/maphash"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxNamespaces that callers chose have sketches of their own; those that
	// come later share one.
	maxNamespaces = 100
	// sketchKeys is how many identifiers a sketch holds. Whoever makes more
	// than one in so many of a namespace's requests is among them.
	sketchKeys = 64
	// halfLife is short enough that a list shows who is hot now, and long
	// enough that it can be read.
	halfLife = 10 * time.Second

	// A namespace that is asked less than sampleAbove times a second has each
	// request counted, others one in sampleEvery, at random.
	sampleAbove = 1000
	sampleEvery = 16

	// maxHalfLives is after how many half-lives scores are scaled back: far
	// before they overflow.
	maxHalfLives = 200
)

// OtherNamespaces is the name under which namespaces are shown that have no
// sketch of their own.
const OtherNamespaces = "other"

// A Tracker keeps the hot keys of all namespaces. New makes it. It is safe for
// concurrent use.
type Tracker struct {
	now  func() time.Time
	seed maphash.Seed

	others     *namespace
	namespaces atomic.Pointer[map[string]*namespace] // never written to, but replaced
	chosen     atomic.Int32                          // of namespaces, those that callers chose

	mu sync.Mutex // held to replace namespaces
}

// A Namespace is what a Tracker tells of a namespace.
type Namespace struct {
	Name   string `json:"namespace"`
	Asked  []Key  `json:"asked"`  // who asks most, first
	Denied []Key  `json:"denied"` // who is denied most, first
}

// A Key is an identifier and how hot it is.
type Key struct {
	Namespace  string  `json:"namespace"`
	Identifier string  `json:"identifier"`
	PerSecond  float64 `json:"per_second"` // at most: by up to Error too high
	Error      float64 `json:"error"`
}

// New returns a Tracker that has seen nothing. now is the clock.
func New(now func() time.Time) *Tracker {
	t := &Tracker{now: now, seed: maphash.MakeSeed()}
	t.others = newNamespace(now())
	t.namespaces.Store(&map[string]*namespace{})
	return t
}

// Record notes a decision in the namespace called name.
func (t *Tracker) Record(name, identifier string, denied bool) { t.In(name).Record(identifier, denied) }

// A Recorder notes decisions in one namespace. Tracker.In makes it.
type Recorder struct {
	*namespace
	t    *Tracker
	name string
}

// In returns the Recorder of the namespace called name: for many decisions.
func (t *Tracker) In(name string) Recorder { return Recorder{t.namespace(name), t, name} }

// Record notes a decision.
func (r Recorder) Record(identifier string, denied bool) {
	t, n, name := r.t, r.namespace, r.name
	weight := 1.0
	if n.sampled.Load() {
		if rand.Uint32()%sampleEvery != 0 {
			return
		}
		weight = sampleEvery
	}
	hash := maphash.String(t.seed, identifier)
	if n == t.others {
		hash ^= maphash.String(t.seed, name) * 31
	}
	now := t.now()

	n.mu.Lock()
	defer n.mu.Unlock()
	growth := n.growth(now)
	weight *= growth
	n.total += weight
	n.sampled.Store(perSecond(n.total/growth) > sampleAbove)
	n.asked.add(hash, name, identifier, weight)
	if denied {
		n.denied.add(hash, name, identifier, weight)
	}
}

// Top returns up to limit keys of each list of each namespace, by name.
func (t *Tracker) Top(limit int) []Namespace {
	all := maps.Clone(*t.namespaces.Load())
	top := make([]Namespace, 0, len(all)+1)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		top = append(top, all[name].top(name, limit, t.now()))
	}
	if others := t.others.top(OtherNamespaces, limit, t.now()); len(others.Asked) > 0 {
		top = append(top, others)
	}
	return top
}

// Configured gives namespaces sketches of their own, however many have been
// chosen by callers.
func (t *Tracker) Configured(names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		if (*t.namespaces.Load())[name] == nil {
			t.addLocked(name)
		}
	}
}

func (t *Tracker) namespace(name string) *namespace {
	all := *t.namespaces.Load()
	if n := all[name]; n != nil {
		return n
	}
	if t.chosen.Load() >= maxNamespaces {
		return t.others
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	if n := (*t.namespaces.Load())[name]; n != nil {
		return n
	}
	if t.chosen.Load() >= maxNamespaces {
		return t.others
	}
	t.chosen.Add(1)
	return t.addLocked(name)
}

func (t *Tracker) addLocked(name string) *namespace {
	more := maps.Clone(*t.namespaces.Load())
	n := newNamespace(t.now())
	more[strings.Clone(name)] = n // it may be part of a large message
	t.namespaces.Store(&more)
	return n
}

// A namespace is what is known of a namespace. Scores in it grow with the time
// at which they are added, and not shrink with the time since: the same order,
// and nothing to be done to all of them.
type namespace struct {
	sampled atomic.Bool

	mu     sync.Mutex // protects the following
	since  time.Time  // when a request had the score 1
	total  float64    // the score of all requests
	asked  sketch
	denied sketch
}

func newNamespace(now time.Time) *namespace { return &namespace{since: now} }

// growth returns the score of a request at now. mu is held.
func (n *namespace) growth(now time.Time) float64 {
	halfLives := now.Sub(n.since).Seconds() / halfLife.Seconds()
	if halfLives > maxHalfLives {
		scale := math.Exp2(-halfLives)
		n.total *= scale
		n.asked.scale(scale)
		n.denied.scale(scale)
		n.since, halfLives = now, 0
	}
	return math.Exp2(halfLives)
}

func (n *namespace) top(name string, limit int, now time.Time) Namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	growth := n.growth(now)
	return Namespace{Name: name, Asked: n.asked.top(limit, growth), Denied: n.denied.top(limit, growth)}
}

// perSecond returns the rate at which requests are made that keep their score
// at what it is.
func perSecond(score float64) float64 { return score * math.Ln2 / halfLife.Seconds() }

// A sketch holds the identifiers with the greatest scores. The zero sketch is
// empty.
type sketch struct {
	hashes  [sketchKeys]uint64 // of entries; apart from them, to be searched fast
	entries [sketchKeys]entry
	used    int
}

type entry struct {
	namespace, identifier string
	score                 float64
	error                 float64 // of score, what may have been another's
}

// add adds to the score of an identifier. If there is no room for it, it takes
// that of the one with the least score, and its score. It keeps copies of the
// names, which may be parts of a large message.
func (s *sketch) add(hash uint64, namespace, identifier string, score float64) {
	for i, h := range s.hashes[:s.used] {
		if h == hash {
			s.entries[i].score += score
			return
		}
	}
	namespace, identifier = strings.Clone(namespace), strings.Clone(identifier)
	if s.used < sketchKeys {
		s.hashes[s.used] = hash
		s.entries[s.used] = entry{namespace: namespace, identifier: identifier, score: score}
		s.used++
		return
	}
	least := 0
	for i := range s.entries {
		if s.entries[i].score < s.entries[least].score {
			least = i
		}
	}
	was := s.entries[least].score
	s.hashes[least] = hash
	s.entries[least] = entry{namespace: namespace, identifier: identifier, score: was + score, error: was}
}

func (s *sketch) scale(by float64) {
	for i := range s.entries[:s.used] {
		s.entries[i].score *= by
		s.entries[i].error *= by
	}
}

// top returns up to limit keys, the hottest first; none that are as good as
// gone: asked once, ten half-lives ago.
func (s *sketch) top(limit int, growth float64) []Key {
	keys := make([]Key, 0, s.used)
	for i := range s.entries[:s.used] {
		if e := &s.entries[i]; e.score/growth >= 1.0/1024 {
			keys = append(keys, Key{Namespace: e.namespace, Identifier: e.identifier, PerSecond: perSecond(e.score / growth), Error: perSecond(e.error / growth)})
		}
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Identifier, b.Identifier))
	})
	return keys[:min(limit, len(keys))]
}
