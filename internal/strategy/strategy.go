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

// Parse returns the strategy called name, in any case.
func Parse(name string) (Strategy, error) {
	for _, s := range All {
		if strings.EqualFold(name, names[s]) {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown strategy %s; use %s", quote.Cut(name), strings.Join(names[1:], ", "))
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
	Last Instant // when the counter last consumed
	Part int64   // not negative
	Used uint32  // at most rate.MaxCount
}

// Never is the RetryAfter of a request that no wait can help.
const Never time.Duration = -1

// A Status is the state of one limit after a decision.
type Status struct {
	Limit      uint64        // the largest cost ever allowed; the greatest uint64 if unlimited
	Remaining  uint64        // the largest cost that would be allowed now
	ResetAfter time.Duration // until the counter is unused again
	RetryAfter time.Duration // if denied: until the same cost is allowed, or Never
	Allowed    bool          // by this limit alone
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
	RetryAfter time.Duration // if denied: until the same request is allowed, or Never
	Delay      time.Duration // if allowed: how long to hold the request
	Statuses   []Status      // one for each limit, in order
}

// Decide sets d to the answer to a request for cost units at now from all of
// limits. states[i] is the state of the counter of limits[i]; for a
// SLIDING_WINDOW_LOG it is the View of the counter's Log.
//
// A request consumes only if every limit allows it, its cost is above 0, and it is
// not a dry run. Decide reports from which limits it consumed. It replaces the
// states of these by what to remember, and leaves the others as they are.
//
// Limits in shadow mode do not change the answer, its RetryAfter or its Delay. A
// request consumes from them if they all allow it as well. So their counts and
// statuses are what they would be if these limits were enforced.
func (d *Decision) Decide(limits []Limit, states []State, cost uint64, now Instant, dryRun bool) Consumed {
	if len(limits) == 1 { // most requests have one, and need no room for more
		var next [1]State
		return d.decide(limits, states, cost, now, dryRun, next[:])
	}
	return d.decideMany(limits, states, cost, now, dryRun)
}

// decideMany is a function of its own to keep its array out of Decide's stack
// frame. Otherwise each new goroutine would have to grow its stack for it.
//
//go:noinline
func (d *Decision) decideMany(limits []Limit, states []State, cost uint64, now Instant, dryRun bool) Consumed {
	var next [MaxLimits]State
	return d.decide(limits, states, cost, now, dryRun, next[:])
}

// decide does the work of Decide. next has room for a state of each limit.
func (d *Decision) decide(limits []Limit, states []State, cost uint64, now Instant, dryRun bool, next []State) Consumed { //nolint:revive // the sixth is room on the stack of its two callers
	*d = Decision{Allowed: true, Statuses: d.Statuses[:0]}
	consumed := ConsumedAll
	for i := range limits {
		verdict := take(&limits[i], states[i], cost, now, &next[i])
		d.Statuses = append(d.Statuses, Status{Allowed: verdict.allowed, RetryAfter: verdict.retryAfter})
		if limits[i].Shadow {
			if !verdict.allowed {
				consumed = ConsumedEnforced
			}
			continue
		}
		if !verdict.allowed {
			d.Allowed = false
			if d.RetryAfter != Never && (verdict.retryAfter == Never || verdict.retryAfter > d.RetryAfter) {
				d.RetryAfter = verdict.retryAfter
			}
		}
		d.Delay = max(d.Delay, verdict.delay)
	}
	if !d.Allowed {
		d.Delay = 0
	}
	if !d.Allowed || cost == 0 || dryRun {
		consumed = ConsumedNone
	}
	for i := range limits {
		if consumed.From(&limits[i]) {
			states[i] = next[i]
		}
		report(&limits[i], states[i], now, &d.Statuses[i])
	}
	return consumed
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

// take decides whether l, whose counter has state s, allows cost at now. If it
// does, take sets next to the counter's state after that cost is consumed.
func take(l *Limit, s State, cost uint64, now Instant, next *State) verdict {
	if l.Rate.IsUnlimited() || cost == 0 {
		*next = s
		return allowed
	}
	if cost > uint64(l.Capacity) {
		return never
	}
	units := int64(cost)   // at most rate.MaxCount, because of the line above
	now = max(now, s.Last) // read a clock that stepped back as standing still
	switch l.Strategy {
	case FixedWindow:
		return takeFixedWindow(l, s, units, now, next)
	case SlidingWindowCounter:
		return takeSlidingWindowCounter(l, s, units, now, next)
	case SlidingWindowLog:
		return takeSlidingWindowLog(l, s, units, now, next)
	case LeakyBucket:
		return takeLeakyBucket(l, s, units, now, next)
	default: // TokenBucket, GCRA
		return takeTokenBucket(l, s, units, now, next)
	}
}

// report fills st with the state s of the counter of l at now.
func report(l *Limit, s State, now Instant, st *Status) {
	if l.Rate.IsUnlimited() {
		st.Limit, st.Remaining = math.MaxUint64, math.MaxUint64
		return
	}
	st.Limit = uint64(l.Capacity)
	if l.Capacity == 0 {
		return
	}
	now = max(now, s.Last)
	var used, reset int64 // units, microseconds
	switch l.Strategy {
	case FixedWindow:
		used, reset = usedFixedWindow(l, s, now)
	case SlidingWindowCounter:
		used, reset = usedSlidingWindowCounter(l, s, now)
	case SlidingWindowLog:
		used, reset = usedSlidingWindowLog(l, s, now)
	default: // TokenBucket, LeakyBucket, GCRA
		used, reset = usedTokenBucket(l, s, now)
	}
	st.Remaining = uint64(max(0, l.Capacity-used))
	st.ResetAfter = micros(reset)
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
