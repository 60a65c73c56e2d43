package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

const edge = `
domain: edge
descriptors:
  - key: user
    rate_limit: {unit: day, requests_per_unit: 3}
  - key: user
    value: banned
    rate_limit: {unit: second, requests_per_unit: 0}
  - key: user
    value: tried
    shadow_mode: true
    rate_limit: {unit: day, requests_per_unit: 1}
  - key: user
    value: free
    rate_limit: {unlimited: true}
  - key: plan
    value: gold*
    share_threshold: true
    rate_limit: {unit: month, requests_per_unit: 2}
  - key: page
    rate_limit: {name: each_page, unit: day, requests_per_unit: 1}
  - key: site
    rate_limit: {unit: day, requests_per_unit: 9, replaces: [{name: each_page}]}
  - key: model
    value: big
    quota_mode: true
    metadata: {backend: {big: true}, n: [1, two]}
    rate_limit: {unit: week, requests_per_unit: 1}
  - key: model
    value: small
    quota_mode: true
    metadata: {backend: {small: true}}
    rate_limit: {unit: week, requests_per_unit: 2}
  - key: token
    rate_limit: {unit: hour, unit_multiplier: 2, requests_per_unit: 10, strategy: token_bucket, burst: 4}
  - key: much
    rate_limit: {unit: year, requests_per_unit: 4294967295}
  - key: path
    detailed_metric: true
    rate_limit: {unit: day, requests_per_unit: 5}
`

// envoyConfig returns the configuration that data is.
func envoyConfig(tb testing.TB, data string) *Config {
	tb.Helper()
	f, root := yamlfile.Parse("edge.yaml", []byte(data))
	r := envoy.NewReader(envoy.Options{MaxLogCount: strategy.DefaultMaxLogCount})
	r.Read("edge.yaml", root)
	if err := f.Err(); err != nil {
		tb.Fatal(err)
	}
	return &Config{Envoy: r.Config}
}

// descriptor returns the descriptor that text is: key=value,key=value.
func descriptor(text string) *commonv3.RateLimitDescriptor {
	d := &commonv3.RateLimitDescriptor{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: key, Value: value})
	}
	return d
}

// envoyAsk returns a request of domain edge.
func envoyAsk(hits uint32, descriptors ...string) *rlsv3.RateLimitRequest {
	in := &rlsv3.RateLimitRequest{Domain: "edge", HitsAddend: hits}
	for _, text := range descriptors {
		in.Descriptors = append(in.Descriptors, descriptor(text))
	}
	return in
}

// shown returns an answer as a line: the overall code, and for each descriptor
// its code, what remains, and its limit.
func shown(out *rlsv3.RateLimitResponse) string {
	var b strings.Builder
	b.WriteString(out.GetOverallCode().String())
	for _, st := range out.GetStatuses() {
		fmt.Fprintf(&b, "; %s %d", st.GetCode(), st.GetLimitRemaining())
		if l := st.GetCurrentLimit(); l != nil {
			fmt.Fprintf(&b, " of %d/%s", l.GetRequestsPerUnit(), l.GetUnit())
			if m := l.GetUnitMultiplier(); m != nil {
				fmt.Fprintf(&b, "*%d", m.GetValue())
			}
		}
	}
	return b.String()
}

