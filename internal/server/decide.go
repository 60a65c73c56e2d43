package server

import (
	"context"
	"slices"
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/durations"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A work is one call's requests on their way through the store. It is used
// again for other calls.
type work struct {
	requests []store.Request
	results  []store.Result
	limits   []strategy.Limit // those that the requests brought, one after the other
	last     lastLimits       // of limits
	routes   []route          // of each request of the call
	tally    tally
}

// lastLimits are the limits that the last request of a call brought, if they
// are valid. The next mostly has the same, which are then not read again.
type lastLimits struct {
	in  []*ratelimitv1.Limit
	out []strategy.Limit
}

// are reports whether in are as the last.
func (l *lastLimits) are(in []*ratelimitv1.Limit) bool {
	return len(in) > 0 && slices.EqualFunc(in, l.in, func(a, b *ratelimitv1.Limit) bool {
		return a.GetRate() == b.GetRate() && a.GetName() == b.GetName() && a.GetStrategy() == b.GetStrategy() && a.GetBurst() == b.GetBurst()
	})
}

// A route is which way a request goes.
type route struct {
	namespace *policy.Namespace
	exempt    bool  // it is held to nothing
	refusal   error // it is refused
}

var works = sync.Pool{New: func() any { return new(work) }}

// An answered is told the answer or the error of a request by its index, and
// the limits it was held to, which are for reading until it returns.
type answered func(i int, limits []strategy.Limit, response *ratelimitv1.ShouldAllowResponse, err error)

// decide decides each of in on its own, in order, and passes the outcome to out.
func (s *Server) decide(ctx context.Context, in []*ratelimitv1.ShouldAllowRequest, out answered) {
	s.decideInto(ctx, in, new(responses), out)
}

// decideInto is decide, with the responses in the memory of kept.
func (s *Server) decideInto(ctx context.Context, in []*ratelimitv1.ShouldAllowRequest, kept *responses, out answered) {
	w := works.Get().(*work)
	defer w.free()

	config := s.config.Load()
	limits := 0
	w.routes = resized(w.routes, len(in))
	w.requests = w.requests[:0]
	for i, request := range in {
		ns := config.Policies.Namespace(request.GetNamespace())
		to := &w.routes[i]
		*to = route{namespace: ns}
		if ns.IsExempt(request.GetIdentifier()) && s.check(request, ns) == nil {
			to.exempt = true
			continue
		}
		r := store.Request{Cost: 1, DryRun: request.GetDryRun()}
		if request != nil && request.Cost != nil {
			r.Cost = *request.Cost
		}
		w.limits, to.refusal = s.resolve(request, ns, &r, w.limits, &w.last)
		if to.refusal == nil {
			w.requests = append(w.requests, r)
			limits += len(r.Limits)
		}
	}

	w.results = resized(w.results, len(w.requests))
	s.askStore(ctx, w)

	made := kept.parts(len(in), limits)
	decided := 0
	for i, request := range in {
		switch to := &w.routes[i]; {
		case to.refusal != nil:
			s.metrics.refused.Inc()
			out(i, nil, nil, to.refusal)
		case to.exempt:
			w.tally.decided(s.metrics, request.GetNamespace(), outcomeExempt)
			response := made.empty()
			response.Allowed, response.Reason = true, ratelimitv1.Reason_EXEMPT
			out(i, nil, response, nil)
		default:
			r := &w.requests[decided]
			response, err := s.answer(ctx, to.namespace, request.GetPolicy(), r, &w.results[decided], &made, &w.tally)
			decided++
			out(i, r.Limits, response, err)
		}
	}
	w.tally.flush(s.metrics)
}

// askStore has the store decide the requests of w.
func (s *Server) askStore(ctx context.Context, w *work) {
	if len(w.requests) == 0 {
		return
	}
	if latency := s.metrics.storeLatency; latency != nil {
		defer latency.Since(durations.Start())
	}
	s.store.Decide(ctx, w.requests, w.results)
}

// free makes w ready for another call, holding on to nothing of this one's.
func (w *work) free() {
	clear(w.requests)
	clear(w.limits)
	clear(w.routes)
	w.limits, w.last = w.limits[:0], lastLimits{}
	works.Put(w)
}

// resized returns s with length n. Its elements keep what they held.
func resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// answer turns what the store said of a request, which named a policy or none,
// into what its caller is told.
func (s *Server) answer(ctx context.Context, ns *policy.Namespace, policyName string, r *store.Request, res *store.Result, made *responses, count *tally) (*ratelimitv1.ShouldAllowResponse, error) {
	if res.Err != nil {
		return s.answerFailure(ctx, ns, r, res.Err, made)
	}
	if !res.Repeated && r.Counts() {
		s.failure.recovered(s.logger)
	}
	count.checked(s.metrics, r, policyName, res.Statuses)
	count.asked(s.hotKeys, r.Identifier, !res.Allowed)
	response := made.to(r, &res.Decision)
	switch response.GetReason() {
	case ratelimitv1.Reason_OVER_LIMIT:
		count.decided(s.metrics, r.Namespace, outcomeDenied)
	case ratelimitv1.Reason_UNLIMITED:
		count.decided(s.metrics, r.Namespace, outcomeUnlimited)
	case ratelimitv1.Reason_SHADOW:
		count.decided(s.metrics, r.Namespace, outcomeShadow)
	default:
		count.decided(s.metrics, r.Namespace, outcomeAllowed)
	}
	return response, nil
}
