package strategy

import (
	"math"
	"time"
)

// Consumption says from which limits a request has consumed.
type Consumption uint8

// All is more than Enforced, which is more than None.
const (
	ConsumedNone     Consumption = iota
	ConsumedEnforced             // from those that are not in shadow mode
	ConsumedAll
)

// From reports whether the request consumed from l.
func (c Consumption) From(l *Limit) bool {
	return c == ConsumedAll || c == ConsumedEnforced && !l.Shadow
}

// A Decision answers a request. The zero Decision is ready for use. A Decision can
// be used again: Decide then overwrites its Statuses in place, to avoid an
// allocation.
type Decision struct {
	Allowed    bool
	Refused    bool          // the limits are why nothing is consumed; what is decided together then consumes nothing either
	At         Instant       // when it was made, by the clock of the store; 0 if no limit has a counter
	RetryAfter time.Duration // if denied: until a Take of the same cost is allowed, or Never
	Delay      time.Duration // if allowed: how long to hold the request
	Statuses   []Status      // one for each limit, in order
}

// Decide sets d to the answer to what a asks of all of limits. states[i] is the state
// of the counter of limits[i], settled; for a SLIDING_WINDOW_LOG it is the View of the
// counter's Log.
//
// A Take consumes only if every limit allows it; for the other modes see Mode. Nothing
// consumes if its cost is 0 or it is a dry run. Decide reports from which limits it
// consumed, or to which it gave back. It replaces the states of these by what to
// remember, and leaves the others as they are.
//
// Limits in shadow mode do not change the answer, its RetryAfter or its Delay. A
// Take consumes from them if they all allow it as well. So their counts and
// statuses are what they would be if these limits were enforced.
func (d *Decision) Decide(limits []Limit, states []State, a Ask) Consumption {
	if len(limits) == 1 { // as most requests have
		if a.Mode == Take {
			return d.takeOne(&limits[0], &states[0], &a)
		}
		var next [1]State
		return d.decide(limits, states, &a, next[:])
	}
	return d.decideMany(limits, states, &a)
}

// takeOne is decide for a Take of one limit, in less than half its instructions.
func (d *Decision) takeOne(l *Limit, s *State, a *Ask) Consumption {
	var next State
	v := take(l, *s, a.Cost, a.Now, &next)
	d.begin(1)
	consumed := ConsumedAll
	switch {
	case l.Shadow:
		if !v.allowed {
			consumed = ConsumedEnforced // of which there are none
		}
	case v.allowed:
		d.Delay = v.delay
	default:
		d.Allowed, d.Refused, d.RetryAfter = false, true, v.retryAfter
	}
	if !d.Allowed || a.Cost == 0 || a.DryRun {
		consumed = ConsumedNone
	}
	if consumed == ConsumedAll {
		*s = next
	}
	st := &d.Statuses[0]
	*st = Status{Allowed: v.allowed, RetryAfter: v.retryAfter}
	d.report(l, *s, a.Now, st)
	return consumed
}

// decideMany is a function of its own to keep its array out of Decide's stack
// frame. Otherwise each new goroutine would have to grow its stack for it.
//
//go:noinline
func (d *Decision) decideMany(limits []Limit, states []State, a *Ask) Consumption {
	var next [MaxLimits]State
	return d.decide(limits, states, a, next[:])
}

// decide does the work of Decide. next has room for a state of each limit.
func (d *Decision) decide(limits []Limit, states []State, a *Ask, next []State) Consumption {
	if a.Mode != Take {
		return d.decideMode(limits, states, a, next)
	}
	d.begin(len(limits))
	consumed := ConsumedAll
	for i := range limits {
		l := &limits[i]
		v := take(l, states[i], a.Cost, a.Now, &next[i])
		d.Statuses[i] = Status{Allowed: v.allowed, RetryAfter: v.retryAfter}
		switch {
		case l.Shadow:
			if !v.allowed {
				consumed = ConsumedEnforced
			}
		case v.allowed:
			d.Delay = max(d.Delay, v.delay)
		default:
			d.Allowed = false
			d.RetryAfter = longer(d.RetryAfter, v.retryAfter)
		}
	}
	if !d.Allowed {
		d.Delay, d.Refused = 0, true
	}
	if !d.Allowed || a.Cost == 0 || a.DryRun {
		consumed = ConsumedNone
	}
	for i := range limits {
		if consumed.From(&limits[i]) {
			states[i] = next[i]
		}
		d.report(&limits[i], states[i], a.Now, &d.Statuses[i])
	}
	return consumed
}

// begin makes d an answer that allows, with room for the statuses of n limits.
func (d *Decision) begin(n int) {
	if cap(d.Statuses) < n {
		d.Statuses = make([]Status, n)
	}
	*d = Decision{Allowed: true, Statuses: d.Statuses[:n]}
}

// decideMode is decide for the modes other than Take.
func (d *Decision) decideMode(limits []Limit, states []State, a *Ask, next []State) Consumption {
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

// report fills st with the state s of the counter of l at now.
func (d *Decision) report(l *Limit, s State, now Instant, st *Status) {
	if l.Rate.IsUnlimited() {
		st.Limit, st.Remaining = math.MaxUint64, math.MaxUint64
		return
	}
	d.At = now
	st.Limit = uint64(l.Capacity)
	if l.Capacity == 0 {
		return
	}
	at := max(now, s.Last)
	var used, reset int64 // units, microseconds
	switch l.Strategy {
	case FixedWindow:
		used, reset = usedFixedWindow(l, s, at)
	case SlidingWindowCounter:
		used, reset, st.Previous = usedSlidingWindowCounter(l, s, at)
	case SlidingWindowLog:
		used, reset = usedSlidingWindowLog(l, s, at)
	default: // TokenBucket, LeakyBucket, GCRA
		used, reset = usedTokenBucket(l, s, at)
	}
	st.Remaining, st.Debt = uint64(max(0, l.Capacity-used)), uint64(max(0, used-l.Capacity))
	st.ResetAfter = micros(reset)
	if at > now && reset > 0 {
		st.ResetAfter = later(st.ResetAfter, at-now)
	}
}

// longer returns the longer of two waits. Never is the longest.
func longer(a, b time.Duration) time.Duration {
	if a == Never || b == Never {
		return Never
	}
	return max(a, b)
}
