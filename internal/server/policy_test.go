package server

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// policyConfig returns the configuration that data is.
func policyConfig(tb testing.TB, data string) *Config {
	tb.Helper()
	f, root := yamlfile.Parse("test.yaml", []byte(data))
	policies := policy.Read(root, strategy.DefaultMaxLogCount)
	if err := f.Err(); err != nil {
		tb.Fatal(err)
	}
	return &Config{Policies: policies}
}

// askPolicy asks for a unit by a policy of namespace checkout.
func askPolicy(identifier, name string) *ratelimitv1.ShouldAllowRequest {
	return &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: identifier, Policy: name}
}

const checkout = `
checkout:
  exempt: ["internal-*", "10.0.0.0/8"]
  policies:
    default:
      limits: [{name: burst, rate: 2/min}, {rate: 3/h}]
      overrides:
        - {identifiers: ["partner-*"], limits: [{rate: unlimited}]}
    trial:
      shadow: true
      limits: [{name: trial, rate: 1/min}]
    mixed:
      limits: [{name: mine, rate: 2/min}, {name: stricter, rate: 1/min, shadow: true}]
governed:
  policies_only: true
  policies: {default: {limits: [{rate: 1/min}]}, a: {limits: [{rate: 1/s}]}, b: {limits: [{rate: 1/s}]}, c: {limits: [{rate: 1/s}]}}
`

func TestPolicies(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, checkout)})
	minute := durationpb.New(time.Minute)
	exempt := &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_EXEMPT}
	for i, step := range []struct {
		in   *ratelimitv1.ShouldAllowRequest
		want *ratelimitv1.ShouldAllowResponse
	}{
		{askPolicy("alice", "default"), &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT, Statuses: []*ratelimitv1.LimitStatus{
			{Name: "burst", Limit: 2, Remaining: 1, ResetAfter: minute, Allowed: true},
			{Limit: 3, Remaining: 2, ResetAfter: durationpb.New(time.Hour), Allowed: true},
		}}},
		{askPolicy("partner-1", "default"), &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_UNLIMITED, Statuses: []*ratelimitv1.LimitStatus{
			{Limit: 1<<64 - 1, Remaining: 1<<64 - 1, ResetAfter: &durationpb.Duration{}, Allowed: true},
		}}},
		{askPolicy("internal-cron", "default"), exempt},
		{askPolicy("10.1.2.3", "no such policy"), exempt},
		{ask("internal-cron", limit("0/s")), exempt}, // whatever it is asked by
		{askPolicy("alice", "trial"), &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT, Statuses: []*ratelimitv1.LimitStatus{
			{Name: "trial", Limit: 1, ResetAfter: minute, Allowed: true},
		}}},
		{askPolicy("alice", "trial"), &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_SHADOW, Statuses: []*ratelimitv1.LimitStatus{
			{Name: "trial", Limit: 1, ResetAfter: minute, RetryAfter: minute},
		}}},
		{askPolicy("alice", "mixed"), &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT, Statuses: []*ratelimitv1.LimitStatus{
			{Name: "mine", Limit: 2, Remaining: 1, ResetAfter: minute, Allowed: true},
			{Name: "stricter", Limit: 1, ResetAfter: minute, Allowed: true},
		}}},
		{askPolicy("alice", "mixed"), &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_SHADOW, Statuses: []*ratelimitv1.LimitStatus{
			{Name: "mine", Limit: 2, ResetAfter: minute, Allowed: true},
			{Name: "stricter", Limit: 1, ResetAfter: minute, RetryAfter: minute},
		}}},
		{askPolicy("alice", "mixed"), &ratelimitv1.ShouldAllowResponse{Reason: ratelimitv1.Reason_OVER_LIMIT, RetryAfter: minute, Statuses: []*ratelimitv1.LimitStatus{
			{Name: "mine", Limit: 2, ResetAfter: minute, RetryAfter: minute},
			{Name: "stricter", Limit: 1, ResetAfter: minute, RetryAfter: minute},
		}}},
	} {
		if got, err := d.client.ShouldAllow(t.Context(), step.in); err != nil || !proto.Equal(undated(t, got), step.want) {
			t.Errorf("step %d: got %v, %v, want %v", i, got, err, step.want)
		}
	}
	for outcome, want := range map[string]float64{"exempt": 3, "shadow": 2, "denied": 1, "unlimited": 1} {
		if n := d.decisions(t, outcome); n != want {
			t.Errorf("%v decisions with outcome %s, want %v", n, outcome, want)
		}
	}
}

