// Package apiv1 turns messages of the API ratelimit.v1 into requests of the
// core, and the core's answers into messages.
package apiv1

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// MaxBatch is how many requests a message may have.
const MaxBatch = 1000

// A Decoder makes requests of the core from messages. It is used again, with its
// memory. The zero Decoder is ready for use.
type Decoder struct{ specs []strategy.Spec }

// Request sets r to what in asks. What r refers to is good until d is cleared.
func (d *Decoder) Request(r *decide.Request, in *ratelimitv1.ShouldAllowRequest) {
	*r = decide.Request{
		Namespace: in.GetNamespace(), Identifier: in.GetIdentifier(), Policy: in.GetPolicy(),
		Cost: 1, DryRun: in.GetDryRun(),
	}
	if in.GetMode() > ratelimitv1.Mode_TAKE || in.GetMode() < 0 || in.GetConsumedAt() != nil {
		mode(r, in)
	}
	d.limits(r, in.GetLimits())
	if in != nil && in.Cost != nil {
		r.Cost = *in.Cost
	}
}

// mode sets the mode of r, which is not the usual one or has a consumed_at.
func mode(r *decide.Request, in *ratelimitv1.ShouldAllowRequest) {
	refuse := func(field, format string, args ...any) {
		r.Wrong = append(r.Wrong, decide.Violation{Field: field, Problem: fmt.Sprintf(format, args...)})
	}
	switch in.GetMode() {
	case ratelimitv1.Mode_MODE_UNSPECIFIED, ratelimitv1.Mode_TAKE:
	case ratelimitv1.Mode_CHARGE:
		r.Mode = strategy.Charge
	case ratelimitv1.Mode_REFUND:
		r.Mode = strategy.Refund
	default:
		refuse("mode", "unknown mode %d; use 1 (TAKE), 2 (CHARGE) or 3 (REFUND)", in.GetMode())
		return
	}
	at := in.GetConsumedAt()
	switch {
	case at == nil:
	case r.Mode != strategy.Refund:
		refuse("consumed_at", "only a REFUND has one; leave it out, or send the mode REFUND")
	case at.CheckValid() != nil || at.GetSeconds() >= lastSecond:
		refuse("consumed_at", "%d s and %d ns since 1970 is no time at which anything was consumed; send the decided_at of that response, or leave it out",
			at.GetSeconds(), at.GetNanos())
	default: // to whole microseconds; and all that is long ago is alike, but for 0, which stands for none
		r.ConsumedAt = max(1, strategy.InstantOf(at.AsTime()))
	}
}

// lastSecond is in the year 2255. No store's clock counts so far, however wrong it is.
const lastSecond = 9_000_000_000

// Reset sets r to what in asks to be forgotten.
func (d *Decoder) Reset(r *decide.Request, in *ratelimitv1.ResetRequest) {
	*r = decide.Request{Namespace: in.GetNamespace(), Identifier: in.GetIdentifier(), Policy: in.GetPolicy()}
	d.limits(r, in.GetLimits())
}

// limits sets the limits of r, and of too many one more than are valid.
func (d *Decoder) limits(r *decide.Request, in []*ratelimitv1.Limit) {
	start := len(d.specs)
	for i, l := range in[:min(len(in), strategy.MaxLimits+1)] {
		algorithm := l.GetStrategy()
		if algorithm < 0 || algorithm > lastStrategy {
			r.Wrong = append(r.Wrong, decide.Violation{
				Field:   fmt.Sprintf("limits[%d].strategy", i),
				Problem: fmt.Sprintf("unknown strategy %d; use 1 (FIXED_WINDOW) to %d (%[2]s)", algorithm, lastStrategy),
			})
			algorithm = noStrategy
		}
		var debt strategy.Bound
		if l != nil && l.MaxDebt != nil {
			debt = strategy.AtMost(*l.MaxDebt)
		}
		zone, err := timezone.Load(l.GetTimeZone())
		if err != nil {
			r.Wrong = append(r.Wrong, decide.Violation{Field: fmt.Sprintf("limits[%d].time_zone", i), Problem: err.Error()})
		}
		d.specs = append(d.specs, strategy.Spec{
			Name: l.GetName(), Rate: l.GetRate(), Strategy: strategy.Strategy(algorithm), Burst: l.GetBurst(), //nolint:gosec // it is one of the few that there are
			MaxDebt: debt, Zone: zone, AnchorDay: l.GetAnchorDay(),
		})
	}
	r.Specs = d.specs[start:len(d.specs):len(d.specs)]
}

// lastStrategy is the one with the greatest number. The numbers are those of the
// algorithms.
const lastStrategy = ratelimitv1.Strategy_GCRA

// noStrategy is a number that no algorithm has.
const noStrategy = 255

