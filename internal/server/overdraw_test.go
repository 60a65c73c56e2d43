package server

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi/envoytest"
)

// overdraws has a limit of each overdraw, and of the default.
const overdraws = `
domain: edge
descriptors:
  - {key: none, rate_limit: {unit: year, requests_per_unit: 10, overdraw: none}}
  - {key: once, rate_limit: {unit: year, requests_per_unit: 10, overdraw: once}}
  - {key: always, rate_limit: {unit: year, requests_per_unit: 10, overdraw: always}}
  - {key: default, rate_limit: {unit: year, requests_per_unit: 10}}
  - {key: bucket, rate_limit: {unit: year, requests_per_unit: 10, strategy: token_bucket, overdraw: always}}
  - {key: bounded, rate_limit: {unit: year, requests_per_unit: 10, strategy: token_bucket, overdraw: always, max_debt: 3}}
  - {key: tried, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 10, overdraw: always}}
  - {key: nothing, rate_limit: {unit: year, requests_per_unit: 0, overdraw: always}}
  - key: several
    rate_limits: [{unit: day, requests_per_unit: 4}, {unit: year, requests_per_unit: 10, overdraw: always}]
`

// hits returns a request of one descriptor for n hits of its own; below 0 they are given back.
func hits(n int, text string) *rlsv3.RateLimitRequest {
	in := envoyAsk(0, text)
	in.Descriptors[0].HitsAddend = wrapperspb.UInt64(uint64(max(n, -n)))
	in.Descriptors[0].IsNegativeHits = n < 0
	return in
}

// TestOverdraw has hits of which a limit has fewer left, for each overdraw and store; and
// hits that are given back.
func TestOverdraw(t *testing.T) {
	stores, _ := eachStore(t)
	for name, o := range stores {
		t.Run(name, func(t *testing.T) {
			o.Config = envoyConfig(t, overdraws)
			d := start(t, o)
			client := rlsv3.NewRateLimitServiceClient(d.conn)
			for _, tt := range []struct {
				key  string
				hits []int
				want string // O for OK, X for OVER_LIMIT, and what is left
			}{
				{"none", []int{8, 5, 0, 2, 0, -1, 5, 1, 1}, "O2 X2 O2 O0 X0 O1 X1 O0 X0"},
				{"once", []int{8, 5, 0, 7, -2, 0, -2, 1, 0}, "O2 X0 X0 X0 O0 X0 O1 O0 X0"}, // 13 at most
				{"default", []int{8, 5, 0, 7, -4, 1}, "O2 X0 X0 X0 O1 O0"},
				{"always", []int{8, 2, 0, 5, 0, 5, -9, 0, -2, 1, -100}, "O2 O0 O0 X0 X0 X0 O0 X0 O1 O0 O10"}, // 20 at most
				{"bucket", []int{8, 5, 0, 5, -8, 0, -1, 1}, "O2 X0 X0 X0 O0 O0 O1 O0"},
				{"bounded", []int{8, 5, 20, -3, -1, 1}, "O2 X0 X0 O0 O1 O0"},   // 13 at most
				{"tried", []int{8, 5, 5, -9, 1}, "O2 O0 O0 O1 O0"},             // which counts, and lets pass
				{"nothing", []int{0, 1, 0, -1, 1, 0}, "X0 X0 X0 O0 X0 X0"},     // a limit of 0 allows nothing at all
				{"several", []int{3, 4, 4, -1, -4, -100}, "O1 X0 X0 O0 O0 O4"}, // 11 of 10
			} {
				got := ""
				for _, n := range tt.hits {
					out, err := client.ShouldRateLimit(t.Context(), hits(n, tt.key+"=a"))
					if err != nil {
						t.Fatal(err)
					}
					code := "O"
					if out.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT {
						code = "X"
					}
					if got != "" {
						got += " "
					}
					got += fmt.Sprint(code, out.GetStatuses()[0].GetLimitRemaining())
				}
				if got != tt.want {
					t.Errorf("%s: %v:\n got %s\nwant %s", tt.key, tt.hits, got, tt.want)
				}
			}
		})
	}
}