// eachStore returns options with a store in memory and with one in a Redis, which remote
// is too.
func eachStore(t *testing.T) (stores map[string]Options, remote *redis.Store) {
	t.Helper()
	remote, err := redis.New(redis.Options{URLs: []string{redistest.Start(t).URL}, Timeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]Options{"memory": {}, "redis": {Store: remote, StoreName: "redis"}}, remote
}

// TestShouldRateLimit is one story, told to each store: through gRPC, and, as
// the last step, through POST /json.
func TestShouldRateLimit(t *testing.T) {
	stores, _ := eachStore(t)
	for name, o := range stores {
		t.Run(name, func(t *testing.T) {
			o.Config = envoyConfig(t, edge)
			d := start(t, o)
			client := rlsv3.NewRateLimitServiceClient(d.conn)
			own := func(hits uint64, text string) *rlsv3.RateLimitRequest {
				in := envoyAsk(5, text)
				in.Descriptors[0].HitsAddend = wrapperspb.UInt64(hits)
				return in
			}
			override := func(n uint32, unit typev3.RateLimitUnit, multiplier *wrapperspb.UInt32Value, text string) *rlsv3.RateLimitRequest {
				in := envoyAsk(0, text)
				in.Descriptors[0].Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: n, Unit: unit, UnitMultiplier: multiplier}
				return in
			}
			elsewhere := envoyAsk(0, "user=alice")
			elsewhere.Domain = "unknown"
			for i, step := range []struct {
				in   *rlsv3.RateLimitRequest
				want string
			}{
				{envoyAsk(0, "user=alice"), "OK; OK 2 of 3/DAY"},
				{envoyAsk(2, "user=alice"), "OK; OK 0 of 3/DAY"},
				{envoyAsk(0, "user=alice"), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY"},
				{own(0, "user=alice"), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY"}, // nothing is left
				{own(0, "user=carol"), "OK; OK 3 of 3/DAY"},
				{envoyAsk(2, "user=carol"), "OK; OK 1 of 3/DAY"},
				{own(2, "user=carol"), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY"}, // the descriptor's own hits, which are charged
				{envoyAsk(1, "user=carol"), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY"},
				{envoyAsk(0, "user=dan", "user=dan", "user=dan", "user=dan"), "OVER_LIMIT; OK 2 of 3/DAY; OK 1 of 3/DAY; OK 0 of 3/DAY; OVER_LIMIT 0 of 3/DAY"},
				{envoyAsk(0, "user=erin", "user=banned"), "OVER_LIMIT; OK 2 of 3/DAY; OVER_LIMIT 0 of 0/SECOND"}, // each on its own
				{envoyAsk(0, "user=erin"), "OK; OK 1 of 3/DAY"},
				{envoyAsk(0, "user=tried"), "OK; OK 0 of 1/DAY"},
				{envoyAsk(0, "user=tried"), "OK; OK 0 of 1/DAY"},
				{envoyAsk(0, "user=free"), fmt.Sprintf("OK; OK %d", uint32(math.MaxUint32))},
				{envoyAsk(0, "nobody=knows", "user=x,more=y"), "OK; OK 0; OK 0"},
				{elsewhere, "OK; OK 0"},
				{envoyAsk(0, "plan=gold-1"), "OK; OK 1 of 2/MONTH"},
				{envoyAsk(0, "plan=gold-2"), "OK; OK 0 of 2/MONTH"},
				{envoyAsk(0, "plan=gold-3"), "OVER_LIMIT; OVER_LIMIT 0 of 2/MONTH"},
				{envoyAsk(0, "page=/a", "site=s"), "OK; OK 0; OK 8 of 9/DAY"},
				{envoyAsk(0, "page=/a"), "OK; OK 0 of 1/DAY"}, // was not charged while it was replaced
				{envoyAsk(0, "page=/a"), "OVER_LIMIT; OVER_LIMIT 0 of 1/DAY"},
				{envoyAsk(0, "model=big", "model=small"), "OK; OK 0 of 1/WEEK; OK 1 of 2/WEEK"},
				{envoyAsk(0, "model=big", "model=small"), "OK; OVER_LIMIT 0 of 1/WEEK; OK 0 of 2/WEEK"},
				{envoyAsk(0, "model=big", "model=small"), "OVER_LIMIT; OVER_LIMIT 0 of 1/WEEK; OVER_LIMIT 0 of 2/WEEK"},
				{envoyAsk(4, "token=t"), "OK; OK 0 of 10/HOUR*2"},
				{envoyAsk(5, "token=u"), "OVER_LIMIT; OVER_LIMIT 0 of 10/HOUR*2"},
				{envoyAsk(1, "much=x"), "OK; OK 4294967294 of 4294967295/YEAR"},
				{override(1, typev3.RateLimitUnit_MONTH, nil, "any=x,thing=y"), "OK; OK 0 of 1/MONTH"},
				{override(1, typev3.RateLimitUnit_MONTH, nil, "any=x,thing=y"), "OVER_LIMIT; OVER_LIMIT 0 of 1/MONTH"},
				{override(2, typev3.RateLimitUnit_MONTH, nil, "any=x,thing=y"), "OK; OK 0 of 2/MONTH"}, // the counter outlives its rate
				{override(7, typev3.RateLimitUnit_DAY, wrapperspb.UInt32(3), "any=x"), "OK; OK 6 of 7/DAY*3"},
				{envoyAsk(0, "user="+strings.Repeat("x", 100_000)), "OK; OK 2 of 3/DAY"},
			} {
				out, err := client.ShouldRateLimit(t.Context(), step.in)
				if err != nil || shown(out) != step.want {
					t.Errorf("step %d: got %s, %v, want %s", i, shown(out), err, step.want)
				}
				for _, st := range out.GetStatuses() {
					if left := st.GetDurationUntilReset(); (left != nil) != (st.GetCurrentLimit() != nil) || left != nil && left.AsDuration() <= 0 && st.GetLimitRemaining() != 4 { // a full bucket has nothing to wait for
						t.Errorf("step %d: %v: the limit's reset is missing", i, st)
					}
				}
			}
			if code, body := postJSON(t, d, envoyAsk(0, "user=alice")); code != http.StatusTooManyRequests || !strings.Contains(body, "OVER_LIMIT") {
				t.Errorf("as JSON: %d %s", code, body)
			}
			if code, body := postJSON(t, d, envoyAsk(0, "user=frank")); code != http.StatusOK || !strings.Contains(body, "OK") {
				t.Errorf("as JSON: %d %s", code, body)
			}
		})
	}
}

func postJSON(t *testing.T, d *daemon, in *rlsv3.RateLimitRequest) (code int, body string) {
	t.Helper()
	text, err := protojson.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return request(t, http.MethodPost, d, "/json", string(text))
}

func request(t *testing.T, method string, d *daemon, path, body string) (code int, reply string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+d.HTTPAddr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// TestEnvoyReset checks the whole seconds until a window ends, also of what was never
// used; and until a denied request can pass, or else a bucket is full.
func TestEnvoyReset(t *testing.T) {
	now := strategy.Instant(1_767_225_600_000_000 + 250_001) // a quarter of a second after midnight
	s, err := memory.New(memory.Options{Now: func() strategy.Instant { return now }})
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, Options{Store: s, Config: envoyConfig(t, edge)})
	for _, step := range []struct {
		hits uint32
		text string
		want time.Duration
	}{
		{1, "user=alice", 24 * time.Hour},    // a quarter of a second less, rounded up
		{3, "user=alice", 24 * time.Hour},    // denied
		{9, "user=alice", 24 * time.Hour},    // which can never pass
		{1, "user=banned", time.Second},      // of a limit of 0 in a second
		{4, "token=t", 4 * 12 * time.Minute}, // 10 in 2 hours: until the bucket is full
		{1, "token=t", 12 * time.Minute},     // until one may pass
		{3, "token=t", 36 * time.Minute},
		{5, "token=t", 48 * time.Minute}, // never: until it is full
	} {
		out, err := rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(t.Context(), envoyAsk(step.hits, step.text))
		if err != nil {
			t.Fatal(err)
		}
		if got := out.GetStatuses()[0].GetDurationUntilReset().AsDuration(); got != step.want {
			t.Errorf("%d hits of %s: got %v, want %v", step.hits, step.text, got, step.want)
		}
	}
}

// TestEnvoyUnlimitedIsNotReplaced has a limit replace an unlimited one, which stays
// what it is, and is no quota either.
func TestEnvoyUnlimitedIsNotReplaced(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, `
domain: edge
descriptors:
  - {key: free, quota_mode: true, metadata: {m: free}, rate_limit: {unlimited: true, name: free}}
  - {key: site, rate_limit: {unit: day, requests_per_unit: 9, replaces: [{name: free}]}}
  - {key: model, quota_mode: true, metadata: {n: model}, rate_limit: {unit: day, requests_per_unit: 0}}
`), Envoy: envoyapi.Settings{DynamicMetadata: true}})
	for _, step := range []struct {
		in   *rlsv3.RateLimitRequest
		want string
	}{
		{envoyAsk(0, "free=x", "site=s"), "OK; OK 4294967295; OK 8 of 9/DAY"},
		{envoyAsk(0, "free=x", "model=m"), "OVER_LIMIT; OK 4294967295; OVER_LIMIT 0 of 0/DAY"},
	} {
		out, err := rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(t.Context(), step.in)
		if err != nil || shown(out) != step.want {
			t.Errorf("got %s, %v, want %s", shown(out), err, step.want)
		}
		if meta := out.GetDynamicMetadata().GetFields()["metadata"]; meta != nil {
			t.Errorf("metadata %v, want none", meta)
		}
	}
}

// TestEnvoyHeadersOfTheLongest has two limits over at once, one of which the client
// waits longer for.
func TestEnvoyHeadersOfTheLongest(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge), Envoy: envoyapi.Settings{
		ResponseHeaders: true, LimitHeader: "L", RemainingHeader: "M", ResetHeader: "R",
	}})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	if _, err := client.ShouldRateLimit(t.Context(), envoyAsk(1, "user=alice")); err != nil {
		t.Fatal(err)
	}
	for _, in := range []*rlsv3.RateLimitRequest{envoyAsk(9, "user=alice", "user=banned"), envoyAsk(9, "user=banned", "user=alice")} {
		out, err := client.ShouldRateLimit(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, h := range out.GetResponseHeadersToAdd() {
			got += h.GetKey() + "=" + h.GetValue() + " "
		}
		if want := "L=3 M=0 R=86400 "; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestEnvoyOptions(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge), Envoy: envoyapi.Settings{
		ShadowMode: true, DynamicMetadata: true, ResponseHeaders: true, LimitHeader: "RateLimit-Limit", RemainingHeader: "X-Left", ResetHeader: "RateLimit-Reset",
	}})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	headers := func(in *rlsv3.RateLimitRequest) string {
		out, err := client.ShouldRateLimit(t.Context(), in)
		if err != nil || out.GetOverallCode() != rlsv3.RateLimitResponse_OK {
			t.Errorf("%v, %v: in shadow mode all is OK", out, err)
		}
		var all []string
		for _, h := range out.GetResponseHeadersToAdd() {
			all = append(all, h.GetKey()+": "+h.GetValue())
		}
		return strings.Join(all, ", ")
	}
	for _, step := range []struct {
		in   *rlsv3.RateLimitRequest
		want string
	}{
		{envoyAsk(0, "user=alice", "page=/"), "RateLimit-Limit: 1, X-Left: 0, RateLimit-Reset: 86400"}, // the least that is left
		{envoyAsk(3, "user=alice", "site=s"), "RateLimit-Limit: 3, X-Left: 0, RateLimit-Reset: 86400"}, // the one that it is over
		{envoyAsk(0, "user=free", "nobody=knows"), ""},
	} {
		if got := headers(step.in); got != step.want {
			t.Errorf("%v: got %q, want %q", step.in, got, step.want)
		}
	}

	override := envoyAsk(0, "user=alice")
	override.Descriptors[0].Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 7, Unit: typev3.RateLimitUnit_HOUR, UnitMultiplier: wrapperspb.UInt32(2)}
	if out, err := client.ShouldRateLimit(t.Context(), override); err != nil {
		t.Error(err)
	} else if got := fmt.Sprint(out.GetDynamicMetadata().AsMap()["descriptors"]); got != "[map[entries:[user=alice] limit:requests_per_unit:7 unit:HOUR unit_multiplier:{value:2}]]" {
		t.Errorf("descriptors %v: the limit is missing", got)
	}

	in := envoyAsk(1, "model=big", "model=small")
	in.Descriptors[1].HitsAddend = wrapperspb.UInt64(2)
	for i, want := range []map[string]any{
		{"backend": map[string]any{"big": true, "small": true}, "n": []any{1.0, "two"}},
		nil,
	} {
		out, err := client.ShouldRateLimit(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		got := out.GetDynamicMetadata().AsMap()
		if fmt.Sprintf("%v %v %v", got["domain"], got["hitsAddend"], got["descriptors"]) != "edge 1 [map[entries:[model=big]] map[entries:[model=small] hitsAddend:2]]" {
			t.Errorf("message %d: %v", i, got)
		}
		meta, _ := got["metadata"].(map[string]any)
		if fmt.Sprint(meta) != fmt.Sprint(want) {
			t.Errorf("message %d: metadata %v, want %v", i, meta, want)
		}
	}
}

