package account

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

const (
	// StepTime is how much time a step of a History is.
	StepTime = 5 * time.Second
	// Steps is how many steps a History remembers: 15 minutes.
	Steps = 180
	// maxTracks is how many series have their steps remembered, at 1.4 KiB each.
	// Those that come later have theirs when others have counted nothing for 15 minutes.
	maxTracks = 1000
)

// A SeriesName names something that a Book counts: a namespace, or a limit.
type SeriesName struct {
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace"` // "" of all, and of Envoy's limits
	Policy    string `json:"policy,omitempty"`
	Limit     string `json:"limit,omitempty"` // its name, which it may have none of; of Envoy's limits that in metrics
}

// A Kind says what a series is of.
type Kind string

// The kinds.
const (
	OfAll       Kind = "all"       // decisions of all namespaces
	OfNamespace Kind = "namespace" // decisions
	OfLimit     Kind = "limit"     // what a limit of a policy said
	OfInline    Kind = "inline"    // what limits said that requests brought along
	OfEnvoy     Kind = "envoy"     // hits of a limit of Envoy's configuration
	OfFailure   Kind = "failure"   // decisions of a namespace that the failure policy made
)

// A Series is how much was asked, and denied, over time.
type Series struct {
	SeriesName
	Asked  float64 `json:"asked_per_second"` // at present
	Denied float64 `json:"denied_per_second"`
	// DeniedSince is when the latest denials began that had no break of a minute. It is up
	// to StepTime too early. DeniedLast is when they were counted last. Denying says that
	// they go on: that this is less than a minute ago.
	DeniedSince *time.Time `json:"denied_since,omitempty"`
	DeniedLast  *time.Time `json:"denied_last,omitempty"`
	Denying     bool       `json:"denying"`

	// AskedSteps and DeniedSteps are the rates of the steps, the oldest first. nil: there
	// was no room to remember them.
	AskedSteps  []float32 `json:"asked_steps,omitempty"`
	DeniedSteps []float32 `json:"denied_steps,omitempty"`
}

// A History remembers how much a Book has counted in the last 15 minutes. Somebody calls
// Step every StepTime. It is safe for concurrent use.
type History struct {
	book *Book
	is   Outcomes

	mu     sync.Mutex // protects the following
	tracks map[SeriesName]*track
	kept   int       // how many of tracks have steps
	step   int64     // how many were taken
	at     time.Time // of the last
	before time.Time // of the one before; zero: there was none
}

// A track is what is remembered of one series. There are as many as the Book, which bounds
// them, has counters.
type track struct {
	counted [2]uint64 // asked and denied, up to the last step
	latest  [2]uint64 // of that, in the last step
	steps   *steps    // nil: there is no room, or nothing was counted
	moved   int64     // the last step that counted something

	since, last time.Time // of the denials that are going on, or were
}

type steps [Steps][2]float32

// Outcomes say what the outcomes of a Book mean.
type Outcomes struct {
	Denial  func(outcome int) bool // nothing was allowed
	Failure func(outcome int) bool // the failure policy decided
}

// NewHistory returns a History of b that begins now.
func NewHistory(b *Book, is Outcomes, now time.Time) *History {
	return &History{book: b, is: is, tracks: map[SeriesName]*track{}, at: now}
}

// Step ends a step.
func (h *History) Step(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	seconds := now.Sub(h.at).Seconds()
	if seconds <= 0 {
		return // the clock was put back
	}
	h.each(func(name SeriesName, counted [2]uint64) {
		t := h.tracks[name]
		if t == nil {
			if counted == [2]uint64{} && name.Kind != OfAll {
				return
			}
			t = new(track)
			h.tracks[name] = t
		}
		if name.Kind == OfAll { // its steps are remembered even if nobody asks
			t.moved = h.step
		}
		h.advance(t, counted, seconds, now)
	})
	h.step++
	h.before, h.at = h.at, now
}

// advance counts a step of a series. mu is held.
func (h *History) advance(t *track, counted [2]uint64, seconds float64, now time.Time) {
	t.latest = [2]uint64{counted[0] - t.counted[0], counted[1] - t.counted[1]}
	t.counted = counted
	if t.latest[1] > 0 {
		t.denied(h.at, now)
	}
	if t.latest[0] > 0 {
		t.moved = h.step
	}
	if t.steps == nil && t.moved == h.step && h.kept < maxTracks {
		t.steps = new(steps)
		h.kept++
	}
	if t.steps == nil {
		return
	}
	if h.step-t.moved >= Steps {
		t.steps = nil
		h.kept--
		return
	}
	t.steps[h.step%Steps] = [2]float32{float32(float64(t.latest[0]) / seconds), float32(float64(t.latest[1]) / seconds)}
}

