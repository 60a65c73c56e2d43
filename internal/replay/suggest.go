package replay

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A goal says which limit is asked for: the smallest that denies no more than this.
type goal struct {
	share       float64 // of the requests; negative: any
	identifiers int     // that are ever denied; negative: any
}

// parseGoal reads p=0.1% or identifiers=10.
func parseGoal(text string) (*goal, error) {
	g := &goal{share: -1, identifiers: -1}
	key, value, _ := strings.Cut(text, "=")
	switch key {
	case "p":
		number, percent := strings.CutSuffix(value, "%")
		f, err := strconv.ParseFloat(number, 64)
		if percent {
			f /= 100
		}
		if err == nil && f >= 0 && f < 1 {
			g.share = f
			return g, nil
		}
	case "identifiers":
		if n, err := strconv.Atoi(value); err == nil && n >= 0 {
			g.identifiers = n
			return g, nil
		}
	}
	return nil, fmt.Errorf(" %s: write p=0.1%% for the share of requests that may be denied, or identifiers=10 for how many may ever be", quote.Cut(text))
}

// String returns what g allows, for a person.
func (g *goal) String() string {
	if g.share >= 0 {
		return fmt.Sprintf("at most %s %% of requests", strconv.FormatFloat(g.share*100, 'g', -1, 64))
	}
	return fmt.Sprintf("at most %d identifiers", g.identifiers)
}

// A candidate is a limit in search of its count: a row's strategy and period.
type candidate struct {
	row         *row
	low, high   int64 // the count is above low, and at most high
	limit       strategy.Limit
	found       bool // high has been seen to do
	asked       uint64
	denied      uint64
	identifiers int

	best suggestion
}

// A suggestion is the smallest limit that reaches the goal, and what it denies.
type suggestion struct {
	Rate              string  `json:"rate"`
	Strategy          string  `json:"strategy"`
	Burst             int64   `json:"burst,omitempty"`
	Denied            uint64  `json:"denied"`
	Share             float64 `json:"share"`
	IdentifiersDenied int     `json:"identifiers_denied"`
}

// with returns l with another count. A burst keeps its ratio to the count.
func with(l *strategy.Limit, count int64) strategy.Limit {
	m := *l
	if m.Rate.Months > 0 {
		m.Rate = rate.OfMonths(count, m.Rate.Months)
	} else {
		m.Rate.Count = count
	}
	switch {
	case count == 0:
		m.Capacity = 0
	case l.Capacity == 0 || l.Capacity == l.Rate.Count:
		m.Capacity = count
	case l.Strategy != strategy.GCRA:
		m.Capacity = min(strategy.MaxBurst, max(1, int64(float64(l.Capacity)*float64(count)/float64(l.Rate.Count)+0.5)))
	}
	return m
}

// meets reports whether what c denies is within g.
func (c *candidate) meets(g *goal) bool {
	return (g.share < 0 || float64(c.denied) <= g.share*float64(c.asked)) && (g.identifiers < 0 || c.identifiers <= g.identifiers)
}

// A trial is a pass over the trace with one limit for each row.
type trial struct {
	candidates map[*row]*candidate
	holds      []holder // of all counters, one after the other
	of         [][2]int // which of them a subject has: from, to
}

// holder is a counter of a candidate.
type holder struct {
	of     *candidate
	state  strategy.State
	log    *strategy.Log
	denied bool
}

// suggest finds for each row the smallest count that reaches the goal, by trying it with the
// events of the trace. Each limit is tried alone.
func suggest(ctx context.Context, g *goal, t *trace, who *subjects) (map[*row]*suggestion, error) {
	tr := &trial{candidates: map[*row]*candidate{}}
	peaks := map[*row]int64{}
	places := map[*counter][2]int{}
	for _, s := range who.all {
		c := s.sides[0].counter
		place, known := places[c]
		if c != nil && !known {
			place[0] = len(tr.holds)
			for i := range c.limits {
				tr.add(&c.limits[i], peaks)
			}
			place[1] = len(tr.holds)
			places[c] = place
		}
		tr.of = append(tr.of, place)
	}
	for w, c := range tr.candidates {
		c.high = max(1, peaks[w])
	}
	for {
		open := false
		for _, c := range tr.candidates {
			count := c.high
			if c.found {
				count = c.low + (c.high-c.low)/2
			}
			c.limit = with(c.row.limit, count)
			c.asked, c.denied, c.identifiers = 0, 0, 0
			open = open || !c.found || c.high-c.low > 1
		}
		if !open {
			break
		}
		if err := errors.Join(ctx.Err(), tr.pass(t)); err != nil {
			return nil, err
		}
		for _, c := range tr.candidates {
			c.narrow(g)
		}
	}
	found := map[*row]*suggestion{}
	for w, c := range tr.candidates {
		if c.best.Rate != "" {
			found[w] = &c.best
		}
	}
	return found, nil
}

// add adds a counter of what h holds.
func (tr *trial) add(h *hold, peaks map[*row]int64) {
	peaks[h.row] = max(peaks[h.row], int64(min(h.peak, rate.MaxCount))) //nolint:gosec // it is small
	c := tr.candidates[h.row]
	if c == nil && !h.row.limit.Rate.IsUnlimited() {
		c = &candidate{row: h.row, low: -1}
		tr.candidates[h.row] = c
	}
	tr.holds = append(tr.holds, holder{of: c})
}

// narrow makes the search of c shorter by what its limit has denied.
func (c *candidate) narrow(g *goal) {
	count := c.limit.Rate.Count
	switch {
	case c.meets(g):
		if c.found && count >= c.high {
			return
		}
		c.found, c.high = true, count
		c.best = suggestion{
			Rate: c.limit.Rate.String(), Strategy: c.limit.Strategy.String(), Denied: c.denied,
			Share: share(c.denied, c.asked), IdentifiersDenied: c.identifiers,
		}
		if c.limit.Capacity != count {
			c.best.Burst = c.limit.Capacity
		}
	case c.found:
		c.low = max(c.low, count)
	case count >= rate.MaxCount:
		c.found, c.low = true, count-1 // no limit does
	default:
		c.low, c.high = count, min(2*count, rate.MaxCount)
	}
}

// pass decides all events of t by the limits of the candidates.
func (tr *trial) pass(t *trace) error {
	for i := range tr.holds {
		tr.holds[i] = holder{of: tr.holds[i].of}
	}
	var d strategy.Decision
	return t.each(func(at int64, number uint32, cost uint64) {
		for i := tr.of[number][0]; i < tr.of[number][1]; i++ {
			if h := &tr.holds[i]; h.of != nil {
				h.decide(&d, strategy.Ask{Cost: cost, Now: strategy.Instant(at), Mode: h.of.row.mode})
			}
		}
	})
}

func (h *holder) decide(d *strategy.Decision, a strategy.Ask) {
	c := h.of
	c.asked++
	states := [1]strategy.State{h.state}
	isLog := c.limit.Strategy == strategy.SlidingWindowLog
	if isLog {
		if h.log == nil {
			h.log = new(strategy.Log)
		}
		states[0] = h.log.View(&c.limit, a)
	}
	limits := [1]strategy.Limit{c.limit}
	limits[0].Shadow = false
	consumed := d.Decide(limits[:], states[:], a)
	if !d.Allowed {
		c.denied++
		if !h.denied {
			h.denied = true
			c.identifiers++
		}
	}
	switch {
	case !consumed.From(&limits[0]):
	case isLog:
		h.log.Apply(&c.limit, a)
	default:
		h.state = states[0]
	}
}