// TestOverdrawAsEnvoysService has random hits of fixed windows decided as by the rule of
// envoyproxy/ratelimit: all hits count, and are over if the count is above the limit.
// With once there is one difference: a request for nothing is over when the count is the
// limit itself.
func TestOverdrawAsEnvoysService(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, overdraws)})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	ctx, run, exact := t.Context(), 0, 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		for _, overdraw := range []string{"once", "always"} {
			count := 0
			for _, n := range rapid.SliceOfN(rapid.IntRange(0, 6), 1, 12).Draw(t, "hits") {
				out, err := client.ShouldRateLimit(ctx, hits(n, fmt.Sprintf("%s=%d", overdraw, run)))
				if err != nil {
					t.Fatal(err)
				}
				count += n
				want := count > 10
				if n == 0 && count == 10 {
					exact++
					want = overdraw == "once"
				}
				if over := out.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT; over != want || out.GetStatuses()[0].GetLimitRemaining() != uint32(max(0, 10-count)) {
					t.Fatalf("%s: %d hits, with which %d of 10 are used: %s", overdraw, n, count, shown(out))
				}
			}
		}
	})
	if exact == 0 && !t.Failed() {
		t.Error("nothing was asked for at the limit itself")
	}
}

// TestOverdrawOfDomains has the overdraw of a domain or of the flag, for limits that have
// none and those that requests bring.
func TestOverdrawOfDomains(t *testing.T) {
	for name, tt := range map[string]struct {
		domain   string
		settings envoyapi.Settings
		want     string // what is left after 2 hits and 5 that are over
	}{
		"the default":               {"", envoyapi.Settings{}, "[0 0 0]"},
		"the flag":                  {"", envoyapi.Settings{Overdraw: envoy.OverdrawNone}, "[1 0 1]"},
		"the domain":                {"overdraw: none", envoyapi.Settings{}, "[1 0 1]"},
		"the domain, over the flag": {"overdraw: once", envoyapi.Settings{Overdraw: envoy.OverdrawNone}, "[0 0 0]"},
		"all or none":               {"", envoyapi.Settings{AllOrNone: true}, "[1 0 1]"},
		"all or none but here":      {"overdraw: always", envoyapi.Settings{AllOrNone: true}, "[0 0 0]"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, Options{Envoy: tt.settings, Config: envoyConfig(t, "domain: edge\n"+tt.domain+`
descriptors:
  - {key: user, rate_limit: {unit: day, requests_per_unit: 3}}
  - {key: other, rate_limit: {unit: day, requests_per_unit: 3, overdraw: once}}
`)})
			var left []uint32
			for _, n := range []uint32{2, 5} {
				in := envoyAsk(n, "user=a", "other=a", "user=b")
				in.Descriptors[2].Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 3, Unit: typev3.RateLimitUnit_HOUR}
				out, err := rlsv3.NewRateLimitServiceClient(d.conn).ShouldRateLimit(t.Context(), in)
				if err != nil {
					t.Fatal(err)
				}
				left = nil
				for _, st := range out.GetStatuses() {
					left = append(left, st.GetLimitRemaining())
					if over := st.GetCode() == rlsv3.RateLimitResponse_OVER_LIMIT; over != (n == 5) {
						t.Errorf("%d hits: %s", n, shown(out))
					}
				}
			}
			if got := fmt.Sprint(left); got != tt.want {
				t.Errorf("left: %s, want %s", got, tt.want)
			}
		})
	}
}

