// Package envoyapi is the front of Envoy's rate limit protocol,
// envoy.service.ratelimit.v3: it decodes, calls the core, and encodes.
package envoyapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// Options say how to make an API. Core, Book, Faults and Latency are required.
type Options struct {
	Settings

	MaxBodyBytes int64 // of POST /json, which has a bound of its own too
	Core         *decide.Core
	Book         *account.Book
	Faults       *fault.Log
	Latency      *histogram.Histogram
	Turns        *turns.Turns // of large bodies
}

// An API answers envoy.service.ratelimit.v3.RateLimitService. New makes it.
type API struct {
	o         Options
	config    atomic.Pointer[envoy.Config]
	calls     calls
	loads     loads
	exchanges sync.Pool // of *exchange
}

// New returns an API without configuration.
func New(o Options) *API {
	return &API{o: o, exchanges: sync.Pool{New: func() any { return new(exchange) }}}
}

// SetConfig puts c in force, nil for none, for each request from now on.
func (a *API) SetConfig(c *envoy.Config) {
	a.config.Store(c)
	if !c.IsAwaited() {
		a.loads.applied.Add(1)
	}
}

// RefuseConfig counts a configuration that cannot be used.
func (a *API) RefuseConfig() { a.loads.refused.Add(1) }

// Collector returns what shows a by the names of envoyproxy/ratelimit.
func (a *API) Collector() prometheus.Collector { return collector{a.o.Book, &a.calls, &a.loads} }

// Register has s serve the API.
func (a *API) Register(s *grpc.Server) {
	d := rlsv3.RateLimitService_ServiceDesc
	d.Methods = slices.Clone(d.Methods)
	info := &grpc.UnaryServerInfo{Server: a, FullMethod: rlsv3.RateLimitService_ShouldRateLimit_FullMethodName}
	answer := func(ctx context.Context, in any) (any, error) { return a.shouldRateLimit(ctx, in.(*request)) }
	d.Methods[0].Handler = func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		in := new(request)
		if err := decode(in); err != nil {
			return nil, err
		}
		if in.err != nil {
			a.calls.invalid.Add(1)
			return nil, a.o.Faults.Undecodable(ctx, info.FullMethod, in.err)
		}
		a.calls.begun.Add(1)
		out, err := intercept(ctx, in, info, answer)
		a.calls.failed(err)
		return out, err
	}
	s.RegisterService(&d, nil) // a is not of the generated interface, whose messages are the generated ones
}

var (
	_ codec.Receiver    = (*request)(nil)
	_ codec.WireMessage = (*request)(nil)
)

// An exchange is what one request is held to, and its answers. It is used again
// for others.
type exchange struct {
	batch   decide.Batch
	matches []envoy.Match    // of each descriptor
	limits  []strategy.Limit // of all matches
	places  []int            // of each match, its place in the batch; -1: none
	over    []bool           // of each match, whether it is over its limit
}

func (a *API) free(e *exchange) {
	e.batch.Clear()
	clear(e.matches)
	clear(e.limits)
	a.exchanges.Put(e)
}

// fewStatuses are so small that a reply of them need not be counted.
const fewStatuses = 16

// shouldRateLimit decides each descriptor on its own, all of them in one trip to
// the store.
func (a *API) shouldRateLimit(ctx context.Context, in *request) (*rlsv3.RateLimitResponse, error) {
	defer a.o.Latency.Since(histogram.Start())
	e := a.exchanges.Get().(*exchange)
	defer a.free(e)
	// Here too: a descriptor without a limit does not become a request.
	if err := a.o.Core.Permit(ctx, auth.Decide, in.domain, ""); err != nil {
		return nil, fault.Error(err)
	}
	if err := a.match(ctx, e, in); err != nil {
		return nil, err
	}
	a.gather(e, in)
	a.o.Core.Decide(ctx, &e.batch)
	over, err := a.judge(e)
	if err != nil {
		return nil, err
	}

	out := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK, Statuses: make([]*rlsv3.RateLimitResponse_DescriptorStatus, len(e.matches))}
	if over {
		out.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	var overQuota []int // of the descriptors of quotas, those that are over
	for i := range e.matches {
		status := &rlsv3.RateLimitResponse_DescriptorStatus{Code: rlsv3.RateLimitResponse_OK}
		out.Statuses[i] = status
		m := &e.matches[i]
		if e.places[i] >= 0 {
			a.describe(m, &e.batch.Answers[e.places[i]], status)
		}
		if e.over[i] && !m.ShadowMode {
			status.Code = rlsv3.RateLimitResponse_OVER_LIMIT
			if a.o.isQuota(m) {
				overQuota = append(overQuota, i)
			}
		}
	}
	if a.o.ResponseHeaders {
		out.ResponseHeadersToAdd = a.o.headers(out.Statuses)
	}
	if a.o.DynamicMetadata {
		out.DynamicMetadata = a.o.metadata(in, e.matches, out.Statuses, overQuota)
	}
	if len(out.GetStatuses()) > fewStatuses || a.o.DynamicMetadata {
		inflight.CallFrom(ctx).Reply(proto.Size(out))
	}
	return out, nil
}

