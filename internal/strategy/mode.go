package strategy

import (
	"fmt"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// MaxUnits is the most units that a counter holds: ten thousand times the greatest
// count. A charge beyond it is cut. It is small enough for all arithmetic to be exact
// in the doubles of Lua, which the Redis store uses.
const MaxUnits = 10_000_000_000_000

// A Mode says what a request does with its cost. The zero Mode is Take.
type Mode uint8

const (
	// Take consumes the cost if all limits allow it, and otherwise nothing.
	Take Mode = iota
	// Charge consumes the cost from all limits, whatever is left: it reports what has
	// already happened. A limit may be in debt afterwards: it holds more units than its
	// capacity. The decision says whether a Take of the cost would have been allowed.
	Charge
	// Refund gives the cost back to all limits, at most until they are wholly unused.
	// It is always allowed.
	Refund
	// Overdraw is a Charge if every enforced limit has anything left, and otherwise
	// consumes nothing. Like a Charge, it is denied by each limit that it passes. A cost
	// of 0 is denied by a limit that is in debt. This mode is not in the API.
	Overdraw
)

// Modes are the names of the modes that requests may have.
var Modes = [...]string{Take: "take", Charge: "charge", Refund: "refund"}

// String returns the name of m.
func (m Mode) String() string {
	switch {
	case int(m) < len(Modes):
		return Modes[m]
	case m == Overdraw:
		return "overdraw"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode returns the mode called name, in any case, of those that requests may have.
func ParseMode(name string) (Mode, error) {
	for m, known := range Modes {
		if strings.EqualFold(name, known) {
			return Mode(m), nil //nolint:gosec // it is one of the few that there are
		}
	}
	return 0, fmt.Errorf("unknown mode %s; use %s", quote.Cut(name), strings.Join(Modes[:], ", "))
}

// An Ask is what a request asks of its limits, and when.
type Ask struct {
	Cost uint64
	Now  Instant // by the clock of the store
	// ConsumedAt is when what a Refund gives back was consumed. 0 stands for now.
	ConsumedAt Instant
	Mode       Mode
	DryRun     bool // decide the same, and change nothing
}

// A Bound is a greatest number of units, or none. The zero Bound is none.
type Bound uint64

// AtMost returns the Bound of n units.
func AtMost(n uint64) Bound { return Bound(n + 1) }

// Units returns the greatest number of units, and whether there is one.
func (b Bound) Units() (n uint64, ok bool) { return uint64(b) - 1, b != 0 }

// Ceiling returns the most units that the counter of l holds after a charge: its
// capacity and the debt that it may have.
func (l *Limit) Ceiling() int64 {
	if debt, ok := l.MaxDebt.Units(); ok && debt < MaxUnits {
		return min(l.Capacity+int64(debt), MaxUnits)
	}
	return MaxUnits
}

// filled returns how many units a counter of l that holds used has after a charge.
// It never has fewer than before: its ceiling may have been higher.
func (l *Limit) filled(used, units int64) int64 { return max(used, min(used+units, l.Ceiling())) }

// units returns the cost of a as a counter can hold it.
func (a *Ask) units() int64 { return int64(min(a.Cost, MaxUnits)) }

// decideMode is decide for the modes other than Take.
func (d *Decision) decideMode(limits []Limit, states []State, a *Ask, next []State) Consumed {
	d.begin(len(limits))
	would := ConsumedAll // from which limits it consumes, but for a dry run
	for i := range limits {
		l := &limits[i]
		v := allowed
		if a.Mode == Charge && a.Cost > 0 || a.Mode == Overdraw {
			v = takeUnits(l, states[i], a.Cost, a.Now, &next[i])
		}
		next[i] = l.change(states[i], a)
		d.Statuses[i] = Status{Allowed: v.allowed, RetryAfter: v.retryAfter}
		stops := a.Mode == Overdraw && !l.overdraws(states[i], a)
		switch {
		case !l.Shadow:
			d.Allowed = d.Allowed && v.allowed
			if a.Mode == Overdraw {
				d.Delay = max(d.Delay, v.delay)
			}
			if stops {
				would = ConsumedNone
			}
		case stops:
			would = min(would, ConsumedEnforced)
		}
	}
	if !d.Allowed {
		d.Delay = 0
	}
	d.Refused = would == ConsumedNone
	consumed := would
	if a.Cost == 0 || a.DryRun {
		consumed = ConsumedNone
	}
	for i := range limits {
		l, st := &limits[i], &d.Statuses[i]
		wait := st.RetryAfter
		if a.Mode != Refund && a.Cost > 0 && would.From(l) {
			var ignored State
			wait = takeUnits(l, next[i], a.Cost, a.Now, &ignored).retryAfter
			if !st.Allowed {
				st.RetryAfter = wait
			}
		}
		if !d.Allowed && !l.Shadow {
			d.RetryAfter = longer(d.RetryAfter, wait)
		}
		if l.Strategy == SlidingWindowLog {
			next[i].Part, next[i].PartAfter = 0, 0 // these were of a view
		}
		if consumed.From(l) {
			states[i] = next[i]
		}
		d.report(l, states[i], a.Now, st)
	}
	return consumed
}

// overdraws reports whether an Overdraw may consume from l, whose counter has state s:
// whether it has anything left. One of nothing only needs it not to be in debt.
func (l *Limit) overdraws(s State, a *Ask) bool {
	var ignored State
	return takeUnits(l, s, min(a.Cost, 1), a.Now, &ignored).allowed
}

// change returns the state s of the counter of l after a, if nothing stops it. A limit
// of 0 and an unlimited one have nothing to count.
func (l *Limit) change(s State, a *Ask) State {
	if a.Cost == 0 || l.Capacity == 0 {
		return s
	}
	now := max(a.Now, s.Last)
	if a.Mode == Refund {
		switch l.Strategy {
		case FixedWindow:
			return refundFixedWindow(l, s, a, now)
		case SlidingWindowCounter:
			return refundSlidingWindowCounter(l, s, a, now)
		case SlidingWindowLog:
			return refundSlidingWindowLog(s)
		default: // TokenBucket, LeakyBucket, GCRA
			return refundTokenBucket(l, s, a, now)
		}
	}
	switch l.Strategy {
	case FixedWindow:
		return chargeFixedWindow(l, s, a.units(), now)
	case SlidingWindowCounter:
		return chargeSlidingWindowCounter(l, s, a.units(), now)
	case SlidingWindowLog:
		return chargeSlidingWindowLog(l, s, a.units(), now)
	default: // TokenBucket, LeakyBucket, GCRA
		return chargeTokenBucket(l, s, a.units(), now)
	}
}

// longer returns the longer of two waits. Never is the longest.
func longer(a, b time.Duration) time.Duration {
	if a == Never || b == Never {
		return Never
	}
	return max(a, b)
}
