package server

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/durations"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// EnvoyOptions say how Envoy's rate limit service is answered. The zero
// EnvoyOptions are that service's own defaults.
type EnvoyOptions struct {
	ShadowMode      bool // the overall answer is always OK
	AllOrNone       bool // where the store can, a request consumes of all its descriptors or of none
	DynamicMetadata bool // the answer has the request, and what its limits have for Envoy

	ResponseHeaders bool   // the answer has these headers for Envoy's client
	LimitHeader     string // "": RateLimit-Limit
	RemainingHeader string // "": RateLimit-Remaining
	ResetHeader     string // "": RateLimit-Reset
}

// An envoyService answers envoy.service.ratelimit.v3.RateLimitService.
type envoyService struct {
	rlsv3.UnimplementedRateLimitServiceServer
	*Server
}

// ShouldRateLimit implements rlsv3.RateLimitServiceServer. Each descriptor is
// decided on its own, all of them in one trip to the store.
func (s envoyService) ShouldRateLimit(ctx context.Context, in *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	defer s.metrics.latency[methodEnvoy].Since(durations.Start())
	config := s.config.Load()
	matches, err := matchDescriptors(config.Envoy, in)
	if err != nil {
		s.metrics.refused.Inc()
		return nil, err
	}
	w := works.Get().(*work)
	defer w.free()
	places := s.gather(w, in, matches)
	w.results = resized(w.results, len(w.requests))
	s.askStore(ctx, w)

	out := &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OK, Statuses: make([]*rlsv3.RateLimitResponse_DescriptorStatus, len(matches))}
	ns := config.Policies.Namespace(in.GetDomain())
	var overQuota []int // of the descriptors of quotas, those that are over
	quotas := 0
	for i, m := range matches {
		status := &rlsv3.RateLimitResponse_DescriptorStatus{Code: rlsv3.RateLimitResponse_OK}
		out.Statuses[i] = status
		switch {
		case m.Limit == nil:
			continue
		case m.Unlimited:
			status.LimitRemaining = math.MaxUint32
			s.metrics.decided(in.GetDomain(), outcomeUnlimited)
			continue
		}
		at := places[i]
		over, err := s.describe(ctx, ns, &m, &w.requests[at], &w.results[at], status)
		if m.QuotaMode {
			quotas++
		}
		switch {
		case err != nil:
			return nil, err
		case !over || m.ShadowMode:
		case m.QuotaMode:
			status.Code = rlsv3.RateLimitResponse_OVER_LIMIT
			overQuota = append(overQuota, i)
		default:
			status.Code, out.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT, rlsv3.RateLimitResponse_OVER_LIMIT
		}
	}
	if quotas > 0 && len(overQuota) == quotas { // one that is not can be served from
		out.OverallCode = rlsv3.RateLimitResponse_OVER_LIMIT
	}
	if s.envoy.ResponseHeaders {
		out.ResponseHeadersToAdd = s.envoy.headers(out.Statuses)
	}
	if s.envoy.ShadowMode {
		out.OverallCode = rlsv3.RateLimitResponse_OK
	}
	if s.envoy.DynamicMetadata {
		out.DynamicMetadata = metadata(in, matches, out.Statuses, overQuota)
	}
	return out, nil
}

// gather puts what the store is to be asked into w, and returns where there the
// request of each match is. Those that can deny, if they are to be held all or
// none, are joined.
func (s envoyService) gather(w *work, in *rlsv3.RateLimitRequest, matches []envoy.Match) (places []int) {
	places = make([]int, len(matches))
	w.requests = w.requests[:0]
	add := func(i int, joined bool) {
		m := &matches[i]
		w.limits = append(w.limits, m.Limit.Limit)
		places[i] = len(w.requests)
		w.requests = append(w.requests, store.Request{
			Namespace: in.GetDomain(), Identifier: m.Identifier, Limits: w.limits[len(w.limits)-1:], Cost: hits(in, i),
			Joined: joined && len(w.requests) > 0,
		})
	}
	joins := func(m *envoy.Match) bool { return s.envoy.AllOrNone && !m.ShadowMode && !m.QuotaMode }
	for i := range matches {
		if m := &matches[i]; m.Limit != nil && !m.Unlimited && joins(m) {
			add(i, true)
		}
	}
	for i := range matches {
		if m := &matches[i]; m.Limit != nil && !m.Unlimited && !joins(m) {
			add(i, false)
		}
	}
	return places
}