// match sets what each descriptor of in is held to. The error is of a request that
// holds nothing to.
func (a *API) match(ctx context.Context, e *exchange, in *request) error {
	var wrong decide.InvalidError
	if in.domain == "" {
		wrong.Add("domain", `empty; give one, such as "edge"`)
	}
	switch {
	case len(in.descriptors) == 0:
		wrong.Add("descriptors", "no descriptors; give 1 to %d", maxDescriptors)
	case in.tooMany != "":
		wrong.Add("descriptors", "%s", in.tooMany)
	}
	if wrong.Violations != nil {
		return fault.Error(a.o.Core.RefuseInvalid(&wrong))
	}
	config := a.config.Load()
	if config.IsAwaited() {
		return fault.ErrAwaited
	}
	e.matches = decide.Resized(e.matches, len(in.descriptors))
	for i := range in.descriptors {
		a.bar(ctx, in, i)
		e.matches[i] = a.matchOne(config, in, i)
		e.matches[i].Overdraw = cmp.Or(e.matches[i].Overdraw, a.o.overdraw())
	}
	if replaced := envoy.Replaced(e.matches); replaced != nil {
		for i := range e.matches {
			if m := &e.matches[i]; m.Limit != nil && !m.Unlimited() && slices.Contains(replaced, m.RuleName) {
				*m = envoy.Match{}
			}
		}
	}
	return nil
}

// bar has the hits of a descriptor be ignored if they are to be given back by who may not
// do so. A refusal would be an error for all descriptors, and set them free.
func (a *API) bar(ctx context.Context, in *request, i int) {
	d := &in.descriptors[i]
	if !d.negative {
		return
	}
	if err := a.o.Core.Permit(ctx, auth.Refund, in.domain, ""); err != nil {
		d.barred = true
		a.o.Faults.Ignore(in.domain, fmt.Sprintf("descriptors[%d].is_negative_hits", i), err.Error()+"; nothing is given back")
	}
}

// matchOne returns what a descriptor is held to. What is wrong with it is ignored,
// on the safe side, so that the others are not let pass for it.
func (a *API) matchOne(config *envoy.Config, in *request, i int) envoy.Match {
	d, entries := &in.descriptors[i], in.entriesOf(&in.descriptors[i])
	if d.limit == nil || !config.Knows(in.domain) {
		return config.Match(in.domain, entries)
	}
	multiplier := uint32(1)
	if d.limit.multiplier != nil {
		multiplier = *d.limit.multiplier
	}
	l, err := envoy.NewLimit(d.limit.requests, d.limit.unit, multiplier)
	if err != nil {
		a.o.Faults.Ignore(in.domain, fmt.Sprintf("descriptors[%d].limit", i), err.Error()+"; the configured limit applies")
		return config.Match(in.domain, entries)
	}
	return envoy.Override(in.domain, entries, l, config.Overdraw(in.domain))
}

