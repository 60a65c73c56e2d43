package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

var asJSON = http.Header{"Content-Type": {"application/json; charset=utf-8"}}

// post asks /v1/should-allow.
func (d *daemon) post(t *testing.T, body string) (httpAnswer, string) {
	t.Helper()
	return fetch(t, http.MethodPost, "http://"+d.HTTPAddr()+"/v1/should-allow", body, asJSON)
}

func TestShouldAllowHTTP(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, checkout)})
	for i, step := range []struct {
		body              string
		allowed           bool
		reason            ratelimitv1.Reason
		policy, state     string
		retryAfter, shown string
	}{
		{`{"namespace":"checkout","identifier":"a","policy":"default"}`, true, ratelimitv1.Reason_WITHIN_LIMIT,
			`"burst";q=2;w=60, "fixed_window:3/1h";q=3;w=3600`, `"burst";r=1;t=60, "fixed_window:3/1h";r=2;t=3600`, "", `"allowed":true`},
		{`{"namespace":"checkout","identifier":"a","policy":"default","cost":"2"}`, false, ratelimitv1.Reason_OVER_LIMIT,
			`"burst";q=2;w=60, "fixed_window:3/1h";q=3;w=3600`, `"burst";r=1;t=60, "fixed_window:3/1h";r=2`, "60", `"allowed":false`},
		{`{"namespace":"checkout","identifier":"a","policy":"default","cost":"9"}`, false, ratelimitv1.Reason_OVER_LIMIT, // never
			`"burst";q=2;w=60, "fixed_window:3/1h";q=3;w=3600`, `"burst";r=1, "fixed_window:3/1h";r=2`, "", ""},
		{`{"namespace":"checkout","identifier":"internal-a","policy":"default"}`, true, ratelimitv1.Reason_EXEMPT, "", "", "", ""},
		{`{"namespace":"checkout","identifier":"partner-a","policy":"default"}`, true, ratelimitv1.Reason_UNLIMITED, "", "", "", ""},
		{`{"namespace":"checkout","identifier":"c","limits":[{"rate":"10/s", "strategy" : "token_bucket","name":"\"strategy\":\"gcra\""}]}`, true, ratelimitv1.Reason_WITHIN_LIMIT, // as YAML has it
			`"\"strategy\":\"gcra\"";q=10;w=1`, `"\"strategy\":\"gcra\"";r=9;t=1`, "", ""},
		{`{"namespace":"checkout","identifier":"a","policy":"mixed"}`, true, ratelimitv1.Reason_WITHIN_LIMIT, `"mine";q=2;w=60`, `"mine";r=1;t=60`, "", ""},
		{`{"namespace":"checkout","identifier":"b","limits":[{"rate":"10/500ms","strategy":"TOKEN_BUCKET","burst":"20"},{"rate":"0/s","name":"a\"\\% é"},{"rate":"5/s","strategy":"GCRA","name":"a\"\\% é"}]}`,
			false, ratelimitv1.Reason_OVER_LIMIT, `"token_bucket:10/500ms:20";q=20, "a\"\\%25 %C3%A9";q=0;w=1, "a\"\\%25 %C3%A9#2";q=1;w=1`,
			`"token_bucket:10/500ms:20";r=20, "a\"\\%25 %C3%A9";r=0, "a\"\\%25 %C3%A9#2";r=1`, "", ""},
	} {
		reply, text := d.post(t, step.body)
		var got ratelimitv1.ShouldAllowResponse
		if err := protojson.Unmarshal([]byte(text), &got); err != nil || reply.StatusCode != http.StatusOK {
			t.Fatalf("step %d: %s %q: %v", i, reply.Status, text, err)
		}
		if got.GetAllowed() != step.allowed || got.GetReason() != step.reason || !strings.Contains(strings.ReplaceAll(text, " ", ""), step.shown) {
			t.Errorf("step %d: got %s", i, text)
		}
		for name, want := range map[string]string{"RateLimit-Policy": step.policy, "RateLimit": step.state, "Retry-After": step.retryAfter, "Content-Type": "application/json"} {
			if h := reply.Header.Get(name); h != want {
				t.Errorf("step %d: %s: %s\nwant %s", i, name, h, want)
			}
		}
	}
	if n := d.decisions(t, "exempt"); n != 1 {
		t.Errorf("%v exempt decisions counted, want 1", n)
	}
}

// TestMoreIsLeftSoon has t say when one more unit is left, not when all are, and nothing
// where no more can come or nobody can say.
func TestMoreIsLeftSoon(t *testing.T) {
	d := start(t, Options{})
	for _, tt := range []struct{ strategy, state string }{
		{"fixed_window", `"x";r=55;t=60`},
		{"sliding_window_counter", `"x";r=55;t=72`}, // in the next window, 5 x (1 - 12/60) is 4
		{"sliding_window_log", `"x";r=55`},
		{"token_bucket", `"x";r=55;t=1`},
		{"leaky_bucket", `"x";r=55;t=1`},
		{"gcra", `"x";r=55;t=1`},
	} {
		burst := ""
		if tt.strategy == "gcra" {
			burst = `, "burst": 60`
		}
		for _, step := range []struct{ cost, state string }{{"0", `"x";r=60`}, {"5", tt.state}} {
			reply, text := d.post(t, fmt.Sprintf(`{"namespace": "n", "identifier": %q, "cost": %s, "limits": [{"name": "x", "rate": "60/min", "strategy": %[1]q%[3]s}]}`, tt.strategy, step.cost, burst))
			if got := reply.Header.Get("RateLimit"); got != step.state {
				t.Errorf("%s, cost %s: %s, want %s; %s", tt.strategy, step.cost, got, step.state, text)
			}
		}
	}
}