// denied notes denials between two times.
func (t *track) denied(from, to time.Time) {
	if from.Sub(t.last) > quiet {
		t.since = from
	}
	t.last = to
}

// Series returns all series in which something was counted that is remembered. The first
// is of all namespaces, and those that are denied most come before others.
func (h *History) Series(now time.Time) []Series {
	h.mu.Lock()
	defer h.mu.Unlock()
	// Rates at present are of the last step and what has gone by of this one.
	from := h.before
	if from.IsZero() {
		from = h.at
	}
	seconds := max(now.Sub(from).Seconds(), 1)
	all := []Series{}
	h.each(func(name SeriesName, counted [2]uint64) {
		t := h.tracks[name]
		if t == nil {
			t = new(track)
		}
		asked, denied := counted[0]-t.counted[0], counted[1]-t.counted[1]
		if t.steps == nil && asked+t.latest[0] == 0 && name.Kind != OfAll {
			return
		}
		s := Series{SeriesName: name, Asked: float64(asked+t.latest[0]) / seconds, Denied: float64(denied+t.latest[1]) / seconds}
		if denied > 0 {
			shown := *t // which is not to be changed: the step will do that
			t = &shown
			t.denied(h.at, now)
		}
		if !t.last.IsZero() {
			s.DeniedSince, s.DeniedLast, s.Denying = new(t.since), new(t.last), now.Sub(t.last) <= quiet
		}
		s.AskedSteps, s.DeniedSteps = h.stepsOf(t)
		all = append(all, s)
	})
	slices.SortStableFunc(all, func(a, b Series) int {
		return cmp.Or(boolean(b.Kind == OfAll)-boolean(a.Kind == OfAll), cmp.Compare(b.Denied, a.Denied), cmp.Compare(b.Asked, a.Asked),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Limit, b.Limit), cmp.Compare(a.Kind, b.Kind))
	})
	return all
}

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

// stepsOf returns the steps of a series, the oldest first. mu is held.
func (h *History) stepsOf(t *track) (asked, denied []float32) {
	if t.steps == nil {
		return nil, nil
	}
	first := max(0, h.step-Steps)
	asked, denied = make([]float32, 0, h.step-first), make([]float32, 0, h.step-first)
	for i := first; i < h.step; i++ {
		at := t.steps[i%Steps]
		asked, denied = append(asked, at[0]), append(denied, at[1])
	}
	return asked, denied
}

// each calls f for every series, with how much was asked, and denied, since the start.
func (h *History) each(f func(name SeriesName, counted [2]uint64)) {
	var total [2]uint64
	namespace := func(n *namespace) {
		var counted, failed [2]uint64
		for i := range h.book.outcomes {
			many := [2]uint64{n.outcomes[i].Load()}
			if h.is.Denial(i) {
				many[1] = many[0]
			}
			counted[0], counted[1] = counted[0]+many[0], counted[1]+many[1]
			if h.is.Failure(i) {
				failed[0], failed[1] = failed[0]+many[0], failed[1]+many[1]
			}
		}
		total[0], total[1] = total[0]+counted[0], total[1]+counted[1]
		f(SeriesName{Kind: OfNamespace, Namespace: n.name}, counted)
		f(SeriesName{Kind: OfFailure, Namespace: n.name}, failed)
		f(SeriesName{Kind: OfInline, Namespace: n.name}, n.inline.counted())
		for l, of := range n.limits.all() {
			f(SeriesName{Kind: OfLimit, Namespace: n.name, Policy: l.policy, Limit: l.limit}, of.counted())
		}
	}
	for _, n := range h.book.namespaces.all() {
		namespace(n)
	}
	namespace(h.book.others)
	h.book.Limits(func(l LimitHits) {
		f(SeriesName{Kind: OfEnvoy, Limit: l.Limit}, [2]uint64{l.Within + l.Over + l.Shadow, l.Over})
	})
	f(SeriesName{Kind: OfAll}, total)
}

// counted returns how much was asked, and denied.
func (c *checks) counted() [2]uint64 {
	denied := c[0].Load() // first, so that it is not more than was asked
	return [2]uint64{denied + c[1].Load(), denied}
}