// gather puts what the core is to be asked into the batch of e. Those that are held all
// or none come first: what they do not deny, they do not count either.
func (a *API) gather(e *exchange, in *request) {
	e.places = decide.Resized(e.places, len(e.matches))
	parts := 0
	for i := range e.places {
		e.places[i] = -1
		if e.matches[i].Limit != nil {
			parts += len(e.matches[i].Parts)
		}
	}
	e.limits = decide.Resized(e.limits, parts)
	free := e.limits
	together := func(i int) bool {
		m, d := &e.matches[i], &in.descriptors[i]
		return a.o.AllOrNone && !a.enforcesNothing(m) && modeOf(m, d, in.hitsOf(d)) == strategy.Take
	}
	for _, first := range []bool{true, false} {
		for i := range e.matches {
			m := &e.matches[i]
			if m.Limit == nil || together(i) != first {
				continue
			}
			n := len(m.Parts)
			limits := free[:n:n]
			free = free[n:]
			for j := range m.Parts {
				limits[j] = m.Parts[j].Limit
				limits[j].Shadow = a.enforcesNothing(m)
			}
			e.places[i] = len(e.batch.Requests)
			r := decide.Request{Namespace: in.domain, Identifier: m.Identifier, Limits: limits, Cost: in.hitsOf(&in.descriptors[i])}
			r.Mode = modeOf(m, &in.descriptors[i], r.Cost)
			r.Enforced = r.Mode == strategy.Charge
			e.batch.Requests = append(e.batch.Requests, r)
		}
		if first {
			e.batch.Together = len(e.batch.Requests)
		}
	}
}

// modeOf returns what n hits of d, which is held to m, do with its limit.
func modeOf(m *envoy.Match, d *descriptor, n uint64) strategy.Mode {
	switch {
	case d.givesBack():
		return strategy.Refund
	case m.Overdraw == envoy.OverdrawNone:
		return strategy.Take
	case m.Overdraw == envoy.OverdrawAlways && n > 0:
		return strategy.Charge
	default: // one of nothing is denied by a limit in debt
		return strategy.Overdraw
	}
}

// enforcesNothing reports whether the limit of m alone never denies a request.
func (a *API) enforcesNothing(m *envoy.Match) bool {
	return m.ShadowMode || a.o.ShadowMode || a.o.isQuota(m)
}

// judge sets, for each descriptor of e, whether it is over its limit, and reports whether the
// request is. A descriptor that is a quota counts only if all that are quotas are over.
func (a *API) judge(e *exchange) (over bool, err error) {
	e.over = decide.Resized(e.over, len(e.matches))
	quotas, overQuotas := 0, 0
	for i := range e.matches {
		m := &e.matches[i]
		quota := a.o.isQuota(m)
		if quota {
			quotas++
		}
		e.over[i] = false
		if e.places[i] < 0 {
			continue
		}
		if e.over[i], err = a.isOver(m, &e.batch.Requests[e.places[i]], &e.batch.Answers[e.places[i]]); err != nil {
			return false, err
		}
		switch {
		case !e.over[i] || m.ShadowMode:
		case quota:
			overQuotas++
		default:
			over = true
		}
	}
	if quotas > 0 && overQuotas == quotas { // a quota that is not over can be served from
		over = true
	}
	return over && !a.o.ShadowMode, nil
}

// isOver reports whether a descriptor is over its limit by what the core said of it, and
// accounts for its hits.
func (a *API) isOver(m *envoy.Match, r *decide.Request, answer *decide.Answer) (over bool, err error) {
	_, isOverload := errors.AsType[*store.Overload](answer.Err)
	if answer.Err != nil && !isOverload {
		return false, fault.Error(answer.Err)
	}
	switch {
	case !isCounted(m, answer):
		return false, nil
	case isOverload:
		// An error would be no answer: Envoy lets a request pass that it gets an error
		// for, unless it is told otherwise. So asking for much would set a limit free.
		return true, nil
	case len(answer.Decision.Statuses) == 0: // the failure policy answered
		return !answer.Decision.Allowed, nil
	case r.Mode == strategy.Refund:
		return false, nil
	}
	st := &answer.Decision.Statuses[tellingPart(answer.Decision.Statuses)]
	// A request for nothing wants to know whether there is anything left. Under
	// OverdrawAlways it is over only once more than the limit was taken, as there. Under the
	// others, reports of what was let pass at nothing left would never count. A limit of 0
	// has nothing to count: it would let pass all that ask for nothing first.
	over = !st.Allowed || r.Cost == 0 && st.Remaining == 0 && (m.Overdraw != envoy.OverdrawAlways || st.Limit == 0)
	hits := account.Hits{N: r.Cost, Shadow: m.ShadowMode || a.o.ShadowMode}
	if over {
		hits.Over = r.Cost
		if r.Mode != strategy.Take && !answer.Decision.Refused && !a.enforcesNothing(m) && st.Limit > 0 {
			hits.Over = min(r.Cost, st.Debt) // for the others there was room
		}
	}
	hits.Near = near(a.o.NearLimitRatio, st, hits.N-hits.Over)
	a.o.Book.Hit(m.Metric, hits)
	return over, nil
}

