package server

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// clients returns the clients of a file.
func clients(tb testing.TB, text string) *auth.Directory {
	tb.Helper()
	d, err := auth.Parse("clients.yaml", []byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// withToken returns options of a client that sends a token, without TLS.
func withToken(token string) []grpc.DialOption {
	var o connect.Options
	link, err := o.Open(func(string) (string, bool) { return token, true })
	if err != nil {
		panic(err)
	}
	return link.GRPC()
}

// as returns a connection that sends a token, "" for none.
func (d *daemon) as(t *testing.T, token string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(d.GRPCAddr(), withToken(token)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// The tokens of known.
var tokens = map[string]string{"shop": auth.NewToken(), "gold": auth.NewToken(), "ops": auth.NewToken(), "scraper": auth.NewToken(), "idle": auth.NewToken()}

// known returns the clients that the tests here have.
func known(t *testing.T) *auth.Directory {
	t.Helper()
	hash := func(name string) string { return auth.HashLine(tokens[name]) }
	return clients(t, fmt.Sprintf(`
clients:
  - {name: shop, tokens: [%s], namespaces: [checkout, "cart-*"]}
  - {name: gold, tokens: [%s], namespaces: [checkout], policies: [gold, "default*"]}
  - {name: ops, tokens: [%s], namespaces: ["*"], operations: [decide, reset, inspect, admin]}
  - {name: scraper, tokens: [%s], namespaces: ["*"], operations: [inspect]}
  - {name: idle, tokens: [%s], namespaces: ["*"], operations: []}
`, hash("shop"), hash("gold"), hash("ops"), hash("scraper"), hash("idle")))
}

// sent is what an HTTP request has: a token, "" for none, and headers, Host among them.
type sent struct {
	body, token string
	headers     map[string]string
}

// call returns what an HTTP request gets.
func call(t *testing.T, method, url string, q sent) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(q.body))
	if err != nil {
		t.Fatal(err)
	}
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	for name, value := range q.headers {
		r.Header.Set(name, value)
	}
	if host := q.headers["Host"]; host != "" {
		r.Host = host
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	reply, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(text)
}

// TestPermissions asks, as each client, in each way.
func TestPermissions(t *testing.T) {
	c := policyConfig(t, checkout)
	c.Envoy, c.Clients = envoyConfig(t, "domain: edge\ndescriptors: [{key: a, rate_limit: {unit: minute, requests_per_unit: 100}}]\n").Envoy, known(t)
	d := start(t, Options{Config: c})
	const (
		ok     = codes.OK
		who    = codes.Unauthenticated
		denied = codes.PermissionDenied
	)
	type row struct{ checkout, cart, other, policy, gold, reset, edge, metrics codes.Code }
	for name, want := range map[string]row{
		"nobody": {who, who, who, who, who, who, who, who},
		"forged": {who, who, who, who, who, who, who, who},
		"shop":   {ok, ok, denied, ok, codes.NotFound, denied, denied, denied},
		"gold":   {denied, denied, denied, ok, codes.NotFound, denied, denied, denied},
		"ops":    {ok, ok, ok, ok, codes.NotFound, ok, ok, ok},
		"idle":   {denied, denied, denied, denied, denied, denied, denied, denied},
	} {
		token := tokens[name]
		if name == "forged" {
			token = auth.NewToken()
		}
		conn := d.as(t, token)
		client := ratelimitv1.NewRateLimitServiceClient(conn)
		var got row
		for _, q := range []struct {
			got                         *codes.Code
			namespace, identifier, name string
		}{
			{&got.checkout, "checkout", "a " + name, ""}, {&got.cart, "cart-eu", "a", ""}, {&got.other, "billing", "a", ""},
			{&got.policy, "checkout", "internal-a", "default"}, {&got.gold, "checkout", "a", "gold"},
		} {
			in := &ratelimitv1.ShouldAllowRequest{Namespace: q.namespace, Identifier: q.identifier, Policy: q.name}
			body := fmt.Sprintf(`{"namespace":%q,"identifier":%q,"policy":%q}`, q.namespace, q.identifier, q.name)
			query := fmt.Sprintf("namespace=%s&identifier=a&policy=%s", q.namespace, q.name)
			if q.name == "" {
				in.Limits = []*ratelimitv1.Limit{limit("1000/min")}
				body = fmt.Sprintf(`{"namespace":%q,"identifier":%q,"limits":[{"rate":"1000/min"}]}`, q.namespace, q.identifier)
				query = fmt.Sprintf("namespace=%s&identifier=a&rate=1000/min", q.namespace)
			}
			_, err := client.ShouldAllow(t.Context(), in)
			*q.got = status.Code(err)
			// The other ways say the same.
			wantHTTP := map[codes.Code]int{ok: 200, who: 401, denied: 403, codes.NotFound: 404}[*q.got]
			if code, text := call(t, http.MethodPost, "http://"+d.HTTPAddr()+"/v1/should-allow", sent{body, token, nil}); code != wantHTTP {
				t.Errorf("%s, %s over HTTP: %d %s, want %d", name, body, code, text, wantHTTP)
			}
			if code, text := call(t, http.MethodGet, "http://"+d.HTTPAddr()+"/v1/authorize?"+query, sent{"", token, nil}); code != wantHTTP && (wantHTTP != 200 || code != 429) {
				t.Errorf("%s, %s: %d %s, want %d", name, query, code, text, wantHTTP)
			}
			if *q.got == who {
				continue
			}
			batch := &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{in, askPolicy("internal-b", "default")}}
			out, err := client.ShouldAllowBatch(t.Context(), batch)
			if err != nil || codes.Code(out.GetResults()[0].GetError().GetCode()) != *q.got { //nolint:gosec // a code
				t.Errorf("%s, %v in a batch: %v, %v, want %v", name, in, out, err, *q.got)
			}
			if inBatch := codes.Code(out.GetResults()[1].GetError().GetCode()); name != "idle" && inBatch != ok { //nolint:gosec // a code
				t.Errorf("%s: beside %v, what is permitted gets %v", name, in, inBatch)
			}
			stream, err := client.ShouldAllowStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(batch); err != nil {
				t.Fatal(err)
			}
			if out, err := stream.Recv(); err != nil || codes.Code(out.GetResults()[0].GetError().GetCode()) != *q.got { //nolint:gosec // a code
				t.Errorf("%s, %v on a stream: %v, %v, want %v", name, in, out, err, *q.got)
			}
			_ = stream.CloseSend()
		}
		_, err := client.Reset(t.Context(), &ratelimitv1.ResetRequest{Namespace: "checkout", Identifier: "a", Policy: "default"})
		got.reset = status.Code(err)
		for _, key := range []string{"a", "unknown"} { // one that has no limit is refused all the same
			out, err := rlsv3.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), envoyAsk(1, key+"=b"))
			got.edge = status.Code(err)
			if got.edge != want.edge {
				t.Errorf("%s asks as Envoy for %s: %v, %v", name, key, out, err)
			}
		}
		wantHTTP := map[codes.Code]int{ok: 200, who: 401, denied: 403}
		code, text := call(t, http.MethodPost, "http://"+d.HTTPAddr()+"/json", sent{`{"domain":"edge","descriptors":[{"entries":[{"key":"none","value":"b"}]}]}`, token, nil})
		if code != wantHTTP[want.edge] {
			t.Errorf("%s, /json: %d %s", name, code, text)
		}
		for _, path := range []string{"/metrics", "/rlconfig"} {
			code, text := call(t, http.MethodGet, "http://"+d.HTTPAddr()+path, sent{"", token, nil})
			if code != wantHTTP[want.metrics] {
				t.Errorf("%s, %s: %d %.200s", name, path, code, text)
			}
		}
		got.metrics = want.metrics
		if got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
		// Health is everybody's, and reflection is for those who are known.
		if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
			t.Errorf("%s: health: %v", name, err)
		}
		for _, path := range []string{"/healthz", "/readyz", "/healthcheck"} {
			if code, text := call(t, http.MethodGet, "http://"+d.HTTPAddr()+path, sent{"", token, nil}); code != 200 {
				t.Errorf("%s: %s: %d %s", name, path, code, text)
			}
		}
		listing, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
		if err == nil {
			_ = listing.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
			_, err = listing.Recv()
			_ = listing.CloseSend()
		}
		if isKnown := want.checkout != who; (err == nil) != isKnown || !isKnown && status.Code(err) != who {
			t.Errorf("%s: reflection: %v", name, err)
		}
	}
	if code, _ := call(t, http.MethodGet, "http://"+d.HTTPAddr()+"/metrics", sent{"", tokens["scraper"], nil}); code != 200 {
		t.Errorf("the scraper is refused: %d", code)
	}
	for reason, most := range map[string]float64{"no_credentials": 1, "unknown_token": 1, "forbidden_namespace": 1, "forbidden_policy": 1, "forbidden_operation": 1} {
		if n := d.metric(t, "ratelimitd_auth_failures_total", "reason="+reason); n < most {
			t.Errorf("%s: %v failures are counted", reason, n)
		}
	}
	if n := d.log.lines("a call is refused, as nobody knows"); n != 1 {
		t.Errorf("%d lines are logged of strangers, want 1", n)
	}
}