func TestRefusedByPolicies(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, checkout)})
	only := start(t, Options{PoliciesOnly: true})
	for _, tt := range []struct {
		d    *daemon
		in   *ratelimitv1.ShouldAllowRequest
		want string
	}{
		{d, askPolicy("alice", "gold"), `NotFound desc = unknown policy "gold" in namespace "checkout": the server's configuration has default, mixed, trial`},
		{d, &ratelimitv1.ShouldAllowRequest{Namespace: "governed", Identifier: "alice", Policy: "gold"}, `has a, b, c and 1 more`},
		{only, askPolicy("alice", "gold"), `NotFound desc = unknown policy "gold" in namespace "checkout": the server's configuration has no policy for it; configure one, or send limits`},
		{d, &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "", Policy: "default"}, `InvalidArgument desc = invalid request: identifier: empty`},
		{d, &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: "internal-cron"}, `InvalidArgument desc = invalid request: limits: no limits and no policy`},
		{d, &ratelimitv1.ShouldAllowRequest{Namespace: "governed", Identifier: "alice", Limits: []*ratelimitv1.Limit{limit("1/s")}}, `InvalidArgument desc = invalid request: limits: this server decides by policies of its own alone; leave limits out, and name a policy`},
		{only, ask("alice", limit("1/s")), `InvalidArgument desc = invalid request: limits: this server decides by policies of its own alone`},
	} {
		if _, err := tt.d.client.ShouldAllow(t.Context(), tt.in); status.Code(err) == codes.OK || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want %s", tt.in, err, tt.want)
		}
	}
}

func TestResetByPolicy(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, checkout)})
	for round := range 2 {
		for i, want := range []bool{true, true, false} {
			if reply, err := d.client.ShouldAllow(t.Context(), askPolicy("alice", "default")); err != nil || reply.GetAllowed() != want {
				t.Errorf("round %d, request %d: %v, %v, want allowed %t", round, i, reply, err, want)
			}
		}
		if _, err := d.client.Reset(t.Context(), &ratelimitv1.ResetRequest{Namespace: "checkout", Identifier: "alice", Policy: "default"}); err != nil {
			t.Error(err)
		}
	}
}

// TestOnErrorOfNamespaces has the store fail for namespaces that answer that
// each in its way.
func TestOnErrorOfNamespaces(t *testing.T) {
	local, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	one := "policies: {p: {limits: [{rate: 1/h}]}}"
	d := start(t, Options{Store: noRedis(t), StoreName: "redis", OnError: policy.FailError, Fallback: local, Config: policyConfig(t, fmt.Sprintf(`
allow: {on_error: allow, %[1]s}
deny: {on_error: deny, %[1]s}
error: {on_error: error, %[1]s}
local: {on_error: local, %[1]s}
default: {%[1]s}
trial: {on_error: deny, policies: {p: {shadow: true, limits: [{rate: 1/h}]}}}
`, one))})
	for namespace, want := range map[string]string{"allow": "allowed, allowed", "deny": "denied, denied", "error": "Unavailable, Unavailable", "default": "Unavailable, Unavailable", "local": "allowed, denied", "trial": "allowed, allowed"} {
		var got []string
		for range 2 {
			reply, err := d.client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: namespace, Identifier: "alice", Policy: "p"})
			switch {
			case err != nil:
				got = append(got, status.Code(err).String())
			case reply.GetReason() != ratelimitv1.Reason_STORE_FAILURE:
				t.Errorf("%s: %v", namespace, reply)
			case reply.GetAllowed():
				got = append(got, "allowed")
			default:
				got = append(got, "denied")
			}
		}
		if text := got[0] + ", " + got[1]; text != want {
			t.Errorf("%s: %s, want %s", namespace, text, want)
		}
	}
}

// TestSetConfig changes the rate of a named limit, back and forth, under load:
// what was consumed is kept, no request is lost, and each message is decided by
// one configuration alone.
func TestSetConfig(t *testing.T) {
	of := func(n int) *Config {
		return policyConfig(t, fmt.Sprintf("checkout: {policies: {p: {limits: [{name: x, rate: %d/366d, strategy: token_bucket}]}}}", n))
	}
	small, large := of(1000), of(2000)
	d := start(t, Options{Config: small})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				d.SetConfig([]*Config{large, small}[i%2])
			}
		}
	})
	const callers, messages, size = 4, 25, 5
	var callersDone sync.WaitGroup
	for range callers {
		callersDone.Go(func() {
			for range messages {
				batch := &ratelimitv1.ShouldAllowBatchRequest{}
				for range size {
					batch.Requests = append(batch.Requests, askPolicy("alice", "p"))
				}
				reply, err := d.client.ShouldAllowBatch(t.Context(), batch)
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range reply.GetResults() {
					if l := r.GetResponse().GetStatuses(); len(l) != 1 || l[0].GetLimit() != reply.GetResults()[0].GetResponse().GetStatuses()[0].GetLimit() {
						t.Errorf("%v: of two configurations, or of none", reply)
						return
					}
				}
			}
		})
	}
	callersDone.Wait()
	close(stop)
	wg.Wait()
	d.SetConfig(small)
	reply, err := d.client.ShouldAllow(t.Context(), askPolicy("alice", "p"))
	if want := uint64(1000 - callers*messages*size - 1); err != nil || reply.GetStatuses()[0].GetRemaining() != want {
		t.Errorf("%v, %v; want %d left: what was consumed is not forgotten with the rate", reply, err, want)
	}
}