// Clear makes d hold on to nothing of what it was given.
func (d *Decoder) Clear() {
	clear(d.specs)
	d.specs = d.specs[:0]
}

// An Encoder makes messages from the core's answers. The parts of all messages
// of a batch are made in one piece each: made apart, they were most of what a
// decision cost. It is used again, with its memory. The zero Encoder is ready
// for use.
type Encoder struct {
	responses []ratelimitv1.ShouldAllowResponse
	statuses  []ratelimitv1.LimitStatus
	pointers  []*ratelimitv1.LimitStatus
	durations []durationpb.Duration
	times     []timestamppb.Timestamp

	used usage
}

// usage is how much of each an Encoder has given out.
type usage struct{ responses, statuses, durations int } // as many times as responses

// Begin makes room for the answers of b. The messages made before are good no
// more.
func (e *Encoder) Begin(b *decide.Batch) {
	limits := 0
	for i := range b.Answers {
		limits += len(b.Answers[i].Decision.Statuses)
	}
	n := len(b.Answers)
	e.responses = decide.Resized(e.responses, n)
	e.statuses = decide.Resized(e.statuses, limits)
	e.pointers = decide.Resized(e.pointers, limits)
	e.durations = decide.Resized(e.durations, 2*n+2*limits)
	e.times = decide.Resized(e.times, n)
	e.used = usage{}
}

// Clear makes e hold on to nothing of what it has given out.
func (e *Encoder) Clear() {
	clear(e.responses)
	clear(e.statuses)
}

// Response returns the message that says a, whose Err is nil.
func (e *Encoder) Response(a *decide.Answer) *ratelimitv1.ShouldAllowResponse {
	response, at := &e.responses[e.used.responses], &e.times[e.used.responses]
	e.used.responses++
	d := a.Decision
	if d.At != 0 {
		at.Seconds, at.Nanos = int64(d.At/perSecond), int32(d.At%perSecond)*1000
		response.DecidedAt = at
	}
	response.Allowed = d.Allowed
	response.Reason = Reason(a.Outcome)
	if n := len(d.Statuses); n > 0 {
		first := e.used.statuses
		e.used.statuses += n
		response.Statuses = e.pointers[first : first+n : first+n]
		for i := range d.Statuses {
			response.Statuses[i] = e.status(&e.statuses[first+i], a.Limits[i].Name, &d.Statuses[i])
		}
		if !d.Allowed && d.RetryAfter != strategy.Never {
			response.RetryAfter = e.duration(d.RetryAfter)
		}
	}
	if d.Allowed && d.Delay > 0 {
		response.Delay = e.duration(d.Delay)
	}
	return response
}

// perSecond is a second, in the unit of Instants.
const perSecond = strategy.Instant(time.Second / time.Microsecond)

// Reason returns what callers are told of an outcome.
func Reason(o decide.Outcome) ratelimitv1.Reason { return reasons[o] }

var reasons = [...]ratelimitv1.Reason{
	decide.Allowed:      ratelimitv1.Reason_WITHIN_LIMIT,
	decide.Denied:       ratelimitv1.Reason_OVER_LIMIT,
	decide.Charged:      ratelimitv1.Reason_WITHIN_LIMIT,
	decide.Overcharged:  ratelimitv1.Reason_OVER_LIMIT,
	decide.Refunded:     ratelimitv1.Reason_WITHIN_LIMIT,
	decide.Unlimited:    ratelimitv1.Reason_UNLIMITED,
	decide.Shadowed:     ratelimitv1.Reason_SHADOW,
	decide.Exempt:       ratelimitv1.Reason_EXEMPT,
	decide.FailedOpen:   ratelimitv1.Reason_STORE_FAILURE,
	decide.FailedClosed: ratelimitv1.Reason_STORE_FAILURE,
	decide.LocalAllowed: ratelimitv1.Reason_STORE_FAILURE,
	decide.LocalDenied:  ratelimitv1.Reason_STORE_FAILURE,
	decide.Undecided:    ratelimitv1.Reason_REASON_UNSPECIFIED,
	decide.Shed:         ratelimitv1.Reason_REASON_UNSPECIFIED,
}

func (e *Encoder) status(to *ratelimitv1.LimitStatus, name string, from *strategy.Status) *ratelimitv1.LimitStatus {
	to.Name = name
	to.Limit, to.Remaining = from.Limit, from.Remaining
	to.ResetAfter = e.duration(from.ResetAfter)
	to.Allowed = from.Allowed
	if !from.Allowed && from.RetryAfter != strategy.Never {
		to.RetryAfter = e.duration(from.RetryAfter)
	}
	return to
}

func (e *Encoder) duration(d time.Duration) *durationpb.Duration {
	to := &e.durations[e.used.durations]
	e.used.durations++
	to.Seconds, to.Nanos = int64(d/time.Second), int32(d%time.Second)
	return to
}
