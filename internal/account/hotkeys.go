package account

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// The hot keys of a namespace are two sketches by the Space-Saving algorithm
// (Metwally, Agrawal, El Abbadi: Efficient computation of frequent and top-k
// elements in data streams, 2005), of counts that lose half their weight in
// halfLife.

const (
	// sketchKeys is how many identifiers a sketch holds. An identifier that
	// makes more than one in so many of a namespace's requests is among them.
	sketchKeys = 64
	// halfLife is short enough that a list shows who is hot now, and long
	// enough that it can be read.
	halfLife = 10 * time.Second

	// A namespace that is asked less than sampleAbove times a second has each
	// request counted, others one in sampleEvery, at random.
	sampleAbove = 1000
	sampleEvery = 16

	// quiet is how long nothing is denied to an identifier, or by a limit, until what
	// comes next is news.
	quiet = time.Minute

	// maxHalfLives is after how many half-lives scores are scaled back: far
	// before they overflow.
	maxHalfLives = 200
)

// HotKeys are the identifiers of a namespace that ask most at present.
type HotKeys struct {
	Namespace string `json:"namespace"`
	Asked     []Key  `json:"asked"`  // those that ask most, the first most
	Denied    []Key  `json:"denied"` // those that are denied most, the first most
}

// A Key is an identifier and how hot it is.
type Key struct {
	Namespace  string  `json:"namespace"`
	Identifier string  `json:"identifier"`
	PerSecond  float64 `json:"per_second"` // at most: by up to Error too high
	Error      float64 `json:"error"`

	// Of a key that is denied: the limit that denied it last, and since when it is denied
	// without a minute's break. Policy is "" if the request brought the limit along, and
	// Limit if the failure policy denied it.
	Policy string     `json:"policy,omitempty"`
	Limit  string     `json:"limit,omitempty"`
	Since  *time.Time `json:"since,omitempty"`
}

// hotKeys are those of a namespace. Scores grow with the time at which they are
// added, instead of shrinking with the time since: the order is the same, and
// nothing has to be done to all of them.
type hotKeys struct {
	sampled atomic.Bool

	mu     sync.Mutex // protects the following
	since  time.Time  // when a request had the score 1
	total  float64    // the score of all requests
	asked  sketch
	denied sketch
	// denials are what is known of the entries of denied, in their places. nil: nobody
	// was denied yet, as in most namespaces.
	denials *[sketchKeys]denial
}

// A denial is how an identifier is denied.
type denial struct {
	since, last time.Time // since when, and when last
	policy      string
	limit       strategy.Limit
}

// An asker is an identifier that has asked.
type asker struct {
	hash                  uint64 // of the names
	namespace, identifier string
}

func (h *hotKeys) add(a asker, e *Entry, weight float64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	growth := h.growth(now)
	weight *= growth
	h.total += weight
	h.sampled.Store(perSecond(h.total/growth) > sampleAbove)
	h.asked.add(a, weight)
	if !e.Denied {
		return
	}
	place, isNew := h.denied.add(a, weight)
	if h.denials == nil {
		h.denials = new([sketchKeys]denial)
	}
	h.denials[place].note(e, isNew, now)
}

// note notes that e was denied.
func (d *denial) note(e *Entry, isNew bool, now time.Time) {
	if isNew || now.Sub(d.last) > quiet {
		d.since = now
	}
	d.last = now
	by := e.denier()
	if by == nil {
		by = &strategy.Limit{}
	}
	if isNew || e.Policy != d.policy || !by.SameCounter(&d.limit) {
		// The names may be parts of a large message.
		d.policy, d.limit = strings.Clone(e.Policy), *by
		d.limit.Name = strings.Clone(by.Name)
	}
}

// growth returns the score of a request at now. mu is held.
func (h *hotKeys) growth(now time.Time) float64 {
	halfLives := now.Sub(h.since).Seconds() / halfLife.Seconds()
	if halfLives > maxHalfLives {
		scale := math.Exp2(-halfLives)
		h.total *= scale
		h.asked.scale(scale)
		h.denied.scale(scale)
		h.since, halfLives = now, 0
	}
	return math.Exp2(halfLives)
}

func (h *hotKeys) top(name string, limit int, now time.Time) HotKeys {
	h.mu.Lock()
	defer h.mu.Unlock()
	growth := h.growth(now)
	return HotKeys{Namespace: name, Asked: h.asked.top(limit, growth, nil), Denied: h.denied.top(limit, growth, h.denials)}
}

// describe says in k how it is denied.
func (d *denial) describe(k *Key) {
	k.Policy, k.Since = d.policy, new(d.since)
	if d.limit.Strategy != 0 {
		k.Limit = d.limit.Counter()
	}
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
// names, which may be parts of a large message. It returns the place of the identifier,
// and whether that is new.
func (s *sketch) add(a asker, score float64) (place int, isNew bool) {
	for i, h := range s.hashes[:s.used] {
		if h == a.hash {
			s.entries[i].score += score
			return i, false
		}
	}
	a.namespace, a.identifier = strings.Clone(a.namespace), strings.Clone(a.identifier)
	if s.used < sketchKeys {
		s.hashes[s.used] = a.hash
		s.entries[s.used] = entry{namespace: a.namespace, identifier: a.identifier, score: score}
		s.used++
		return s.used - 1, true
	}
	least := 0
	for i := range s.entries {
		if s.entries[i].score < s.entries[least].score {
			least = i
		}
	}
	was := s.entries[least].score
	s.hashes[least] = a.hash
	s.entries[least] = entry{namespace: a.namespace, identifier: a.identifier, score: was + score, error: was}
	return least, true
}

func (s *sketch) scale(by float64) {
	for i := range s.entries[:s.used] {
		s.entries[i].score *= by
		s.entries[i].error *= by
	}
}

// top returns up to limit keys, the hottest first; none that are as good as
// gone: asked once, ten half-lives ago. denials may be nil.
func (s *sketch) top(limit int, growth float64, denials *[sketchKeys]denial) []Key {
	keys := make([]Key, 0, s.used)
	for i := range s.entries[:s.used] {
		if e := &s.entries[i]; e.score/growth >= 1.0/1024 {
			k := Key{Namespace: e.namespace, Identifier: e.identifier, PerSecond: perSecond(e.score / growth), Error: perSecond(e.error / growth)}
			if denials != nil {
				denials[i].describe(&k)
			}
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Identifier, b.Identifier))
	})
	return keys[:min(limit, len(keys))]
}