// describe sets status to what the store said of a descriptor, but for its
// code, and reports whether it is over its limit.
func (s envoyService) describe(ctx context.Context, ns *policy.Namespace, m *envoy.Match, r *store.Request, res *store.Result, status *rlsv3.RateLimitResponse_DescriptorStatus) (over bool, err error) {
	status.CurrentLimit = &rlsv3.RateLimitResponse_RateLimit{
		Name: m.RuleName, RequestsPerUnit: m.RequestsPerUnit, Unit: rlsv3.RateLimitResponse_RateLimit_Unit(m.Unit),
	}
	if m.Multiplier > 1 {
		status.CurrentLimit.UnitMultiplier = wrapperspb.UInt32(m.Multiplier)
	}
	d := &res.Decision
	if res.Err != nil {
		var counted bool
		if d, counted, err = s.failedDecision(ctx, ns, r, res.Err); err != nil || !counted {
			return err == nil && !d.Allowed, err
		}
	} else {
		if !res.Repeated {
			s.failure.recovered(s.logger)
		}
		s.metrics.checks[r.Limits[0].Strategy].count(d.Allowed)
		s.hotKeys.Record(r.Namespace, r.Identifier, !d.Allowed)
		switch {
		case d.Allowed:
			s.metrics.decided(r.Namespace, outcomeAllowed)
		case m.ShadowMode || m.QuotaMode || s.envoy.ShadowMode:
			s.metrics.decided(r.Namespace, outcomeShadow)
		default:
			s.metrics.decided(r.Namespace, outcomeDenied)
		}
	}
	status.LimitRemaining = uint32(min(d.Statuses[0].Remaining, math.MaxUint32))
	status.DurationUntilReset = durationpb.New(untilReset(m.Limit, &d.Statuses[0]))
	// Who asks for nothing wants to know whether there is anything left.
	over = !d.Allowed || r.Cost == 0 && d.Statuses[0].Remaining == 0
	s.metrics.envoy.count(m.Metric, r.Cost, over, m.ShadowMode || s.envoy.ShadowMode)
	return over, nil
}

// untilReset returns how long until the counter of l is as if never used: of a
// window that nothing was taken from, until that window ends.
func untilReset(l *envoy.Limit, st *strategy.Status) time.Duration {
	if st.ResetAfter > 0 || l.Strategy != strategy.FixedWindow {
		return st.ResetAfter
	}
	return l.Rate.Period - time.Duration(time.Now().UnixMicro()%l.Rate.Period.Microseconds())*time.Microsecond
}

// hits returns how much descriptor i of in asks for.
func hits(in *rlsv3.RateLimitRequest, i int) uint64 {
	if own := in.GetDescriptors()[i].GetHitsAddend(); own != nil {
		return own.GetValue()
	}
	return uint64(max(1, in.GetHitsAddend()))
}

// matchDescriptors validates in and returns what each of its descriptors is
// held to.
func matchDescriptors(config *envoy.Config, in *rlsv3.RateLimitRequest) ([]envoy.Match, error) {
	var wrong violations
	if in.GetDomain() == "" {
		wrong.add("domain", `empty; give one, such as "edge"`)
	}
	if n := len(in.GetDescriptors()); n == 0 || n > maxBatch {
		wrong.add("descriptors", fmt.Sprintf("%d descriptors; give 1 to %d", n, maxBatch))
		return nil, wrong.err()
	}
	matches := make([]envoy.Match, len(in.GetDescriptors()))
	var entries []envoy.Entry
	for i, d := range in.GetDescriptors() {
		entries = entries[:0]
		for _, e := range d.GetEntries() {
			entries = append(entries, envoy.Entry{Key: e.GetKey(), Value: e.GetValue()})
		}
		if d.GetIsNegativeHits() {
			wrong.add(fmt.Sprintf("descriptors[%d].is_negative_hits", i), "hits can not be given back; leave it out")
		}
		own := d.GetLimit()
		if own == nil {
			matches[i] = config.Match(in.GetDomain(), entries)
			continue
		}
		multiplier := uint32(1)
		if own.GetUnitMultiplier() != nil {
			multiplier = own.GetUnitMultiplier().GetValue()
		}
		l, err := envoy.NewLimit(own.GetRequestsPerUnit(), envoy.Unit(own.GetUnit()), multiplier)
		if err != nil {
			wrong.add(fmt.Sprintf("descriptors[%d].limit", i), err.Error())
		} else if config.Knows(in.GetDomain()) {
			matches[i] = envoy.Override(in.GetDomain(), entries, l)
		}
	}
	if wrong != nil {
		return nil, wrong.err()
	}
	if replaced := envoy.Replaced(matches); replaced != nil {
		for i := range matches {
			if matches[i].Limit != nil && slices.Contains(replaced, matches[i].RuleName) {
				matches[i] = envoy.Match{}
			}
		}
	}
	return matches, nil
}