// TestForbiddenText holds that a refusal says who may not do what.
func TestForbiddenText(t *testing.T) {
	c := policyConfig(t, checkout)
	c.Clients = known(t)
	d := start(t, Options{Config: c})
	_, err := ratelimitv1.NewRateLimitServiceClient(d.as(t, tokens["shop"])).ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "billing", Identifier: "a", Policy: "p"})
	const want = `client "shop" has no permission for operation decide in namespace "billing"; see the server's --auth-file`
	if status.Convert(err).Message() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = d.client.ShouldAllow(t.Context(), ask("a", limit("1/s")))
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), `send a token as "authorization: Bearer TOKEN"`) {
		t.Errorf("without credentials: %v", err)
	}
}

// TestTokenIsWithdrawn changes the clients while calls are made and a stream is open.
func TestTokenIsWithdrawn(t *testing.T) {
	c := policyConfig(t, checkout)
	one, two := auth.NewToken(), auth.NewToken()
	file := func(namespace string, tokens ...string) *Config {
		lines := make([]string, len(tokens))
		for i, token := range tokens {
			lines[i] = auth.HashLine(token)
		}
		next := *c
		next.Clients = clients(t, fmt.Sprintf("clients: [{name: shop, tokens: [%s], namespaces: [%s]}]", strings.Join(lines, ", "), namespace))
		return &next
	}
	d := start(t, Options{Config: file("checkout", one)})
	client := ratelimitv1.NewRateLimitServiceClient(d.as(t, one))
	stream, err := client.ShouldAllowStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{ask("a", limit("100/s"))}}
	exchange := func() (codes.Code, error) {
		if err := stream.Send(in); err != nil {
			return 0, err
		}
		out, err := stream.Recv()
		if err != nil {
			return 0, err
		}
		return codes.Code(out.GetResults()[0].GetError().GetCode()), nil //nolint:gosec // a code
	}
	for _, step := range []struct {
		in     *Config
		result codes.Code
		ends   codes.Code
	}{
		{nil, codes.OK, codes.OK},
		{file("checkout", one, two), codes.OK, codes.OK}, // both, while the client is given the new one
		{file("cart", one), codes.PermissionDenied, codes.OK},
		{file("checkout", two), codes.OK, codes.Unauthenticated},
	} {
		if step.in != nil {
			d.SetConfig(step.in)
		}
		result, err := exchange()
		if status.Code(err) != step.ends || result != step.result {
			t.Errorf("on the stream: %v, %v, want %v, %v", result, err, step.result, step.ends)
		}
	}
	if _, err := client.ShouldAllow(t.Context(), ask("a", limit("100/s"))); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the old token: %v", err)
	}
	if _, err := ratelimitv1.NewRateLimitServiceClient(d.as(t, two)).ShouldAllow(t.Context(), ask("a", limit("100/s"))); err != nil {
		t.Errorf("the new token: %v", err)
	}
}