// isCounted reports whether answer is about a limit of m. Nobody knows what is left of a
// limit while the store fails: it is not said to be nothing.
func isCounted(m *envoy.Match, answer *decide.Answer) bool {
	return answer.Outcome != decide.Exempt && answer.Outcome != decide.FailedOpen && !m.Unlimited()
}

// describe sets status to what the core said of a descriptor, but for its code.
func (a *API) describe(m *envoy.Match, answer *decide.Answer, status *rlsv3.RateLimitResponse_DescriptorStatus) {
	if !isCounted(m, answer) {
		status.LimitRemaining = math.MaxUint32
		return
	}
	told := tellingPart(answer.Decision.Statuses)
	part := &m.Parts[told]
	status.CurrentLimit = &rlsv3.RateLimitResponse_RateLimit{
		Name: m.RuleName, RequestsPerUnit: part.RequestsPerUnit, Unit: rlsv3.RateLimitResponse_RateLimit_Unit(part.Unit),
	}
	if part.Multiplier > 1 {
		status.CurrentLimit.UnitMultiplier = wrapperspb.UInt32(part.Multiplier)
	}
	if overload, isOverload := errors.AsType[*store.Overload](answer.Err); isOverload {
		status.DurationUntilReset = durationpb.New(overload.RetryAfter)
		return
	}
	if len(answer.Decision.Statuses) == 0 { // the failure policy answered
		return
	}
	st := &answer.Decision.Statuses[told]
	status.LimitRemaining = uint32(min(remaining(part, st), math.MaxUint32))
	status.DurationUntilReset = durationpb.New(untilReset(part, st))
}

// tellingPart returns which part of a limit the answer is about, by what the store said
// of each: of those that deny the one that does for longest, or else the one that least
// is left of.
func tellingPart(statuses []strategy.Status) (told int) {
	for i := range statuses {
		st, best := &statuses[i], &statuses[told]
		switch {
		case st.Allowed != best.Allowed:
			if !st.Allowed {
				told = i
			}
		case !st.Allowed:
			if best.RetryAfter != strategy.Never && (st.RetryAfter == strategy.Never || st.RetryAfter > best.RetryAfter) {
				told = i
			}
		case st.Remaining < best.Remaining:
			told = i
		}
	}
	return told
}

// remaining returns what is left of the number that p has, which may be above what is
// counted to.
func remaining(p *envoy.Part, st *strategy.Status) uint64 {
	if uncounted := int64(p.RequestsPerUnit) - p.Rate.Count; st.Remaining > 0 && uncounted > 0 && p.Capacity == p.Rate.Count {
		return st.Remaining + uint64(uncounted)
	}
	return st.Remaining
}

// untilReset returns how long until a request that was denied can pass; or else how
// long until the counter of p is as if never used, and of a window that nothing was
// taken from, until that window ends. It is in whole seconds, as Envoy drops what is
// below, and rounded up.
func untilReset(p *envoy.Part, st *strategy.Status) time.Duration {
	wait := st.ResetAfter
	switch {
	case !st.Allowed && st.RetryAfter != strategy.Never:
		wait = st.RetryAfter
	case wait == 0 && p.Strategy == strategy.FixedWindow:
		now := strategy.InstantOf(time.Now())
		_, end := p.Window(now)
		wait = time.Duration(end-now) * time.Microsecond
	}
	whole := wait.Truncate(time.Second)
	if whole < wait {
		whole += time.Second
	}
	return whole
}

// ShowConfig returns what answers GET /rlconfig: the configuration in force.
// namespaces returns our own policies, as YAML.
func (a *API) ShowConfig(namespaces func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, a.config.Load().String())
		if text := namespaces(); text != "" {
			fmt.Fprintf(w, "namespaces:\n    %s", strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ")+"\n")
		}
	}
}
