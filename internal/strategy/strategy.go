// Package strategy holds the rate-limiting algorithms as pure functions: what
// a counter remembers, a limit, a cost and an instant go in; the answer and
// what the counter remembers from then on come out. It does no I/O, takes no
// locks and reads no clock: that is for the stores.
//
// All arithmetic is in whole microseconds and whole units, exact for every
// limit that NewLimit accepts: nothing drifts, and a duration reported is the
// least number of microseconds that suffices. Durations that would be longer
// than 292 years are cut to the greatest time.Duration.
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

// Parse returns the strategy called name, in either case.
func Parse(name string) (Strategy, error) {
	for _, s := range All {
		if strings.EqualFold(name, names[s]) {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown strategy %s; use %s", quote.Cut(name), strings.Join(names[1:], ", "))
}

func (s Strategy) known() bool { return s >= FixedWindow && s <= GCRA }

// hasBurst reports whether the strategy has a capacity of its own.
func (s Strategy) hasBurst() bool { return s == TokenBucket || s == LeakyBucket || s == GCRA }

// An Instant is a time in microseconds since the Unix epoch.
type Instant int64

// InstantOf returns t in whole microseconds.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMicro()) }

// A State is what a counter remembers between decisions. The zero State is
// that of a counter wholly unused. What the fields mean is for the strategy to
// say; a State of one strategy means nothing to another.
type State struct {
	Last Instant // when the counter last consumed
	Part int64   // not negative
	Used uint32  // at most rate.MaxCount
}

// Never is the RetryAfter of what no wait suffices for.
const Never time.Duration = -1

// A Status is the state of one limit after a decision.
type Status struct {
	Limit      uint64        // the largest cost ever allowed; the greatest uint64 if unlimited
	Remaining  uint64        // the largest cost that would be allowed now
	ResetAfter time.Duration // until wholly unused again
	RetryAfter time.Duration // denied: until the same cost is allowed, or Never
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

// A Decision answers a request. The zero Decision is ready for use, and one
// may be used again: its Statuses are then overwritten in place.
type Decision struct {
	Allowed    bool
	RetryAfter time.Duration // denied: until the same request is allowed, or Never
	Delay      time.Duration // allowed: how long to hold the request
	Statuses   []Status      // one for each limit, in order
}

// Decide sets d to the answer to a request for cost units at now from all of
// limits. states[i] is the state of the counter of limits[i]: a SLIDING_WINDOW_LOG
// counter's is its Log's View. Decide reports from which limits the request
// consumed: their states it has replaced by those to remember, and left the
// others alone. A request consumes only if every limit allows it, its cost is
// above 0 and it is no dry run.
//
// Limits in shadow mode have no say in that, in the answer's RetryAfter or in
// its Delay. From them a request consumes if they too all allow it: so they
// count, and each status says, just what they would if they were enforced.
func (d *Decision) Decide(limits []Limit, states []State, cost uint64, now Instant, dryRun bool) Consumed {
	if len(limits) == 1 { // most have one, and need no room for many
		var next [1]State
		return d.decide(limits, states, cost, now, dryRun, next[:])
	}
	return d.decideMany(limits, states, cost, now, dryRun)
}

// decideMany is apart so that its room is not in Decide's frame: goroutines that
// are new to a call would grow their stacks for it.
//
//go:noinline
func (d *Decision) decideMany(limits []Limit, states []State, cost uint64, now Instant, dryRun bool) Consumed {
	var next [MaxLimits]State
	return d.decide(limits, states, cost, now, dryRun, next[:])
}

// decide is Decide. next is room for a state of each limit.
func (d *Decision) decide(limits []Limit, states []State, cost uint64, now Instant, dryRun bool, next []State) Consumed {
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

// A verdict is what one limit says of a request.
type verdict struct {
	allowed    bool
	retryAfter time.Duration
	delay      time.Duration
}

var (
	allowed = verdict{allowed: true}
	never   = verdict{retryAfter: Never}
)

// take decides whether l, whose counter has state s, allows cost at now, and
// if it does sets next to the counter's state with that cost consumed.
func take(l *Limit, s State, cost uint64, now Instant, next *State) verdict {
	if l.Rate.IsUnlimited() || cost == 0 {
		*next = s
		return allowed
	}
	if cost > uint64(l.Capacity) {
		return never
	}
	units := int64(cost)   // at most rate.MaxCount, by the line above
	now = max(now, s.Last) // a clock that stepped back stands still
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

// report sets what st says of the counter of l in state s at now.
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

// micros returns n microseconds as a Duration, cut to the greatest there is.
func micros(n int64) time.Duration {
	if n > math.MaxInt64/int64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Microsecond
}

// period returns the period of r in microseconds.
func period(r rate.Rate) int64 { return int64(r.Period / time.Microsecond) }

// RetryAfter returns how long until the counter of l in state s allows cost:
// 0 if it does at now, and Never if it can not.
func RetryAfter(l *Limit, s State, cost uint64, now Instant) time.Duration {
	var next State
	return take(l, s, cost, now, &next).retryAfter
}