// TestStrangersOnOpenPorts starts daemons that know no clients, on loopback and beyond.
func TestStrangersOnOpenPorts(t *testing.T) {
	const loopback, everywhere = "127.0.0.1:0", ":0"
	for name, tt := range map[string]struct {
		grpc, http, admin string
		allowReset        bool
		reset             codes.Code
		rlconfig, onAdmin int
		warnings          int
	}{
		"loopback":   {loopback, loopback, loopback, false, codes.OK, 200, 200, 0},
		"everywhere": {everywhere, everywhere, everywhere, false, codes.PermissionDenied, 403, 403, 2},
		"told to":    {everywhere, loopback, loopback, true, codes.OK, 200, 200, 1},
		"HTTP alone": {loopback, everywhere, loopback, false, codes.OK, 403, 200, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, Options{GRPCAddr: tt.grpc, HTTPAddr: tt.http, AdminAddr: tt.admin, LogLevel: new(slog.LevelVar), Config: policyConfig(t, checkout), Trust: Trust{AllowReset: tt.allowReset}})
			_, err := d.client.Reset(t.Context(), &ratelimitv1.ResetRequest{Namespace: "checkout", Identifier: "a", Policy: "default"})
			if status.Code(err) != tt.reset || err != nil && !strings.Contains(err.Error(), "--auth-file, or with --allow-reset") {
				t.Errorf("Reset: %v, want %v", err, tt.reset)
			}
			if _, err := d.client.ShouldAllow(t.Context(), ask("a", limit("100/s"))); err != nil {
				t.Errorf("a decision: %v", err)
			}
			if code, text := d.get(t, "/rlconfig"); code != tt.rlconfig {
				t.Errorf("/rlconfig: %d %s, want %d", code, text, tt.rlconfig)
			}
			if code, _ := d.get(t, "/metrics"); code != 200 {
				t.Errorf("/metrics: %d", code)
			}
			admin := strings.Replace(d.AdminAddr(), "[::]", "127.0.0.1", 1)
			for _, path := range []string{"/rlconfig", "/hot-keys", "/debug/pprof/"} {
				if code, text := call(t, http.MethodGet, "http://"+admin+path, sent{"", "", nil}); code != tt.onAdmin {
					t.Errorf("%s on the admin port: %d %s, want %d", path, code, text, tt.onAdmin)
				}
			}
			if n := d.log.lines("no authentication:") + d.log.lines("the admin port refuses every request"); n != tt.warnings {
				t.Errorf("%d warnings, want %d", n, tt.warnings)
			}
		})
	}
}

