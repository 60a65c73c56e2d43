package server

import (
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// Responses are the parts that the responses of one call are made of. They are
// made in one piece each: apart, they were most of what a decision costs.
type responses struct {
	responses []ratelimitv1.ShouldAllowResponse
	statuses  []ratelimitv1.LimitStatus
	pointers  []*ratelimitv1.LimitStatus
	durations []durationpb.Duration
}

// parts returns the parts for n responses that have so many limits in all, of
// the memory that p has, or gets. They are good until the next call.
func (p *responses) parts(n, limits int) responses {
	p.responses = resized(p.responses, n)
	p.statuses = resized(p.statuses, limits)
	p.pointers = resized(p.pointers, limits)
	p.durations = resized(p.durations, 2*n+2*limits)
	return *p
}

// clear makes p ready for other responses, holding on to nothing of these.
func (p *responses) clear() {
	clear(p.responses)
	clear(p.statuses)
}

// empty returns a response that says nothing yet.
func (p *responses) empty() *ratelimitv1.ShouldAllowResponse {
	response := &p.responses[0]
	p.responses = p.responses[1:]
	return response
}

// to returns the response that says what d does of r.
func (p *responses) to(r *store.Request, d *strategy.Decision) *ratelimitv1.ShouldAllowResponse {
	response := p.empty()
	n := len(d.Statuses)
	response.Allowed = d.Allowed
	response.Statuses, p.pointers = p.pointers[:n:n], p.pointers[n:]
	unlimited, shadow := true, false
	for i := range d.Statuses {
		from, to := &d.Statuses[i], &p.statuses[i]
		to.Name = r.Limits[i].Name
		to.Limit, to.Remaining = from.Limit, from.Remaining
		to.ResetAfter = p.duration(from.ResetAfter)
		to.Allowed = from.Allowed
		if !from.Allowed && from.RetryAfter != strategy.Never {
			to.RetryAfter = p.duration(from.RetryAfter)
		}
		response.Statuses[i] = to
		unlimited = unlimited && from.Limit == math.MaxUint64
		shadow = shadow || r.Limits[i].Shadow && !from.Allowed
	}
	p.statuses = p.statuses[n:]
	switch {
	case !d.Allowed:
		response.Reason = ratelimitv1.Reason_OVER_LIMIT
		if d.RetryAfter != strategy.Never {
			response.RetryAfter = p.duration(d.RetryAfter)
		}
	case unlimited:
		response.Reason = ratelimitv1.Reason_UNLIMITED
	case shadow:
		response.Reason = ratelimitv1.Reason_SHADOW
	default:
		response.Reason = ratelimitv1.Reason_WITHIN_LIMIT
	}
	if d.Allowed && d.Delay > 0 {
		response.Delay = p.duration(d.Delay)
	}
	return response
}

func (p *responses) duration(d time.Duration) *durationpb.Duration {
	to := &p.durations[0]
	p.durations = p.durations[1:]
	to.Seconds, to.Nanos = int64(d/time.Second), int32(d%time.Second)
	return to
}