func TestEnvoyRefusals(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge)})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	with := func(change func(*rlsv3.RateLimitRequest)) *rlsv3.RateLimitRequest {
		in := envoyAsk(0, "user=alice")
		change(in)
		return in
	}
	for want, in := range map[string]*rlsv3.RateLimitRequest{
		"domain: empty":                           with(func(in *rlsv3.RateLimitRequest) { in.Domain = "" }),
		"descriptors: no descriptors":             {Domain: "edge"},
		"descriptors: more than 1000 descriptors": envoyAsk(0, slices.Repeat([]string{"user=alice"}, 1001)...),
	} {
		if _, err := client.ShouldRateLimit(t.Context(), in); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if code, body := postJSON(t, d, in); code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("as JSON: got %d %s, want %s", code, body, want)
		}
	}
	for body, want := range map[string]int{
		"":                               http.StatusBadRequest,
		"{":                              http.StatusBadRequest,
		`{"domain": 1}`:                  http.StatusBadRequest,
		`{"unknown": "edge"}`:            http.StatusBadRequest,
		strings.Repeat(" ", 1<<20) + " ": http.StatusRequestEntityTooLarge,
	} {
		if code, reply := request(t, http.MethodPost, d, "/json", body); code != want {
			t.Errorf("%.20q: %d %s, want %d", body, code, reply, want)
		}
	}
}

