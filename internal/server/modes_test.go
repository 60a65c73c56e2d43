package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// fronts ask a daemon the same request in each way that the API has.
func fronts(t *testing.T, d *daemon) map[string]func(*ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
	one := func(r *ratelimitv1.ShouldAllowRequest) *ratelimitv1.ShouldAllowBatchRequest {
		return &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{r}}
	}
	first := func(out *ratelimitv1.ShouldAllowBatchResponse, err error) (*ratelimitv1.ShouldAllowResponse, error) {
		if err != nil {
			return nil, err
		}
		return out.GetResults()[0].GetResponse(), status.FromProto(out.GetResults()[0].GetError()).Err()
	}
	return map[string]func(*ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error){
		"unary": func(r *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
			return d.client.ShouldAllow(t.Context(), r)
		},
		"batch": func(r *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
			return first(d.client.ShouldAllowBatch(t.Context(), one(r)))
		},
		"stream": func(r *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := d.client.ShouldAllowStream(ctx)
			if err != nil {
				return nil, err
			}
			if err := stream.Send(one(r)); err != nil {
				return nil, err
			}
			return first(stream.Recv())
		},
		"http": func(r *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
			body, err := protojson.Marshal(r)
			if err != nil {
				return nil, err
			}
			reply, text := d.post(t, strings.ReplaceAll(string(body), `"CHARGE"`, `"charge"`)) // either case
			if reply.StatusCode != http.StatusOK {
				return nil, status.Error(codes.InvalidArgument, text)
			}
			out := new(ratelimitv1.ShouldAllowResponse)
			return out, protojson.Unmarshal([]byte(text), out)
		},
	}
}

// TestModes has a known sequence over every front: the limit is 1,000 an hour, and each answer
// costs 400.
func TestModes(t *testing.T) {
	const take, charge, refund = ratelimitv1.Mode_TAKE, ratelimitv1.Mode_CHARGE, ratelimitv1.Mode_REFUND
	d := start(t, Options{})
	midnight := timestamppb.New(time.Unix(1_767_225_600, 0))
	n := 0.0
	for front, ask := range fronts(t, d) {
		n++
		for i, step := range []struct {
			mode       ratelimitv1.Mode
			cost       uint64
			consumedAt *timestamppb.Timestamp
			dryRun     bool
			allowed    bool
			reason     ratelimitv1.Reason
			remaining  uint64
			retry      time.Duration // 0: none
		}{
			{mode: charge, cost: 400, allowed: true, reason: ratelimitv1.Reason_WITHIN_LIMIT, remaining: 600},
			{mode: take, cost: 1, allowed: true, reason: ratelimitv1.Reason_WITHIN_LIMIT, remaining: 599},
			{mode: charge, cost: 400, allowed: true, reason: ratelimitv1.Reason_WITHIN_LIMIT, remaining: 199},
			{mode: charge, cost: 400, dryRun: true, reason: ratelimitv1.Reason_OVER_LIMIT, remaining: 199, retry: time.Hour},
			{mode: charge, cost: 400, reason: ratelimitv1.Reason_OVER_LIMIT, remaining: 0, retry: time.Hour},
			{mode: take, cost: 1, reason: ratelimitv1.Reason_OVER_LIMIT, remaining: 0, retry: time.Hour},
			{mode: charge, cost: 4000, reason: ratelimitv1.Reason_OVER_LIMIT, remaining: 0}, // cut at max_debt, and never allowed
			{mode: refund, cost: 299, consumedAt: midnight, allowed: true, reason: ratelimitv1.Reason_WITHIN_LIMIT, remaining: 0},
			{mode: refund, cost: 6, consumedAt: timestamppb.New(midnight.AsTime().Add(-time.Second)), allowed: true, reason: ratelimitv1.Reason_WITHIN_LIMIT, remaining: 0},
			{mode: refund, cost: 6, allowed: true, reason: ratelimitv1.Reason_WITHIN_LIMIT, remaining: 5},
			{mode: refund, cost: 9999, allowed: true, reason: ratelimitv1.Reason_WITHIN_LIMIT, remaining: 1000},
		} {
			got, err := ask(&ratelimitv1.ShouldAllowRequest{
				Namespace: "checkout", Identifier: front, Limits: []*ratelimitv1.Limit{{Rate: "1000/h", MaxDebt: new(uint64(300))}},
				Mode: step.mode, Cost: new(step.cost), ConsumedAt: step.consumedAt, DryRun: step.dryRun,
			})
			if err != nil {
				t.Fatalf("%s, step %d: %v", front, i, err)
			}
			if got.GetAllowed() != step.allowed || got.GetReason() != step.reason || got.GetStatuses()[0].GetRemaining() != step.remaining ||
				got.GetRetryAfter().AsDuration() != step.retry || !got.GetDecidedAt().AsTime().Equal(midnight.AsTime()) {
				t.Errorf("%s, step %d: %v, want %+v", front, i, got, step)
			}
		}
	}
	for outcome, want := range map[string]float64{"allowed": 1, "denied": 1, "charged": 2, "overcharged": 3, "refunded": 4} {
		if got := d.decisions(t, outcome); got != n*want {
			t.Errorf("%v decisions are counted as %s, want %v", got, outcome, n*want)
		}
	}
	for outcome, want := range map[string]float64{"allowed": n, "denied": n} { // of the takes alone
		if got := d.metric(t, "ratelimitd_limit_checks_total", "strategy=fixed_window", "outcome="+outcome); got != want {
			t.Errorf("%v checks are counted as %s, want %v", got, outcome, want)
		}
	}
}

// TestModesRefuse has every front refuse what makes no sense, and name the field.
func TestModesRefuse(t *testing.T) {
	d := start(t, Options{})
	for front, ask := range fronts(t, d) {
		for _, tt := range []struct {
			field, problem string
			change         func(*ratelimitv1.ShouldAllowRequest)
		}{
			{"mode", "unknown mode 9; use 1 (TAKE)", func(r *ratelimitv1.ShouldAllowRequest) { r.Mode = 9 }},
			{"mode", "unknown mode -1", func(r *ratelimitv1.ShouldAllowRequest) { r.Mode = -1 }},
			{"consumed_at", "only a REFUND has one", func(r *ratelimitv1.ShouldAllowRequest) { r.ConsumedAt = timestamppb.Now() }},
			{"consumed_at", "only a REFUND has one", func(r *ratelimitv1.ShouldAllowRequest) {
				r.Mode, r.ConsumedAt = ratelimitv1.Mode_CHARGE, timestamppb.Now()
			}},
			{"consumed_at", "9000000000 s and 0 ns", func(r *ratelimitv1.ShouldAllowRequest) {
				r.Mode, r.ConsumedAt = ratelimitv1.Mode_REFUND, &timestamppb.Timestamp{Seconds: 9_000_000_000}
			}},
			{"limits[0].max_debt", "max_debt 10000000000001 is over 10000000000000", func(r *ratelimitv1.ShouldAllowRequest) {
				r.Limits[0].MaxDebt = new(uint64(10_000_000_000_001))
			}},
		} {
			r := &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "alice", Limits: []*ratelimitv1.Limit{{Rate: "1/h"}}}
			tt.change(r)
			_, err := ask(r)
			said := fmt.Sprint(err)
			for _, detail := range status.Convert(err).Details() {
				said += fmt.Sprint(detail.(*errdetails.BadRequest).GetFieldViolations())
			}
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(said, tt.field) || !strings.Contains(said, tt.problem) {
				t.Errorf("%s: %v; want %s: %s", front, said, tt.field, tt.problem)
			}
		}
	}
}