// TestAdminOnOpenPort asks the admin port beyond loopback, as each client.
func TestAdminOnOpenPort(t *testing.T) {
	c := policyConfig(t, checkout)
	c.Clients = known(t)
	level := new(slog.LevelVar)
	d := start(t, Options{AdminAddr: ":0", LogLevel: level, Config: c})
	admin := "http://" + strings.Replace(d.AdminAddr(), "[::]", "127.0.0.1", 1)
	for name, want := range map[string]int{"nobody": 401, "shop": 403, "scraper": 403, "ops": 200} {
		for _, path := range []string{"/", "/configuration", "/hot-keys", "/loglevel", "/metrics", "/rlconfig", "/debug/pprof/"} {
			if code, text := call(t, http.MethodGet, admin+path, sent{"", tokens[name], nil}); code != want {
				t.Errorf("%s: GET %s: %d %.100s, want %d", name, path, code, text, want)
			}
		}
		if code, _ := call(t, http.MethodPut, admin+"/loglevel", sent{"debug", tokens[name], nil}); code != want {
			t.Errorf("%s: PUT /loglevel: %d, want %d", name, code, want)
		}
		if set := level.Level() == slog.LevelDebug; set != (want == 200) {
			t.Errorf("%s: the level is %v", name, level.Level())
		}
		level.Set(slog.LevelInfo)
	}
}

