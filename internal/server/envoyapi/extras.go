package envoyapi

import (
	"cmp"
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
)

// Settings say how the service answers. The zero Settings are the defaults of
// envoyproxy/ratelimit.
type Settings struct {
	ShadowMode      bool // the overall answer is always OK
	QuotaMode       bool // every limit is a quota
	AllOrNone       bool // where the store can, a request consumes of all its descriptors or of none
	DynamicMetadata bool // the answer has the request, and what its limits have for Envoy

	// Overdraw is that of limits which have none, nor has their domain. "" is OverdrawOnce.
	// With AllOrNone it is OverdrawNone.
	Overdraw envoy.Overdraw

	NearLimitRatio float64 // how much of a limit is near it, in metrics

	ResponseHeaders bool // the answer has headers for Envoy's client, with these names
	LimitHeader     string
	RemainingHeader string
	ResetHeader     string
}

// SettingsOf returns those of a configuration.
func SettingsOf(e *config.Envoy) Settings {
	return Settings{
		ShadowMode: e.ShadowMode, QuotaMode: e.QuotaMode, AllOrNone: e.AllOrNone, Overdraw: e.Overdraw, DynamicMetadata: e.DynamicMetadata,
		NearLimitRatio:  e.NearLimitRatio,
		ResponseHeaders: e.ResponseHeaders, LimitHeader: e.LimitHeader, RemainingHeader: e.RemainingHeader, ResetHeader: e.ResetHeader,
	}
}

// isQuota reports whether a descriptor with what m has can be over its limit and the
// request within it. With QuotaMode that is one without a limit too.
func (s *Settings) isQuota(m *envoy.Match) bool {
	if m.Limit == nil {
		return s.QuotaMode
	}
	return (s.QuotaMode || m.QuotaMode) && !m.Unlimited()
}

// overdraw returns the Overdraw of limits that have none, nor has their domain.
func (s *Settings) overdraw() envoy.Overdraw {
	if s.AllOrNone { // what one descriptor denies is charged to no other, and so not to it
		return envoy.OverdrawNone
	}
	return cmp.Or(s.Overdraw, envoy.OverdrawOnce)
}

// headers returns the headers that tell a client of the limit it is over, of the one
// that lasts longest if there are several, or else of the one it is closest to.
func (s *Settings) headers(statuses []*rlsv3.RateLimitResponse_DescriptorStatus) []*corev3.HeaderValue {
	var closest *rlsv3.RateLimitResponse_DescriptorStatus
	for _, st := range statuses {
		if st.GetCurrentLimit() == nil {
			continue
		}
		if closest == nil || tellsMore(st, closest) {
			closest = st
		}
	}
	if closest == nil {
		return nil
	}
	return []*corev3.HeaderValue{
		{Key: s.LimitHeader, Value: strconv.FormatUint(uint64(closest.GetCurrentLimit().GetRequestsPerUnit()), 10)},
		{Key: s.RemainingHeader, Value: strconv.FormatUint(uint64(closest.GetLimitRemaining()), 10)},
		{Key: s.ResetHeader, Value: strconv.FormatInt(closest.GetDurationUntilReset().GetSeconds(), 10)},
	}
}

// tellsMore reports whether st is of more interest to a client than other is.
func tellsMore(st, other *rlsv3.RateLimitResponse_DescriptorStatus) bool {
	switch {
	case st.GetCode() != other.GetCode():
		return st.GetCode() == rlsv3.RateLimitResponse_OVER_LIMIT
	case st.GetCode() == rlsv3.RateLimitResponse_OVER_LIMIT:
		return st.GetDurationUntilReset().GetSeconds() > other.GetDurationUntilReset().GetSeconds()
	default:
		return st.GetLimitRemaining() < other.GetLimitRemaining()
	}
}

// metadata returns the request, which of its quotas it is over, and what the
// limits that it is within have for Envoy to pass on.
func (s *Settings) metadata(in *request, matches []envoy.Match, statuses []*rlsv3.RateLimitResponse_DescriptorStatus, overQuota []int) *structpb.Struct {
	quota := slices.ContainsFunc(matches, func(m envoy.Match) bool { return s.isQuota(&m) })
	fields := map[string]*structpb.Value{
		"domain":           structpb.NewStringValue(text(in.domain)),
		"descriptors":      listOf(in.descriptors, in.descriptorValue),
		"quotaModeEnabled": structpb.NewBoolValue(quota),
	}
	if in.hits > 0 {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(in.hits))
	}
	within := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i, m := range matches {
		if m.Limit != nil && !m.Unlimited() && statuses[i].GetCode() == rlsv3.RateLimitResponse_OK {
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

func (r *request) descriptorValue(d descriptor) *structpb.Value {
	fields := map[string]*structpb.Value{"entries": listOf(r.entriesOf(&d), func(e envoy.Entry) *structpb.Value {
		return structpb.NewStringValue(text(e.Key) + "=" + text(e.Value))
	})}
	if d.limit != nil {
		fields["limit"] = structpb.NewStringValue(d.limit.String())
	}
	if d.hits != nil {
		fields["hitsAddend"] = structpb.NewNumberValue(float64(*d.hits))
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
