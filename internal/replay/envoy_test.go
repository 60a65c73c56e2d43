package replay

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/decide"
)

// edge is a configuration with limits of all kinds: shared by what matches a pattern, in shadow
// mode, of several rates, and quotas.
const edge = `domain: edge
descriptors:
  - {key: remote_address, rate_limit: {unit: minute, requests_per_unit: 40}}
  - {key: remote_address, value: 10.0.0.9, rate_limit: {unlimited: true}}
  - key: path
    value: /api/*
    share_threshold: true
    rate_limit: {unit: second, requests_per_unit: 3}
  - key: path
    value: /login
    descriptors:
      - {key: remote_address, rate_limits: [{unit: second, requests_per_unit: 2}, {unit: hour, requests_per_unit: 50}]}
  - {key: api_key, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: plan, value: free, rate_limit: {unit: minute, requests_per_unit: 30}, quota_mode: true}
`

const routes = `domain: edge
field: [x-api-key=key, path=target]
rate_limits:
  - actions: [{remote_address: {}}]
  - actions: [{request_headers: {header_name: X-API-Key, descriptor_key: api_key}}]
routes:
  - match: {path: /login}
    vh_rate_limits: INCLUDE
    rate_limits:
      - actions: [{generic_key: {descriptor_key: path, descriptor_value: /login}}, {remote_address: {}}]
  - match: {prefix: /api/}
    rate_limits:
      - actions: [{request_headers: {header_name: ":path", descriptor_key: path}}]
      - actions:
          - header_value_match: {descriptor_key: plan, descriptor_value: free, expect_match: false, headers: [{name: x-api-key, present_match: true}]}
  - match: {prefix: /}
`

// envoyLog is a log of calls of all routes.
func envoyLog(records int) string {
	random := rand.New(rand.NewPCG(3, 4))
	var log strings.Builder
	log.WriteString("time,ip,key,target,url,cost\n")
	at := start.UnixMicro()
	for range records {
		at += random.Int64N(3) * 30_000
		target := []string{"/login", "/api/a", "/api/b?x=1", "/", "/about"}[random.IntN(5)]
		key := []string{"", "", "k1", "k2", "\"k,3\""}[random.IntN(5)]
		fmt.Fprintf(&log, "%d,10.0.0.%d,%s,%s,%s,%d\n", at, random.IntN(12), key, target, target, random.IntN(3))
	}
	return log.String()
}

// TestLikeEnvoy decides what a daemon decides that Envoy asks the same, one by one.
func TestLikeEnvoy(t *testing.T) {
	const records = 1000
	limits, mapping := write(t, "edge.yaml", edge), write(t, "routes.yaml", routes)
	log := write(t, "log.csv", envoyLog(records))
	for _, flag := range []string{"", "overdraw: always\n", "overdraw: none\n"} {
		limits := write(t, "edge.yaml", flag+edge)
		r := prepared(t, "--envoy-config-dir", filepath.Dir(limits), "--mapping", mapping, "--cost", "{cost}", log)
		var clock atomic.Int64
		daemon := rlsv3.NewRateLimitServiceClient(startDaemon(t, &clock, "--envoy-config-dir", filepath.Dir(limits)))
		outcomes := map[decide.Outcome]int{}
		question := &rlsv3.RateLimitRequest{Domain: "edge"}
		n := 0
		r.watch = func(e event, got []decide.Outcome) {
			d := &commonv3.RateLimitDescriptor{HitsAddend: wrapperspb.UInt64(e.cost)}
			for _, entry := range e.who.Entries {
				d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: entry.Key, Value: entry.Value})
			}
			question.Descriptors = append(question.Descriptors, d)
			if e.more {
				return
			}
			clock.Store(e.at)
			answer, err := daemon.ShouldRateLimit(t.Context(), question)
			if err != nil {
				t.Fatal(err)
			}
			if over := answer.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT; over != (got[0] == decide.Denied) {
				t.Errorf("%srecord %d, %v: %v, and a daemon says %v", flag, n, question, got[0], answer)
			}
			outcomes[got[0]]++
			question.Descriptors = nil
			n++
		}
		if err := r.do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n != records || outcomes[decide.Allowed] < 50 || outcomes[decide.Denied] < 50 {
			t.Errorf("%d decisions: %v", n, outcomes)
		}
	}
	report := replayed(t, "--envoy-config-dir", filepath.Dir(limits), "--mapping", mapping, "--suggest", "p=1%", log)
	asked := map[string]limitReport{}
	for _, l := range report.Limits {
		asked[l.Limit] = l
	}
	shared := asked["path_/api/*"]
	if report.Records != records || report.Unread != 0 || shared.Identifiers != 1 || shared.Hit[0].Identifier != "path=/api/*" || shared.Suggestion == nil {
		t.Errorf("%d records, %d unread; the limit that paths share: %+v", report.Records, report.Unread, shared)
	}
	if l := asked["path_/login.remote_address hour"]; l.Identifiers != 12 || l.Asked == 0 {
		t.Errorf("the limit of an hour: %+v of %v", l, asked)
	}
	if l := asked["api_key"]; !l.Shadow || l.Denied == 0 || l.Identifiers != 3 {
		t.Errorf("the limit in shadow mode: %+v", l)
	}
}

// TestDescriptors says which descriptors there are by flags, and compares two directories.
func TestDescriptors(t *testing.T) {
	limits := write(t, "edge.yaml", "domain: edge\ndescriptors: [{key: remote_address, rate_limit: {unit: minute, requests_per_unit: 60}}]\n")
	larger := write(t, "edge.yaml", "domain: edge\ndescriptors: [{key: remote_address, rate_limit: {unit: minute, requests_per_unit: 120}}]\n")
	log := write(t, "access.log", abused())
	r := replayed(t, "--envoy-config-dir", filepath.Dir(limits), "--current-envoy-config-dir", filepath.Dir(larger), "--descriptor", "remote_address={client_address}", "--descriptor", "user={user}", "--suggest", "identifiers=1", log)
	l := r.Limits[0]
	if r.Records != 27600 || r.Outcomes["denied"] != 40*540 || l.Limit != "remote_address" || l.Namespace != "edge" || l.IdentifiersDenied != 1 || l.Suggestion.Rate != "2/1m" {
		t.Errorf("%+v", r)
	}
	if hit := l.Hit[0]; hit.Identifier != "remote_address=203.0.113.7" || hit.Peak != 600 {
		t.Errorf("%+v", hit)
	}
	if c := r.Change; c.DeniedBefore != 40*480 || c.DeniedInstead != 40*60 || c.Lose.Most[0].Identifier != "remote_address=203.0.113.7" || l.Before.Rate != "120/1m" || l.Before.IdentifiersDenied != 1 {
		t.Errorf("%+v, %+v", c, l.Before)
	}
}