// TestOverdrawIsCounted has a charge that is over its limit be a denial in metrics, and
// hits that are partly over be counted as what they are.
func TestOverdrawIsCounted(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, overdraws)})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	for _, n := range []int{8, 5, 4, -1} {
		for _, key := range []string{"once", "always", "none", "nothing"} {
			if _, err := client.ShouldRateLimit(t.Context(), hits(n, key+"=a")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for labels, want := range map[[2]string]float64{
		{"edge.once", "within_limit"}: 10, {"edge.once", "over_limit"}: 7,
		{"edge.always", "within_limit"}: 10, {"edge.always", "over_limit"}: 7,
		{"edge.none", "within_limit"}: 8, {"edge.none", "over_limit"}: 9,
		{"edge.nothing", "over_limit"}: 17,
	} {
		if n := d.metric(t, "ratelimitd_envoy_limit_hits_total", "limit="+labels[0], "outcome="+labels[1]); n != want {
			t.Errorf("%v: %v, want %v", labels, n, want)
		}
	}
	for outcome, want := range map[string]float64{"allowed": 3, "denied": 9, "refunded": 4} {
		if n := d.metric(t, "ratelimitd_decisions_total", "outcome="+outcome); n != want {
			t.Errorf("%s: %v, want %v", outcome, n, want)
		}
	}
}

// TestOverdrawPermissions has an Envoy that may only decide: what it reports counts. What
// it would give back is ignored, and said, and the descriptor beside it is decided.
func TestOverdrawPermissions(t *testing.T) {
	c := envoyConfig(t, overdraws)
	c.Clients = known(t)
	d := start(t, Options{Config: c})
	client := rlsv3.NewRateLimitServiceClient(d.as(t, tokens["ops"]))
	for i, step := range []struct {
		hits int
		want string
	}{
		{8, "OK; OK 2 of 10/YEAR; OK 2 of 10/YEAR"},
		{9, "OVER_LIMIT; OVER_LIMIT 0 of 10/YEAR; OVER_LIMIT 0 of 10/YEAR"},
		{-9, "OVER_LIMIT; OVER_LIMIT 0 of 10/YEAR; OVER_LIMIT 0 of 10/YEAR"},
	} {
		in := hits(step.hits, "always=a")
		in.Descriptors = append(in.Descriptors, hits(max(0, step.hits), "once=a").GetDescriptors()...)
		if out, err := client.ShouldRateLimit(t.Context(), in); err != nil || shown(out) != step.want {
			t.Errorf("step %d: got %s, %v, want %s", i, shown(out), err, step.want)
		}
	}
	if logged := d.log.lines("a part of a request of Envoy is ignored"); logged != 1 {
		t.Errorf("%d lines say so, want 1", logged)
	}
}

// TestMeteredThroughEnvoy has a real Envoy with the configuration that operators copy ask
// for nothing at each request, and report what the answer took: 400 of 1,000 an hour.
func TestMeteredThroughEnvoy(t *testing.T) {
	limits, err := os.ReadFile(deployed + "metered/llm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(deployed + "metered.yaml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/metered.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(page), "```yaml\nrate_limits:\n")
	shown, _, _ = strings.Cut(shown, "```")
	comment := regexp.MustCompile(`(?m)^ *#.*\n`)
	if text := func(s string) string { return strings.Join(strings.Fields(comment.ReplaceAllString(s, "")), " ") }; shown == "" || !strings.Contains(text(string(config)), text(shown)) {
		t.Errorf("docs/metered.md shows another configuration than metered.yaml has:\n%s", shown)
	}
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Tokens", "400") }))
	t.Cleanup(model.Close)
	d := start(t, Options{Config: envoyConfig(t, string(limits)), AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar)})
	e := envoytest.Start(t, envoytest.Edit(t, string(config),
		"{address: 0.0.0.0, port_value: 10000}", "{address: 127.0.0.1, port_value: 0}", "timeout: 0.1s", "timeout: 20s",
		"port_value: 8000", "port_value: "+envoytest.PortOf(t, model.Listener.Addr().String()),
		"port_value: 8081", "port_value: "+envoytest.PortOf(t, d.GRPCAddr())))
	used := func() int {
		_, text := fetch(t, http.MethodGet, "http://"+d.AdminAddr()+"/envoy?domain=llm&entry=api_key=alice", "", nil)
		var shown struct {
			Rates []struct{ Limit, Remaining, Debt int }
		}
		if err := json.Unmarshal([]byte(text), &shown); err != nil || len(shown.Rates) != 1 {
			t.Fatalf("%s, %v", text, err)
		}
		r := shown.Rates[0]
		return r.Limit - r.Remaining + r.Debt
	}
	want := 0
	for i, code := range []int{200, 200, 200, 429, 429, 429} {
		reply, _ := fetch(t, http.MethodGet, e.URL, "", http.Header{"X-Api-Key": {"alice"}})
		if reply.StatusCode != code {
			t.Fatalf("request %d, after %d tokens: %s, want %d", i, want, reply.Status, code)
		}
		if code == http.StatusOK {
			want += 400
		}
		for end := time.Now().Add(patient); used() != want; time.Sleep(time.Millisecond) { // Envoy reports after its answer
			if time.Now().After(end) {
				t.Fatalf("request %d: %d tokens are used, want %d", i, used(), want)
			}
		}
	}
	for _, headers := range []string{"", "X-Api-Key:\r\n", "X-Api-Key: alice\r\nX-Api-Key: alice\r\n", "X_Api_Key: alice\r\n"} { // without a key that Envoy sees
		if answer := send(t, e, "GET /", headers); strings.HasPrefix(answer, "200") {
			t.Errorf("%q: %s", headers, answer)
		}
	}
	if reply, _ := fetch(t, http.MethodGet, e.URL, "", http.Header{"X-Api-Key": {"bob"}}); reply.StatusCode != http.StatusOK {
		t.Errorf("another key: %s", reply.Status)
	}
}
