// Package strategy has the rate-limiting algorithms, as pure functions. They get
// what a counter remembers, a limit, a cost and an instant, and return the answer
// and what the counter should remember from now on. They do no I/O, take no locks
// and read no clock: the stores do.
//
// All arithmetic is in whole microseconds and whole units, and is exact for every
// limit that NewLimit accepts. So counters do not drift, and a reported duration
// is the shortest that suffices. A duration of more than 292 years is reported as
// the greatest time.Duration.
package strategy

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/rate"
)

// A Strategy is an algorithm. The numbers are those of the API.
type Strategy uint8

// The strategies. Each is described in the file of its name.
const (
	FixedWindow Strategy = 1 + iota
	SlidingWindowCounter
	SlidingWindowLog
	TokenBucket
	LeakyBucket
	GCRA
)

// All lists the strategies in the order of their numbers.
var All = [...]Strategy{FixedWindow, SlidingWindowCounter, SlidingWindowLog, TokenBucket, LeakyBucket, GCRA}

var names = [...]string{
	FixedWindow:          "fixed_window",
	SlidingWindowCounter: "sliding_window_counter",
	SlidingWindowLog:     "sliding_window_log",
	TokenBucket:          "token_bucket",
	LeakyBucket:          "leaky_bucket",
	GCRA:                 "gcra",
}

// String returns the name that configuration, keys and metrics show.
func (s Strategy) String() string {
	if s.known() {
		return names[s]
	}
	return fmt.Sprintf("strategy(%d)", uint8(s))
}

// Names lists the strategies for a person.
func Names() string { return strings.Join(names[1:], ", ") }

// Parse returns the strategy called name, in any case.
func Parse(name string) (Strategy, error) {
	for _, s := range All {
		if strings.EqualFold(name, names[s]) {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown strategy %s; use %s", quote.Cut(name), Names())
}

func (s Strategy) known() bool { return s >= FixedWindow && s <= GCRA }

// hasBurst reports whether the capacity can differ from the count of the rate.
func (s Strategy) hasBurst() bool { return s == TokenBucket || s == LeakyBucket || s == GCRA }

// An Instant is a time in microseconds since the Unix epoch.
type Instant int64

// InstantOf returns t in whole microseconds.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMicro()) }

// A State is what a counter remembers between decisions. The zero State is that of
// an unused counter. Each strategy says in its file what the fields mean; the
// State of one strategy means nothing to another.
type State struct {
	Last      Instant // when the counter last consumed
	Part      int64   // not negative; below 2^48, except in a View
	Used      int64   // at most MaxUnits; more than the capacity means debt
	PartAfter int64   // only in a View
}

// Settle brings s back to now if it is from further in the future than a period of l,
// or than skew if that is longer, and reports whether it was: a clock was wrong. What
// was consumed then counts as if it had been consumed now. For a state from a nearer
// future, time stands still until its instant. A state of a FIXED_WINDOW is one of its
// window, and so from as far in the future as the window begins. skew is how far apart the
// clocks may be that write the states of one counter.
//
// A store settles the states that it reads before it decides by them, and remembers
// what Settle has changed, whatever the decision is.
func (s *State) Settle(l *Limit, now, skew Instant) bool {
	if s.Last <= now || !l.tooFar(s.Last, now, skew) {
		return false
	}
	s.Last = now
	if s.Used == 0 && s.Part == 0 {
		*s = State{} // nothing is left to count
	}
	return true
}

// tooFar reports whether a state of last is from too far in the future.
func (l *Limit) tooFar(last, now, skew Instant) bool {
	if l.Rate.IsUnlimited() {
		return false
	}
	p := Instant(period(l.Rate))
	if l.Strategy == FixedWindow && !l.OnCalendar() {
		last -= last % p
	}
	return last-now > max(p, skew)
}

// Never is the RetryAfter of a request that no wait can help.
const Never time.Duration = -1

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

// Consumed says from which limits a request has consumed.
type Consumed uint8

// All is more than Enforced, which is more than None.
const (
	ConsumedNone     Consumed = iota
	ConsumedEnforced          // from those that are not in shadow mode
	ConsumedAll
)

// From reports whether the request consumed from l.
func (c Consumed) From(l *Limit) bool { return c == ConsumedAll || c == ConsumedEnforced && !l.Shadow }

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
func (d *Decision) Decide(limits []Limit, states []State, a Ask) Consumed {
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
func (d *Decision) takeOne(l *Limit, s *State, a *Ask) Consumed {
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
func (d *Decision) decideMany(limits []Limit, states []State, a *Ask) Consumed {
	var next [MaxLimits]State
	return d.decide(limits, states, a, next[:])
}

// decide does the work of Decide. next has room for a state of each limit.
func (d *Decision) decide(limits []Limit, states []State, a *Ask, next []State) Consumed {
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

// A verdict is the answer of one limit to a request.
type verdict struct {
	allowed    bool
	retryAfter time.Duration
	delay      time.Duration
}

var (
	allowed = verdict{allowed: true}
	never   = verdict{retryAfter: Never}
)

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

// after returns v if its waits begin after d: the clock has stepped back, and time stands
// still for so long.
func (v verdict) after(d Instant) verdict {
	if v.retryAfter > 0 {
		v.retryAfter = later(v.retryAfter, d)
	}
	if v.delay > 0 {
		v.delay = later(v.delay, d)
	}
	return v
}

// later returns d after a wait, or the greatest Duration if that is too long.
func later(d time.Duration, wait Instant) time.Duration {
	if more := micros(int64(wait)); d <= math.MaxInt64-more {
		return d + more
	}
	return math.MaxInt64
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

// micros returns n microseconds as a Duration, or the greatest Duration if n is
// too large.
func micros(n int64) time.Duration {
	if n > math.MaxInt64/int64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Microsecond
}

// period returns the period of r in microseconds.
func period(r rate.Rate) int64 { return int64(r.Period / time.Microsecond) }

// RetryAfter returns how long it takes until the counter of l in state s allows
// cost: 0 if it does so now, and Never if it never can.
func RetryAfter(l *Limit, s State, cost uint64, now Instant) time.Duration {
	var next State
	return take(l, s, cost, now, &next).retryAfter
}
