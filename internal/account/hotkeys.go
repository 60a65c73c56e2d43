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

	// What denied it last, of those that are denied. Policy is empty if the request brought
	// the limit along, and Limit if the store failed and the failure policy denied.
	Policy string `json:"policy,omitempty"`
	Limit  string `json:"limit,omitempty"`
}

// hotKeys are those of a namespace. Scores grow with the time at which they are
// added, instead of shrinking with the time since: the order is the same, and
// nothing has to be done to all of them.
type hotKeys struct {
	sampled atomic.Bool

	mu     sync.Mutex // protects the following
	began  time.Time  // what durations are counted from
	since  time.Time  // when a request had the score 1
	total  float64    // the score of all requests
	asked  sketch
	denied sketch
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
	q := ask{weight, h.growth(now), now.Sub(h.began)}
	h.total += weight * q.growth
	h.sampled.Store(h.total/q.growth*math.Ln2/halfLife.Seconds() > sampleAbove)
	h.asked.add(a, q)
	if e.Denied {
		h.denied.add(a, q).deniedBy(e)
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
	q := ask{growth: h.growth(now), at: now.Sub(h.began)}
	return HotKeys{Namespace: name, Asked: h.asked.top(limit, q), Denied: h.denied.top(limit, q)}
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
	policy, limit         string // what denied it last

	score float64
	error float64 // of score, what may have been another's

	since time.Duration // the rate is taken of what was asked since then
	base  float64       // of score, what is older than that

	phase  int32      // the half phase of the last request, by its number
	recent [2]float32 // how much was asked in it, and in the one before it
}

// add adds to the score of an identifier, and returns its entry. If there is no room
// for it, it takes that of the one with the least score, and its score. It keeps copies
// of the names, which may be parts of a large message.
func (s *sketch) add(a asker, q ask) *entry {
	for i, h := range s.hashes[:s.used] {
		if h == a.hash {
			s.entries[i].add(q)
			return &s.entries[i]
		}
	}
	place, was := s.used, 0.0
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
		score: was, error: was, base: was, since: q.at, phase: int32(q.at / halfPhase),
	}
	e.add(q)
	return e
}

// add counts q. If e asks much more often than before, its rate is that from now on.
func (e *entry) add(q ask) {
	e.score += q.weight * q.growth
	switch phase := int32(q.at / halfPhase); phase - e.phase {
	case 0:
	case 1:
		e.recent, e.phase = [2]float32{0, e.recent[0]}, phase
	default:
		e.recent, e.phase = [2]float32{}, phase
	}
	e.recent[0] += float32(q.weight)

	lately := halfPhase + q.at%halfPhase // what recent is of
	n := float64(e.recent[0] + e.recent[1])
	if lately > q.at-e.since || n/q.weight <= fewAsks {
		return
	}
	before := e.perSecond(q) * lately.Seconds()
	// Chance alone makes it less than four standard deviations more.
	if (n-before)/q.weight > fewAsks+4*math.Sqrt(before/q.weight) {
		e.since, e.base, e.error = q.at-lately, e.score-n*q.growth, 0
	}
}

// deniedBy notes which limit denied e: of several, the one that does so for longest.
func (e *entry) deniedBy(of *Entry) {
	var by *strategy.Limit
	longest := time.Duration(-1)
	for i := range of.Statuses {
		st, l := &of.Statuses[i], &of.Limits[i]
		if st.Allowed || l.Shadow {
			continue
		}
		if wait := st.RetryAfter; wait == strategy.Never || wait > longest {
			by, longest = l, wait
			if wait == strategy.Never {
				break
			}
		}
	}
	if e.policy != of.Policy {
		e.policy = strings.Clone(of.Policy) // it may be part of a large message
	}
	var room [strategy.MaxNameBytes]byte
	limit := room[:0]
	if by != nil {
		limit = by.AppendCounter(limit)
	}
	if e.limit != string(limit) {
		e.limit = string(limit)
	}
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
// gone: asked once, ten half-lives ago.
func (s *sketch) top(limit int, q ask) []Key {
	keys := make([]Key, 0, s.used)
	for i := range s.entries[:s.used] {
		e := &s.entries[i]
		if e.score/q.growth < 1.0/1024 {
			continue
		}
		wrong := e.error / q.growth * math.Ln2 / halfLife.Seconds()
		keys = append(keys, Key{
			Namespace: e.namespace, Identifier: e.identifier, Policy: e.policy, Limit: e.limit,
			PerSecond: e.perSecond(q) + wrong, Error: wrong,
		})
	}
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(b.PerSecond, a.PerSecond), cmp.Compare(a.Identifier, b.Identifier))
	})
	return keys[:min(limit, len(keys))]
}
