package strategy

import (
	"math"
	"time"
)

// What one limit does with its counter is here, and what each strategy does in the file of its
// name. decision.go puts the limits of a request together.

// take decides whether l, whose counter has state s, allows a Take of cost at now. If
// it does, take sets next to the counter's state after that cost is consumed.
func take(l *Limit, s State, cost uint64, now Instant, next *State) verdict {
	if cost == 0 {
		*next = s
		return allowed
	}
	return takeUnits(l, s, cost, now, next)
}

// takeUnits is take, except that a limit which is in debt does not allow a cost of 0.
func takeUnits(l *Limit, s State, cost uint64, now Instant, next *State) verdict {
	switch {
	case l.Rate.IsUnlimited():
		*next = s
		return allowed
	case cost > uint64(l.Capacity):
		return never
	case l.Capacity == 0: // which has nothing to count
		*next = s
		return allowed
	}
	units := int64(cost) // at most rate.MaxCount, because of the above
	at := max(now, s.Last)
	var v verdict
	switch l.Strategy {
	case FixedWindow:
		v = takeFixedWindow(l, s, units, at, next)
	case SlidingWindowCounter:
		v = takeSlidingWindowCounter(l, s, units, at, next)
	case SlidingWindowLog:
		v = takeSlidingWindowLog(l, s, units, at, next)
	case LeakyBucket:
		v = takeLeakyBucket(l, s, units, at, next)
	default: // TokenBucket, GCRA
		v = takeTokenBucket(l, s, units, at, next)
	}
	if at > now {
		return v.after(at - now)
	}
	return v
}

// RetryAfter returns how long it takes until the counter of l in state s allows
// cost: 0 if it does so now, and Never if it never can.
func RetryAfter(l *Limit, s State, cost uint64, now Instant) time.Duration {
	var next State
	return take(l, s, cost, now, &next).retryAfter
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

// A Status is the state of one limit after a decision.
type Status struct {
	Limit      uint64        // the largest cost ever allowed; the greatest uint64 if unlimited
	Remaining  uint64        // the largest cost that would be allowed now
	Debt       uint64        // how many units the counter holds beyond its capacity
	ResetAfter time.Duration // until the counter is unused again
	RetryAfter time.Duration // if denied: until the same cost is allowed, or Never
	Allowed    bool          // by this limit alone

	Previous int64 // for MoreAfter: of a SLIDING_WINDOW_COUNTER, the units of the window before; -1 in debt
}

// MoreAfter returns how long it takes until one more unit of l remains than does now, if
// nobody consumes, and whether st can say so. It cannot if nothing more can come, for a
// SLIDING_WINDOW_LOG, and for a SLIDING_WINDOW_COUNTER in debt. It is computed when
// it is asked for, as few ask; for a bucket it may be a microsecond short.
func (st *Status) MoreAfter(l *Limit) (wait time.Duration, ok bool) {
	if st.ResetAfter == 0 || st.ResetAfter == math.MaxInt64 {
		return 0, false
	}
	left := l.Capacity - int64(st.Remaining) - 1 // that are used when one more remains
	reset := int64(st.ResetAfter / time.Microsecond)
	switch l.Strategy {
	case FixedWindow:
		return st.ResetAfter, true
	case SlidingWindowLog:
		return 0, false
	case SlidingWindowCounter:
		if st.Previous < 0 {
			return 0, false
		}
		return micros(moreSlidingWindowCounter(l, st.Previous, left, reset)), true
	default: // TokenBucket, LeakyBucket, GCRA
		return micros(reset - mulDivCeil(left, period(l.Rate), 0, l.Rate.Count)), true
	}
}