// headers returns the headers that tell a client of the limit it is over, or
// else of that which it is closest to.
func (o *EnvoyOptions) headers(statuses []*rlsv3.RateLimitResponse_DescriptorStatus) []*corev3.HeaderValue {
	var closest *rlsv3.RateLimitResponse_DescriptorStatus
	for _, st := range statuses {
		if st.GetCurrentLimit() == nil {
			continue
		}
		if closest == nil || st.GetCode() > closest.GetCode() || st.GetCode() == closest.GetCode() && st.GetLimitRemaining() < closest.GetLimitRemaining() {
			closest = st
		}
	}
	if closest == nil {
		return nil
	}
	named := func(name, otherwise string) string {
		if name == "" {
			return otherwise
		}
		return name
	}
	reset := math.Ceil(closest.GetDurationUntilReset().AsDuration().Seconds())
	return []*corev3.HeaderValue{
		{Key: named(o.LimitHeader, "RateLimit-Limit"), Value: strconv.FormatUint(uint64(closest.GetCurrentLimit().GetRequestsPerUnit()), 10)},
		{Key: named(o.RemainingHeader, "RateLimit-Remaining"), Value: strconv.FormatUint(uint64(closest.GetLimitRemaining()), 10)},
		{Key: named(o.ResetHeader, "RateLimit-Reset"), Value: strconv.FormatFloat(reset, 'f', 0, 64)},
	}
}

// metadata returns the request, which of its quotas it is over, and what the
// limits that it is within have for Envoy to pass on.
func metadata(in *rlsv3.RateLimitRequest, matches []envoy.Match, statuses []*rlsv3.RateLimitResponse_DescriptorStatus, overQuota []int) *structpb.Struct {
	quota := slices.ContainsFunc(matches, func(m envoy.Match) bool { return m.Limit != nil && m.QuotaMode })
	fields := map[string]*structpb.Value{
		"domain":           structpb.NewStringValue(in.GetDomain()),
		"descriptors":      listOf(in.GetDescriptors(), descriptorValue),
		"quotaModeEnabled": structpb.NewBoolValue(quota),
	}
	if in.GetHitsAddend() > 0 {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(in.GetHitsAddend()))
	}
	within := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i, m := range matches {
		if m.Limit != nil && statuses[i].GetCode() == rlsv3.RateLimitResponse_OK {
			if own, err := structpb.NewStruct(m.Metadata); err == nil { // it has been read from a file, as UTF-8
				merge(within, own)
			}
		}
	}
	if len(within.GetFields()) > 0 {
		fields["metadata"] = structpb.NewStructValue(within)
	}
	if overQuota != nil {
		fields["quotaModeViolations"] = listOf(overQuota, func(i int) *structpb.Value { return structpb.NewNumberValue(float64(i)) })
	}
	return &structpb.Struct{Fields: fields}
}

// merge adds to the fields of to those of from that it does not have.
func merge(to, from *structpb.Struct) {
	for key, value := range from.GetFields() {
		if has, ok := to.GetFields()[key]; !ok {
			to.Fields[key] = value
		} else if has.GetStructValue() != nil && value.GetStructValue() != nil {
			merge(has.GetStructValue(), value.GetStructValue())
		}
	}
}

func descriptorValue(d *commonv3.RateLimitDescriptor) *structpb.Value {
	fields := map[string]*structpb.Value{"entries": listOf(d.GetEntries(), func(e *commonv3.RateLimitDescriptor_Entry) *structpb.Value {
		return structpb.NewStringValue(e.GetKey() + "=" + e.GetValue())
	})}
	if own := d.GetHitsAddend(); own != nil {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(own.GetValue()))
	}
	return structpb.NewStructValue(&structpb.Struct{Fields: fields})
}

func listOf[T any](items []T, value func(T) *structpb.Value) *structpb.Value {
	values := make([]*structpb.Value, len(items))
	for i, item := range items {
		values[i] = value(item)
	}
	return structpb.NewListValue(&structpb.ListValue{Values: values})
}