// TestWrongDescriptors has a descriptor that is wrong beside one that is right:
// both are held to their configured limits, and it is said that a part is ignored.
func TestWrongDescriptors(t *testing.T) {
	override := func(u typev3.RateLimitUnit, multiplier uint32) func(*commonv3.RateLimitDescriptor) {
		return func(d *commonv3.RateLimitDescriptor) {
			d.Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1000, Unit: u, UnitMultiplier: wrapperspb.UInt32(multiplier)}
		}
	}
	for name, tt := range map[string]struct {
		spoil func(*commonv3.RateLimitDescriptor)
		want  string // after four requests
	}{
		"unit 0":       {override(typev3.RateLimitUnit_UNKNOWN, 1), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY; OVER_LIMIT 0 of 3/DAY"},
		"unit 99":      {override(99, 1), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY; OVER_LIMIT 0 of 3/DAY"},
		"multiplier 0": {override(typev3.RateLimitUnit_DAY, 0), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY; OVER_LIMIT 0 of 3/DAY"},
		"too long":     {override(typev3.RateLimitUnit_YEAR, 4294967295), "OVER_LIMIT; OVER_LIMIT 0 of 3/DAY; OVER_LIMIT 0 of 3/DAY"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, Options{Config: envoyConfig(t, edge)})
			in := envoyAsk(0, "user=alice", "user=bob")
			tt.spoil(in.Descriptors[0])
			var out *rlsv3.RateLimitResponse
			for range 4 {
				var err error
				if out, err = rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(t.Context(), in); err != nil {
					t.Fatal(err)
				}
			}
			if got := shown(out); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if n, logged := d.metric(t, "ratelimitd_envoy_ignored_total"), d.log.lines("a part of a request of Envoy is ignored"); n != 4 || logged != 1 {
				t.Errorf("%v are counted and %d logged, want 4 and 1", n, logged)
			}
		})
	}
}