// TestAdminHost asks the admin port by names that an attacker may have point to it, and
// from pages of other sites.
func TestAdminHost(t *testing.T) {
	level := new(slog.LevelVar)
	d := start(t, Options{AdminAddr: "127.0.0.1:0", LogLevel: level, Trust: Trust{AdminHosts: []string{"Limits.Example.org"}}})
	for _, tt := range []struct {
		method  string
		headers map[string]string
		code    int
	}{
		{"GET", nil, 200},
		{"GET", map[string]string{"Host": "localhost:6070"}, 200},
		{"GET", map[string]string{"Host": "LOCALHOST."}, 200},
		{"GET", map[string]string{"Host": "[::1]:6070"}, 200},
		{"GET", map[string]string{"Host": "127.9.9.9"}, 200},
		{"GET", map[string]string{"Host": "limits.example.org:6070"}, 200},
		{"GET", map[string]string{"Host": "attacker.example"}, 421},
		{"GET", map[string]string{"Host": "localhost.attacker.example"}, 421},
		{"GET", map[string]string{"Host": "127.0.0.1.attacker.example"}, 421},
		{"GET", map[string]string{"Host": "10.0.0.1"}, 421},
		{"PUT", map[string]string{"Host": "attacker.example"}, 421},
		{"PUT", map[string]string{"Origin": "http://attacker.example"}, 403},
		{"PUT", map[string]string{"Origin": "null"}, 403},
		{"PUT", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"PUT", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"GET", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"GET", map[string]string{"Sec-Fetch-Site": "none"}, 200},
		{"PUT", map[string]string{"Sec-Fetch-Site": "same-origin"}, 200},
	} {
		level.Set(slog.LevelInfo)
		code, text := call(t, tt.method, "http://"+d.AdminAddr()+"/loglevel", sent{"debug", "", tt.headers})
		if code != tt.code || (level.Level() == slog.LevelDebug) != (tt.method == "PUT" && code == 200) {
			t.Errorf("%s %v: %d %s, want %d; the level is %v", tt.method, tt.headers, code, text, tt.code, level.Level())
		}
	}
	for _, reason := range []string{"foreign_host", "cross_site"} {
		if n := d.metric(t, "ratelimitd_auth_failures_total", "reason="+reason); n < 5 {
			t.Errorf("%s: %v are counted", reason, n)
		}
	}
}

// TestCrossSite has pages of other sites try to consume quota, and proxies hand on
// what browsers send them.
func TestCrossSite(t *testing.T) {
	c := policyConfig(t, checkout)
	c.Envoy = envoyConfig(t, "domain: edge\ndescriptors: [{key: a, rate_limit: {unit: minute, requests_per_unit: 100}}]\n").Envoy
	d := start(t, Options{Config: c})
	const ownPage = "http://limits.example.org"
	bodies := map[string]string{
		"/v1/should-allow": `{"namespace":"n","identifier":"a","limits":[{"rate":"100/min"}]}`,
		"/json":            `{"domain":"edge","descriptors":[{"entries":[{"key":"a","value":"b"}]}]}`,
		"/v1/authorize?namespace=n&identifier=b&rate=100/min": "",
	}
	for _, path := range slices.Sorted(maps.Keys(bodies)) {
		proxied := strings.HasPrefix(path, "/v1/authorize")
		for _, tt := range []struct {
			headers map[string]string
			refused bool
		}{
			{nil, false},
			{map[string]string{"Origin": "http://attacker.example"}, true},
			{map[string]string{"Origin": "null"}, true},
			{map[string]string{"Sec-Fetch-Site": "cross-site"}, true},
			{map[string]string{"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, true},
			{map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": ownPage, "Host": "limits.example.org"}, true}, // rebound
			{map[string]string{"Origin": ownPage, "Host": "limits.example.org"}, true},                                  // likewise
			{map[string]string{"Host": "limits.example.org"}, false},                                                    // a service, through a proxy
			{map[string]string{"Content-Type": "text/plain"}, false},
		} {
			want := 200
			if tt.refused && !proxied {
				want = 403
			}
			if code, text := call(t, http.MethodPost, "http://"+d.HTTPAddr()+path, sent{bodies[path], "", tt.headers}); code != want {
				t.Errorf("%s %v: %d %s, want %d", path, tt.headers, code, text, want)
			}
		}
	}
	if code, _ := call(t, http.MethodGet, "http://"+d.HTTPAddr()+"/rlconfig", sent{"", "", map[string]string{"Host": "attacker.example"}}); code != 403 {
		t.Errorf("/rlconfig by a name that was rebound: %d", code)
	}
	c.Clients = known(t)
	closed := start(t, Options{Config: c})
	if code, _ := call(t, http.MethodGet, "http://"+closed.HTTPAddr()+"/rlconfig", sent{"", tokens["ops"], map[string]string{"Host": "limits.example.org"}}); code != 200 {
		t.Errorf("/rlconfig through a proxy, with a token: %d", code)
	}
	if code, _ := call(t, http.MethodPost, "http://"+closed.HTTPAddr()+"/v1/should-allow", sent{bodies["/v1/should-allow"], tokens["ops"], map[string]string{"Origin": "http://attacker.example"}}); code != 403 {
		t.Errorf("a page of another site, with a token: %d", code)
	}
}
