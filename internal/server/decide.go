package server

import (
	"context"
	"math"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A work is one call's requests on their way through the store. It is used
// again for other calls.
type work struct {
	requests []store.Request
	results  []store.Result
	limits   []strategy.Limit // the requests' limits, one after the other
	refusals []error          // of each request of the call, or nil
}

var works = sync.Pool{New: func() any { return new(work) }}

// decide decides each of in on its own, in order, and passes each answer or
// error to out by its index.
func (s *Server) decide(ctx context.Context, in []*ratelimitv1.ShouldAllowRequest, out func(i int, response *ratelimitv1.ShouldAllowResponse, err error)) {
	w := works.Get().(*work)
	defer w.free()

	w.refusals = resized(w.refusals, len(in))
	w.requests = w.requests[:0]
	for i, request := range in {
		r := store.Request{Cost: 1, DryRun: request.GetDryRun()}
		if request != nil && request.Cost != nil {
			r.Cost = *request.Cost
		}
		w.limits, w.refusals[i] = s.resolve(request, &r, w.limits)
		if w.refusals[i] == nil {
			w.requests = append(w.requests, r)
		}
	}

	w.results = resized(w.results, len(w.requests))
	if len(w.requests) > 0 {
		start := time.Now()
		s.store.Decide(ctx, w.requests, w.results)
		since(start, s.metrics.storeLatency)
	}

	decided := 0
	for i := range in {
		if err := w.refusals[i]; err != nil {
			s.metrics.refused.Inc()
			out(i, nil, err)
			continue
		}
		response, err := s.answer(ctx, &w.requests[decided], &w.results[decided])
		decided++
		out(i, response, err)
	}
}

// free makes w ready for another call, holding on to nothing of this one's.
func (w *work) free() {
	clear(w.requests)
	clear(w.limits)
	clear(w.refusals)
	w.limits = w.limits[:0]
	works.Put(w)
}

// resized returns s with length n. Its elements keep what they held.
func resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// answer turns what the store said of a request into what its caller is told.
func (s *Server) answer(ctx context.Context, r *store.Request, res *store.Result) (*ratelimitv1.ShouldAllowResponse, error) {
	if res.Err != nil {
		return s.answerFailure(ctx, r, res.Err)
	}
	s.failure.recovered(s.logger)
	s.metrics.checked(r, "", res.Statuses)
	s.hotKeys.Record(r.Namespace, r.Identifier, !res.Allowed)
	response := newResponse(r, &res.Decision)
	switch response.GetReason() {
	case ratelimitv1.Reason_OVER_LIMIT:
		s.metrics.decided(r.Namespace, outcomeDenied)
	case ratelimitv1.Reason_UNLIMITED:
		s.metrics.decided(r.Namespace, outcomeUnlimited)
	default:
		s.metrics.decided(r.Namespace, outcomeAllowed)
	}
	return response, nil
}

// newResponse returns the response that says what d does.
func newResponse(r *store.Request, d *strategy.Decision) *ratelimitv1.ShouldAllowResponse {
	response := &ratelimitv1.ShouldAllowResponse{Allowed: d.Allowed, Statuses: make([]*ratelimitv1.LimitStatus, len(d.Statuses))}
	unlimited := true
	statuses := make([]ratelimitv1.LimitStatus, len(d.Statuses))
	for i := range d.Statuses {
		from, to := &d.Statuses[i], &statuses[i]
		to.Name = r.Limits[i].Name
		to.Limit, to.Remaining = from.Limit, from.Remaining
		to.ResetAfter = durationpb.New(from.ResetAfter)
		to.Allowed = from.Allowed
		if !from.Allowed && from.RetryAfter != strategy.Never {
			to.RetryAfter = durationpb.New(from.RetryAfter)
		}
		response.Statuses[i] = to
		unlimited = unlimited && from.Limit == math.MaxUint64
	}
	switch {
	case !d.Allowed:
		response.Reason = ratelimitv1.Reason_OVER_LIMIT
		if d.RetryAfter != strategy.Never {
			response.RetryAfter = durationpb.New(d.RetryAfter)
		}
	case unlimited:
		response.Reason = ratelimitv1.Reason_UNLIMITED
	default:
		response.Reason = ratelimitv1.Reason_WITHIN_LIMIT
		if d.Delay > 0 {
			response.Delay = durationpb.New(d.Delay)
		}
	}
	return response
}