// TestEnvoyOnError has the store fail.
func TestEnvoyOnError(t *testing.T) {
	for onError, want := range map[policy.OnError]struct {
		answer string
		code   int
	}{
		policy.FailAllow: {"OK; OK 4294967295; OK 4294967295; OK 0; OK 4294967295", http.StatusOK},
		policy.FailDeny:  {"OVER_LIMIT; OVER_LIMIT 0 of 3/DAY; OK 4294967295; OK 0; OK 4294967295", http.StatusTooManyRequests},
		policy.FailLocal: {"OK; OK 2 of 3/DAY; OK 0 of 1/DAY; OK 0; OK 4294967295", http.StatusOK},
		policy.FailError: {"Unavailable", http.StatusServiceUnavailable},
	} {
		t.Run(string(onError), func(t *testing.T) {
			local, err := memory.New(memory.Options{})
			if err != nil {
				t.Fatal(err)
			}
			d := start(t, Options{Store: noRedis(t), StoreName: "redis", OnError: onError, Fallback: local, Config: envoyConfig(t, edge)})
			in := envoyAsk(0, "user=alice", "user=tried", "nobody=knows", "user=free")
			out, err := rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(t.Context(), in)
			got := shown(out)
			if err != nil {
				got = status.Code(err).String()
			}
			if got != want.answer {
				t.Errorf("got %s, want %s", got, want.answer)
			}
			if code, body := postJSON(t, d, in); code != want.code {
				t.Errorf("as JSON: %d %s, want %d", code, body, want.code)
			}
		})
	}
}

func TestEnvoyEndpoints(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge)})
	if code, body := request(t, http.MethodGet, d, "/healthcheck", ""); code != http.StatusOK || body != "OK" {
		t.Errorf("/healthcheck: %d %q", code, body)
	}
	if reply, err := healthpb.NewHealthClient(d.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "ratelimit"}); err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", reply, err)
	}
	code, body := request(t, http.MethodGet, d, "/rlconfig", "")
	for _, line := range []string{
		"edge.user: unit=DAY requests_per_unit=3, shadow_mode: false\n",
		"edge.user_tried: unit=DAY requests_per_unit=1, shadow_mode: true\n",
	} {
		if code != http.StatusOK || !strings.Contains(body, line) {
			t.Errorf("/rlconfig: %d %s, want %s", code, body, line)
		}
	}
	d.SetConfig(envoyConfig(t, "domain: other\ndescriptors: [{key: k, rate_limit: {unit: hour, requests_per_unit: 7}}]"))
	if _, body := request(t, http.MethodGet, d, "/rlconfig", ""); body != "other.k: unit=HOUR requests_per_unit=7, shadow_mode: false\n" {
		t.Errorf("/rlconfig: %s", body)
	}
	d.readiness.health.Shutdown()
	if code, body := request(t, http.MethodGet, d, "/healthcheck", ""); code != http.StatusInternalServerError {
		t.Errorf("/healthcheck of a daemon that stops: %d %q", code, body)
	}
}

