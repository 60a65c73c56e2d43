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
//
// Such a count needs a few half-lives to become that of a steady rate. So a rate is
// taken of the requests since an instant, and of how much these would count at one a
// second. The instant is when the sketch began to count for the identifier, or when it
// last saw it ask much more often than before.

const (
	// sketchKeys is how many identifiers a sketch holds. An identifier that
	// makes more than one in so many of a namespace's requests is among them.
	sketchKeys = 64
	// halfLife is short enough that a list shows who is hot now, and long
	// enough that it can be read.
	halfLife = 10 * time.Second
	// minAge is the shortest time that a rate is taken of: one request makes no flood.
	minAge = time.Second
	// halfPhase is half of what is looked at to see an identifier ask more often.
	halfPhase = 500 * time.Millisecond
	// fewAsks more than before, and fewer, are no flood.
	fewAsks = 10

	// A namespace that is asked less than sampleAbove times a second has each
	// request counted, others one in sampleEvery, at random.
	sampleAbove = 1000
	sampleEvery = 16

	// quiet is how long nothing is denied to an identifier, or by a limit, until what
	// comes next is news.
	quiet = time.Minute

	// soon is how long a growth is the base of the next ones. It is so short that what the
	// series leaves out is less than one in ten thousand million.
	soon = 10 * time.Millisecond
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

	mu      sync.Mutex    // protects the following
	began   time.Time     // what durations are counted from
	since   time.Duration // when a request had the score 1
	grownAt time.Duration // when a request had the score grown: a short while ago
	grown   float64
	total   float64 // the score of all requests
	asked   sketch
	denied  sketch
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

// An ask is some requests of one instant.
type ask struct {
	weight float64 // how many they are
	growth float64 // what one adds to a score now
	at     time.Duration
}

// add counts weight decisions such as e, which a asked for.
func (h *hotKeys) add(a asker, e *Entry, weight float64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := now.Sub(h.began)
	q := ask{weight, h.growth(at), at}
	h.total += weight * q.growth
	// It is written only if it changes, as all processors read it.
	if sampled := h.total*math.Ln2 > sampleAbove*halfLife.Seconds()*q.growth; sampled != h.sampled.Load() {
		h.sampled.Store(sampled)
	}
	h.asked.add(a, q)
	if !e.Denied {
		return
	}
	place, isNew := h.denied.add(a, q)
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

// growth returns the score of a request at an instant. mu is held.
func (h *hotKeys) growth(at time.Duration) float64 {
	if since := at - h.grownAt; since < 0 || since > soon || h.grown == 0 {
		h.grownAt, h.grown = at, h.growthOf(at)
		return h.grown
	}
	// So soon after, three terms of the series of the exponential function are as good as that.
	x := float64(at-h.grownAt) * (math.Ln2 / float64(halfLife))
	return h.grown * (1 + x + x*x/2)
}

// growthOf computes growth.
func (h *hotKeys) growthOf(at time.Duration) float64 {
	halfLives := (at - h.since).Seconds() / halfLife.Seconds()
	if halfLives > maxHalfLives {
		scale := math.Exp2(-halfLives)
		h.total *= scale
		h.asked.scale(scale)
		h.denied.scale(scale)
		h.since, halfLives = at, 0
	}
	return math.Exp2(halfLives)
}

func (h *hotKeys) top(name string, limit int, now time.Time) HotKeys {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := now.Sub(h.began)
	q := ask{growth: h.growth(at), at: at}
	return HotKeys{Namespace: name, Asked: h.asked.top(limit, q, nil), Denied: h.denied.top(limit, q, h.denials)}
}

// describe says in k how it is denied.
func (d *denial) describe(k *Key) {
	k.Policy, k.Since = d.policy, new(d.since)
	if d.limit.Strategy != 0 {
		k.Limit = d.limit.Counter()
	}
}

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

	since time.Duration // the rate is taken of what was asked since then
	base  float64       // of score, what is older than that

	phase  int32      // the half phase of the last request, by its number
	recent [2]float32 // how much was asked in it, and in the one before it
	usual  float64    // up to how much that was found to be no more often than before, in this half phase
}

// add adds to the score of an identifier. If there is no room for it, it takes that of the
// one with the least score, and its score. It keeps copies of the names, which may be
// parts of a large message. It returns the place of the identifier, and whether that is new.
func (s *sketch) add(a asker, q ask) (place int, isNew bool) {
	for i, h := range s.hashes[:s.used] {
		if h == a.hash {
			s.entries[i].add(q)
			return i, false
		}
	}
	place = s.used
	was := 0.0
	if s.used < sketchKeys {
		s.used++
	} else {
		place, was = 0, s.entries[0].score
		for i := range s.entries {
			if score := s.entries[i].score; score < was {
				place, was = i, score
			}
		}
	}
	s.hashes[place] = a.hash
	e := &s.entries[place]
	*e = entry{
		namespace: strings.Clone(a.namespace), identifier: strings.Clone(a.identifier),
		score: was, error: was, base: was, since: q.at, phase: int32(q.at / halfPhase), usual: fewAsks,
	}
	e.add(q)
	return place, true
}

// add counts q. If e asks much more often than before, its rate is that from now on.
func (e *entry) add(q ask) {
	e.score += q.weight * q.growth
	switch phase := int32(q.at / halfPhase); phase - e.phase {
	case 0:
	case 1:
		e.recent, e.phase, e.usual = [2]float32{0, e.recent[0]}, phase, fewAsks
	default:
		e.recent, e.phase, e.usual = [2]float32{}, phase, fewAsks
	}
	e.recent[0] += float32(q.weight)
	if n := float64(e.recent[0] + e.recent[1]); n > e.usual {
		e.compare(n, q)
	}
}

// compare sees whether n, which is in recent, is much more often than before.
func (e *entry) compare(n float64, q ask) {
	lately := halfPhase + q.at%halfPhase // what recent is of
	if lately > q.at-e.since || n/q.weight <= fewAsks {
		return
	}
	before := e.perSecond(q) * lately.Seconds()
	// Chance alone makes it less than four standard deviations more.
	if (n-before)/q.weight > fewAsks+4*math.Sqrt(before/q.weight) {
		e.since, e.base, e.error = q.at-lately, e.score-n*q.growth, 0
		return
	}
	// Until the half phase ends, before only grows: it is of ever more time. So up to this
	// nobody needs to compare again, which costs much more than to count. It is true of
	// each weight, of which the least is 1.
	e.usual = before + fewAsks + 4*math.Sqrt(before)
}

// perSecond returns how often e asks.
func (e *entry) perSecond(q ask) float64 {
	age := max(q.at-e.since, minAge).Seconds() / halfLife.Seconds()
	// One a second since then would have this score.
	one := halfLife.Seconds() / math.Ln2 * (1 - math.Exp2(-age))
	return max(0, e.score-e.base) / q.growth / one
}

func (s *sketch) scale(by float64) {
	for i := range s.entries[:s.used] {
		e := &s.entries[i]
		e.score *= by
		e.error *= by
		e.base *= by
	}
}

// top returns up to limit keys, the hottest first; none that are as good as
// gone: asked once, ten half-lives ago. denials may be nil.
func (s *sketch) top(limit int, q ask, denials *[sketchKeys]denial) []Key {
	keys := make([]Key, 0, s.used)
	for i := range s.entries[:s.used] {
		e := &s.entries[i]
		if e.score/q.growth < 1.0/1024 {
			continue
		}
		wrong := e.error / q.growth * math.Ln2 / halfLife.Seconds()
		k := Key{Namespace: e.namespace, Identifier: e.identifier, PerSecond: e.perSecond(q) + wrong, Error: wrong}
		if denials != nil {
			denials[i].describe(&k)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Identifier, b.Identifier))
	})
	return keys[:min(limit, len(keys))]
}