// TestResetOverHTTP has counters reset over HTTP where that is for this machine alone, and
// where it is not.
func TestResetOverHTTP(t *testing.T) {
	const body = `{"namespace":"n","identifier":"a","limits":[{"rate":"1/min"}]}`
	for _, tt := range []struct {
		addr  string
		trust Trust
		code  int
	}{{"127.0.0.1:0", Trust{}, 200}, {":0", Trust{}, 403}, {":0", Trust{AllowReset: true}, 200}} {
		d := start(t, Options{HTTPAddr: tt.addr, Trust: tt.trust})
		_, port, _ := net.SplitHostPort(d.HTTPAddr())
		reply, text := fetch(t, http.MethodPost, "http://127.0.0.1:"+port+"/v1/reset", body, asJSON)
		if reply.StatusCode != tt.code || (tt.code == 403) != strings.Contains(text, "operation reset is not open to everybody") {
			t.Errorf("on %s with %+v: %s %s, want %d", tt.addr, tt.trust, reply.Status, text, tt.code)
		}
	}
}

func TestHTTPErrors(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, checkout)})
	failing := start(t, Options{Store: noRedis(t), StoreName: "redis", OnError: policy.FailError})
	panicking := start(t, Options{Store: panickingStore{}, StoreName: "memory"})
	const fine = `{"namespace":"n","identifier":"a","limits":[{"rate":"1/min"}]}`
	for _, tt := range []struct {
		d            *daemon
		method, body string
		header       http.Header
		code         int
		want         string
	}{
		{d, "GET", "", asJSON, 405, `method: \"GET\"; use POST`},
		{d, "POST", strings.Repeat(" ", 64<<10+1), asJSON, 413, `body: longer than 65536 bytes`},
		{d, "POST", "", asJSON, 400, `body: `},
		{d, "POST", `{"limits":[{}` + strings.Repeat(",{}", 20_000) + `]}`, asJSON, 400, `limits: more than 16 limits`},
		{d, "POST", `{"namespce":"n"}`, asJSON, 400, `unknown field \"namespce\"`},
		{d, "POST", fine + fine, asJSON, 400, `body: `},
		{d, "POST", `{"namespace":"n","identifier":"a","limits":[{"rate":"1/mn"}]}`, asJSON, 400, `limits[0].rate`},
		{d, "POST", `{"namespace":"n","identifier":"a","limits":[{"rate":"1/day","timeZone":"Mars/Olympus"}]}`, asJSON, 400, `limits[0].time_zone: time_zone \"Mars/Olympus\" is not known`},
		{d, "POST", `{"namespace":"n","identifier":"a","limits":[{"rate":"1/month","anchorDay":30}]}`, asJSON, 400, `limits[0].anchor_day: anchor_day 30: not every month`},
		{d, "POST", `{"namespace":"checkout","identifier":"a","policy":"gold"}`, asJSON, 404, `unknown policy \"gold\"`},
		{failing, "POST", fine, asJSON, 503, `the store failed`},
		{panicking, "POST", fine, asJSON, 500, `internal error`},
	} {
		reply, text := fetch(t, tt.method, "http://"+tt.d.HTTPAddr()+"/v1/should-allow", tt.body, tt.header)
		var st statuspb.Status
		if err := protojson.Unmarshal([]byte(text), &st); err != nil || reply.StatusCode != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("%s %.60q: %s %s (%v), want %d with %q", tt.method, tt.body, reply.Status, text, err, tt.code, tt.want)
		}
		if tt.code == http.StatusBadRequest && (len(st.GetDetails()) != 1 || !st.GetDetails()[0].MessageIs(&errdetails.BadRequest{})) {
			t.Errorf("%.60q: details %v, want a BadRequest", tt.body, st.GetDetails())
		}
	}
}

// A waitingStore holds decisions up until it is told.
type waitingStore struct {
	store.Store
	asked, answer chan struct{}
}

func (s waitingStore) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	close(s.asked)
	<-s.answer
	s.Store.Decide(ctx, requests, results)
}

func TestShutdownAnswersHTTP(t *testing.T) {
	held := waitingStore{Store: quietStore(t), asked: make(chan struct{}), answer: make(chan struct{})}
	d := start(t, Options{Store: held, StoreName: "memory", DrainTimeout: patient})
	answered := make(chan int)
	go func() {
		reply, _ := d.post(t, `{"namespace":"n","identifier":"a","limits":[{"rate":"1/min"}]}`)
		answered <- reply.StatusCode
	}()
	<-held.asked
	stopped := make(chan error)
	go func() { stopped <- d.stop() }()
	<-d.draining
	close(held.answer)
	if code := <-answered; code != http.StatusOK {
		t.Errorf("status %d, want 200", code)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestBodiesThatAreNoUTF8 sends what editors of other systems write, and what quotes
// more than it should.
func TestBodiesThatAreNoUTF8(t *testing.T) {
	d := start(t, Options{})
	for body, want := range map[string]string{
		"\xef\xbb\xbf{}":                            "byte order mark",
		"\xff\xfe{\x00}\x00":                        "is UTF-16 text",
		"{\"namespace\": \"\xe9\"}":                 "not UTF-8",
		`{"` + strings.Repeat("x", 10_000) + `":1}`: "unknown field",
	} {
		reply, text := d.post(t, body)
		if reply.StatusCode != http.StatusBadRequest || !strings.Contains(text, want) || len(text) > 2000 {
			t.Errorf("%.50q: %d, %.2000s; want 400 and %q", body, reply.StatusCode, text, want)
		}
	}
}