func TestEnvoyMetrics(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge)})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	for _, in := range []*rlsv3.RateLimitRequest{
		envoyAsk(3, "user=alice", "user=tried"), envoyAsk(2, "user=alice"), envoyAsk(1, "path=/a", "nobody=knows"),
	} {
		if _, err := client.ShouldRateLimit(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1000 {
		if _, err := client.ShouldRateLimit(t.Context(), envoyAsk(1, fmt.Sprintf("path=/%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	for labels, want := range map[[2]string]float64{
		{"edge.user", "within_limit"}: 3, {"edge.user", "over_limit"}: 2, {"edge.user_tried", "shadow"}: 3,
		{"edge.path_/a", "within_limit"}: 1, {"other", "within_limit"}: 1, // of 1,001 values
	} {
		if n := d.metric(t, "ratelimitd_envoy_limit_hits_total", "limit="+labels[0], "outcome="+labels[1]); n != want {
			t.Errorf("%v: %v, want %v", labels, n, want)
		}
	}
}

// TestSeveralLimitsOnOneDescriptor holds a descriptor to several limits at once: what one
// of them denies takes nothing from the others. Each store does the same.
func TestSeveralLimitsOnOneDescriptor(t *testing.T) {
	stores, _ := eachStore(t)
	for name, o := range stores {
		t.Run(name, func(t *testing.T) {
			o.Config = envoyConfig(t, `
domain: edge
overdraw: none
descriptors:
  - key: user
    rate_limit: {unit: year, requests_per_unit: 3, name: first}
    rate_limits:
      - {unit: day, requests_per_unit: 5}
      - {unit: day, unit_multiplier: 2, requests_per_unit: 2, strategy: token_bucket}
  - key: tried
    shadow_mode: true
    rate_limits: [{unit: week, requests_per_unit: 9}, {unit: year, requests_per_unit: 1}]
`)
			d := start(t, o)
			client := rlsv3.NewRateLimitServiceClient(d.conn)
			for i, step := range []struct {
				in   *rlsv3.RateLimitRequest
				want string
			}{
				{envoyAsk(1, "user=a"), "OK; OK 1 of 2/DAY*2"},                 // the least that is left
				{envoyAsk(4, "user=b"), "OVER_LIMIT; OVER_LIMIT 3 of 3/YEAR"},  // never
				{envoyAsk(1, "user=a"), "OK; OK 0 of 2/DAY*2"},                 // of 3 one is left
				{envoyAsk(1, "user=a"), "OVER_LIMIT; OVER_LIMIT 0 of 2/DAY*2"}, //
				{envoyAsk(2, "user=a"), "OVER_LIMIT; OVER_LIMIT 1 of 3/YEAR"},  // which lasts longer, and has lost nothing
				{envoyAsk(2, "tried=a"), "OK; OK 1 of 1/YEAR"},                 // denied, but for the shadow mode
				{envoyAsk(1, "tried=a", "user=c"), "OK; OK 0 of 1/YEAR; OK 1 of 2/DAY*2"},
			} {
				if out, err := client.ShouldRateLimit(t.Context(), step.in); err != nil || shown(out) != step.want {
					t.Errorf("step %d: got %s, %v, want %s", i, shown(out), err, step.want)
				}
			}
			if _, body := d.get(t, "/rlconfig"); strings.Count(body, "edge.user: unit=") != 3 {
				t.Errorf("/rlconfig: %s, want a line for each limit", body)
			}
		})
	}
}

// TestOperateByDescriptor looks at a counter on the admin port, and resets it, by what Envoy
// asks about.
func TestOperateByDescriptor(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge), AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar)})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	admin := func(method, path string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.AdminAddr()+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = reply.Body.Close() }()
		body, err := io.ReadAll(reply.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply.StatusCode, string(body)
	}
	if _, err := client.ShouldRateLimit(t.Context(), envoyAsk(3, "user=alice", "plan=gold-1")); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		method, path string
		code         int
		want         string
	}{
		{http.MethodGet, "/envoy?domain=edge&entry=user=alice", http.StatusOK, `"remaining":0`},
		{http.MethodGet, "/envoy?domain=edge&entry=user=alice", http.StatusOK, `"identifier":"user=alice"`}, // looking takes nothing
		{http.MethodGet, "/envoy/reset?domain=edge&entry=user=alice", http.StatusMethodNotAllowed, ""},
		{http.MethodPost, "/envoy/reset?domain=edge&entry=user=alice", http.StatusOK, `"reset":"user=alice"`},
		{http.MethodGet, "/envoy?domain=edge&entry=user=alice", http.StatusOK, `"remaining":3`},
		{http.MethodGet, "/envoy?domain=edge&entry=plan=gold-7", http.StatusOK, `"identifier":"plan=gold*"`}, // whose values share it
		{http.MethodGet, "/envoy?domain=edge&entry=user=free", http.StatusOK, `"rate":"unlimited"`},
		{http.MethodGet, "/envoy?domain=edge&entry=nobody=knows", http.StatusBadRequest, "no limit applies"},
		{http.MethodGet, "/envoy?domain=other&entry=user=alice", http.StatusBadRequest, "not configured"},
		{http.MethodGet, "/envoy?domain=edge", http.StatusBadRequest, "no entries"},
		{http.MethodGet, "/envoy?domain=edge&entry=user", http.StatusBadRequest, "key=value"},
		{http.MethodPost, "/envoy/reset?domain=edge&user=alice", http.StatusBadRequest, "unknown parameter"},
	} {
		code, body := admin(step.method, step.path)
		tight := strings.NewReplacer(" ", "", "\n", "").Replace(body)
		if code != step.code || !strings.Contains(tight, strings.ReplaceAll(step.want, " ", "")) {
			t.Errorf("%s %s: %d %s, want %d with %s", step.method, step.path, code, body, step.code, step.want)
		}
	}
}

// TestMetricsOfEnvoysService asks what envoyproxy/ratelimit was asked, and shows what it
// shows by the same names.
func TestMetricsOfEnvoysService(t *testing.T) {
	d := start(t, Options{
		Metrics: MetricsOptions{Addr: "127.0.0.1:0", Path: "/m", Envoy: true}, Envoy: envoyapi.Settings{NearLimitRatio: 0.8},
		Config: envoyConfig(t, `
domain: edge
descriptors:
  - {key: user, rate_limit: {unit: day, requests_per_unit: 10}}
  - {key: user, value: tried, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: ip, value: 10.0.0.7, rate_limit: {unit: day, requests_per_unit: 10}}
  - {key: path, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 5}}
  - key: a
    descriptors:
      - key: b
        rate_limit: {unit: day, requests_per_unit: 5}
        descriptors: [{key: c, rate_limit: {unit: day, requests_per_unit: 5}}]
`),
	})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	for _, in := range []*rlsv3.RateLimitRequest{
		envoyAsk(0, "user=alice"), envoyAsk(7, "user=alice"), envoyAsk(1, "user=alice"), envoyAsk(1, "user=alice"), envoyAsk(1, "user=alice"), envoyAsk(3, "user=alice"),
		envoyAsk(0, "user=tried"), envoyAsk(2, "user=tried"), envoyAsk(0, "ip=10.0.0.7"), envoyAsk(1, "a=x,b=y"), envoyAsk(5, "a=x,b=y"), envoyAsk(1, "a=x,b=y,c=z"),
		envoyAsk(1, "path=/x.y"), envoyAsk(1, "nobody=knows"), {}, {Domain: "edge"},
	} {
		_, _ = client.ShouldRateLimit(t.Context(), in)
	}
	if code, _ := postJSON(t, d, &rlsv3.RateLimitRequest{}); code != http.StatusBadRequest {
		t.Errorf("as JSON: %d", code)
	}
	d.RefuseConfig()
	reply, err := http.Get("http://" + d.MetricsAddr() + "/m") //nolint:noctx // on loopback
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	page, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`rate_limit_total_hits{domain="edge",key1="user",key2=""} 14`, `rate_limit_within_limit{domain="edge",key1="user",key2=""} 10`,
		`rate_limit_over_limit{domain="edge",key1="user",key2=""} 4`, `rate_limit_near_limit{domain="edge",key1="user",key2=""} 2`,
		`rate_limit_total_hits{domain="edge",key1="user_tried",key2=""} 3`, `rate_limit_over_limit{domain="edge",key1="user_tried",key2=""} 2`,
		`rate_limit_shadow_mode{domain="edge",key1="user_tried",key2=""} 2`, `rate_limit_near_limit{domain="edge",key1="user_tried",key2=""} 1`,
		`rate_limit_within_limit{domain="edge",key1="ip_10_0_0_7",key2=""} 1`, `rate_limit_total_hits{domain="edge",key1="path_/x",key2="y"} 1`,
		`rate_limit_total_hits{domain="edge",key1="a",key2="b"} 7`, `rate_limit_over_limit{domain="edge",key1="a",key2="b"} 1`, `rate_limit_near_limit{domain="edge",key1="a",key2="b"} 1`,
		`should_rate_limit_error{err_type="service_error"} 3`, `should_rate_limit_error{err_type="redis_error"} 0`,
		`total_requests{grpc_method="ShouldRateLimit"} 16`, `response_time_seconds_count{grpc_method="ShouldRateLimit"} 17`,
		`config_load_success 1`, `config_load_error 1`,
	} {
		if !strings.Contains(string(page), "\nratelimit_service_"+line+"\n") {
			t.Errorf("no line ratelimit_service_%s", line)
		}
	}
	if t.Failed() {
		for line := range strings.Lines(string(page)) {
			if strings.HasPrefix(line, "ratelimit_service") && !strings.Contains(line, "bucket") {
				t.Log(line)
			}
		}
	}
	if code, _ := d.get(t, "/m"); code != http.StatusNotFound {
		t.Errorf("the HTTP port has /m: %d", code)
	}
}

// TestEnvoyQuotaMode has every limit be a quota: a request passes while one of its
// descriptors is not over, or has no limit.
func TestEnvoyQuotaMode(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge), Envoy: envoyapi.Settings{QuotaMode: true}})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	for i, step := range []struct {
		in   *rlsv3.RateLimitRequest
		want string
	}{
		{envoyAsk(0, "user=banned", "user=alice"), "OK; OVER_LIMIT 0 of 0/SECOND; OK 2 of 3/DAY"},
		{envoyAsk(0, "user=banned", "nobody=knows"), "OK; OVER_LIMIT 0 of 0/SECOND; OK 0"},
		{envoyAsk(0, "user=banned", "user=free"), "OVER_LIMIT; OVER_LIMIT 0 of 0/SECOND; OK 4294967295"}, // as there
		{envoyAsk(0, "user=banned"), "OVER_LIMIT; OVER_LIMIT 0 of 0/SECOND"},
	} {
		if out, err := client.ShouldRateLimit(t.Context(), step.in); err != nil || shown(out) != step.want {
			t.Errorf("step %d: got %s, %v, want %s", i, shown(out), err, step.want)
		}
	}
}

// TestEnvoyRequireDomains has a daemon wait for its first domain.
func TestEnvoyRequireDomains(t *testing.T) {
	d := start(t, Options{RequireDomains: true})
	for _, step := range []struct {
		config *Config
		code   int
		status healthpb.HealthCheckResponse_ServingStatus
	}{
		{nil, http.StatusInternalServerError, healthpb.HealthCheckResponse_NOT_SERVING},
		{envoyConfig(t, edge), http.StatusOK, healthpb.HealthCheckResponse_SERVING},
		{&Config{}, http.StatusInternalServerError, healthpb.HealthCheckResponse_NOT_SERVING},
	} {
		if step.config != nil {
			d.SetConfig(step.config)
		}
		if code, body := d.get(t, "/healthcheck"); code != step.code {
			t.Errorf("/healthcheck: %d %s, want %d", code, body, step.code)
		}
		if code, body := d.get(t, "/readyz"); (code == http.StatusOK) != (step.code == http.StatusOK) {
			t.Errorf("/readyz: %d %s", code, body)
		}
		for _, name := range []string{"", "ratelimit"} {
			if reply, err := healthpb.NewHealthClient(d.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: name}); err != nil || reply.GetStatus() != step.status {
				t.Errorf("health of %q: %v, %v, want %v", name, reply, err, step.status)
			}
		}
	}
}

// TestEnvoyAllOrNone has requests charged to all of their descriptors or to
// none, but for those that deny nothing.
func TestEnvoyAllOrNone(t *testing.T) {
	stores, remote := eachStore(t)
	redistest.Eventually(t, "the server is found to own all keys", func() error {
		if err := remote.Health(t.Context()); err != nil {
			return err
		}
		if two := (store.Request{Identifier: "a", With: []store.Request{{Identifier: "b"}}}); !remote.DecidesTogether(&two) {
			return errors.New("it may not")
		}
		return nil
	})
	for name, o := range stores {
		t.Run(name, func(t *testing.T) {
			o.Config, o.Envoy = envoyConfig(t, edge), envoyapi.Settings{AllOrNone: true}
			d := start(t, o)
			if name == "redis" { // which finds out that it may
				awaitTogether(t, remote)
			}
			client := rlsv3.NewRateLimitServiceClient(d.conn)
			for i, step := range []struct {
				in   *rlsv3.RateLimitRequest
				want string
			}{
				{envoyAsk(0, "user=tried", "user=erin", "nobody=knows", "user=banned"), "OVER_LIMIT; OK 0 of 1/DAY; OK 3 of 3/DAY; OK 0; OVER_LIMIT 0 of 0/SECOND"},
				{envoyAsk(2, "user=erin", "page=/a"), "OVER_LIMIT; OK 3 of 3/DAY; OVER_LIMIT 1 of 1/DAY"},
				{envoyAsk(1, "user=erin", "page=/a", "user=tried"), "OK; OK 2 of 3/DAY; OK 0 of 1/DAY; OK 0 of 1/DAY"},
				{envoyAsk(1, "user=erin", "page=/a"), "OVER_LIMIT; OK 2 of 3/DAY; OVER_LIMIT 0 of 1/DAY"},
			} {
				if out, err := client.ShouldRateLimit(t.Context(), step.in); err != nil || shown(out) != step.want {
					t.Errorf("step %d: got %s, %v, want %s", i, shown(out), err, step.want)
				}
			}
		})
	}
}

// awaitTogether waits until s knows that it can decide several identifiers together.
func awaitTogether(t *testing.T, s *redis.Store) {
	t.Helper()
	two := &store.Request{Namespace: "edge", Identifier: "a", With: []store.Request{{Namespace: "edge", Identifier: "b"}}}
	for end := time.Now().Add(patient); !s.DecidesTogether(two); time.Sleep(time.Millisecond) {
		if err := s.Health(t.Context()); err != nil || time.Now().After(end) {
			t.Fatalf("the store decides nothing together: %v", err)
		}
	}
}
