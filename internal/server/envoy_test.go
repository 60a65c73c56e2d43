package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi/envoytest"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
)

// throughEnvoy starts a real Envoy with the configuration that operators copy, in
// front of a service that counts the requests that reach it, and answers with their keys.
func throughEnvoy(t *testing.T, d *daemon) (e *envoytest.Envoy, reached *atomic.Int64) {
	t.Helper()
	return throughEnvoyOf(t, "envoy.yaml", "port_value: 8081", "port_value: "+envoytest.PortOf(t, d.GRPCAddr()), "max_interval: 0.1s", "max_interval: 20s")
}

// throughEnvoyOf does so with one of the configurations, and with edits to it.
func throughEnvoyOf(t *testing.T, file string, edits ...string) (e *envoytest.Envoy, reached *atomic.Int64) {
	t.Helper()
	reached = new(atomic.Int64)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		for name, values := range r.Header { // as a service does that reads x_api_key as x-api-key
			if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "x-api-key") {
				fmt.Fprintf(w, "keys %q", values)
			}
		}
	}))
	t.Cleanup(service.Close)
	data, err := os.ReadFile(deployed + file)
	if err != nil {
		t.Fatal(err)
	}
	text := envoytest.Edit(t, string(data), append([]string{
		"{address: 0.0.0.0, port_value: 10000}", "{address: 127.0.0.1, port_value: 0}",
		"port_value: 8000", "port_value: " + envoytest.PortOf(t, service.Listener.Addr().String()),
		"timeout: 0.1s", "timeout: 20s", // on a loaded machine
	}, edits...)...)
	return envoytest.Start(t, text), reached
}

// TestExtAuthzThroughEnvoy has a real Envoy ask the HTTP port by ext_authz: a client is held
// to its limit whatever it claims to be, and is told nothing of how the limit is kept.
func TestExtAuthzThroughEnvoy(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, webPolicies)})
	port := []string{"port_value: 8080", "port_value: " + envoytest.PortOf(t, d.HTTPAddr())}
	e, reached := throughEnvoyOf(t, "ext-authz.yaml", port...)
	for i := range 8 {
		reply, text := fetch(t, http.MethodPost, e.URL+"/some/path?x=1", "payload", http.Header{"X-Forwarded-For": {fmt.Sprintf("203.0.113.%d", i)}})
		want := http.StatusOK
		if i >= 5 {
			want = http.StatusTooManyRequests
			if retry := reply.Header.Get("Retry-After"); retry != "60" || reply.Header.Get("RateLimit") != `"burst";r=0;t=60` {
				t.Errorf("request %d: Retry-After %q, headers %v", i, retry, reply.Header)
			}
		}
		if reply.StatusCode != want {
			t.Errorf("request %d: %s %s, want %d", i, reply.Status, text, want)
		}
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PURGE", "get"} {
		for _, headers := range []string{
			"X-Forwarded-For: " + strings.Repeat("203.0.113.7, ", 4000) + "203.0.113.7\r\n", "X-Forwarded-For: \xff\r\nX-Forwarded-For:\r\n", "X_Forwarded_For: 203.0.113.7\r\n",
			"Forwarded: for=203.0.113.7\r\nX-Real-IP: 203.0.113.7\r\nTrue-Client-IP: 203.0.113.7\r\n", "Expect: 100-continue\r\n", "Connection: X-Forwarded-For\r\n", "Content-Length: 0\r\n",
		} {
			send(t, e, method+" /", headers)
		}
	}
	if n := reached.Load(); n != 5 {
		t.Errorf("%d requests reached the service, want 5", n)
	}
	for _, wrong := range [][2]string{{"policy=default", "policy=gold"}, {"{exact: x-forwarded-for}", "{exact: x-other}"}} {
		e, reached := throughEnvoyOf(t, "ext-authz.yaml", append(port[:2:2], wrong[:]...)...)
		reply, text := fetch(t, http.MethodGet, e.URL, "", nil)
		if reply.StatusCode != http.StatusNotFound && reply.StatusCode != http.StatusBadRequest || reached.Load() != 0 {
			t.Errorf("%v: %s, and %d requests reached the service", wrong, reply.Status, reached.Load())
		}
		if !strings.Contains(text, hiddenReason) {
			t.Errorf("%v: the client is told %s", wrong, text)
		}
	}
}

// hiddenReason is what end clients are told.
const hiddenReason = "the limit of this request cannot be checked"

// send sends a request as it is, and returns its answer: a client of Go would correct it.
// The headers are lines, each with its end.
func send(t *testing.T, e *envoytest.Envoy, request, headers string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(e.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: service\r\n%sConnection: close\r\n\r\n", request, headers); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(request, " ")
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method}) // Envoy closes late what it refuses
	if err != nil {
		t.Fatalf("%s, %q: %v", request, headers, err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status + " " + string(body)
}

// TestRetryAfterThroughEnvoy has a client of a real Envoy empty a bucket: it is told
// to come back when a request can pass, and not when the bucket is full again.
func TestRetryAfterThroughEnvoy(t *testing.T) {
	s, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, Options{Store: s, StoreName: "memory", Config: envoyConfig(t, `
domain: edge
descriptors: [{key: api_key, rate_limit: {unit: minute, requests_per_unit: 6, strategy: token_bucket, burst: 3}}]
`)})
	e, _ := throughEnvoy(t, d)
	var passed int
	for range 10 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.URL, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Api-Key", "alice")
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = reply.Body.Close()
		if reply.StatusCode == http.StatusOK {
			passed++
			continue
		}
		wait, err := strconv.Atoi(reply.Header.Get("Retry-After"))
		if reply.StatusCode != http.StatusTooManyRequests || err != nil || wait < 1 || wait > 10 || passed < 3 {
			t.Errorf("after %d: status %d, Retry-After %q; want 429 after 3, with 1 to 10 s", passed, reply.StatusCode, reply.Header.Get("Retry-After"))
		}
		if got := reply.Header.Get("X-Ratelimit-Reset"); got != reply.Header.Get("Retry-After") {
			t.Errorf("X-RateLimit-Reset %q, Retry-After %q, want them the same", got, reply.Header.Get("Retry-After"))
		}
		return
	}
	t.Errorf("%d requests passed, want one denied", passed)
}

// TestLoginThroughEnvoy has clients of a real Envoy look for a way around the
// example's limit of 20 logins an hour: by other spellings of the path, and by
// bytes in the header that they are known by.
func TestLoginThroughEnvoy(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, exampleLimits(t, 1000))})
	e, reached := throughEnvoy(t, d)
	for _, key := range []string{"alice", "\xff", "\xfe"} {
		reached.Store(0)
		for range 3 {
			for _, path := range []string{
				"/login", "/login?x=1", "/login?", "/login/", "/login/?a=b", "//login", "/./login", "/a/../login", "/%6cogin", "/login#x", "/%2Flogin", "/login;x=1",
				"/LOGIN", "/login%3bx=1", "/login%20", "/login.", "/login%00", "\\login", "http://service/login", "http://service:80/login?x",
			} {
				send(t, e, "GET "+path, "X-Api-Key: "+key+"\r\n")
			}
		}
		if n := reached.Load(); n > 20 {
			t.Errorf("%d logins of %q reached the service, want 20 at most", n, key)
		} else if n < 10 {
			t.Errorf("%d logins of %q reached the service: is it limited by something else?", n, key)
		}
	}
	if n := d.metric(t, "ratelimitd_undecodable_messages_total"); n != 0 {
		t.Errorf("%v messages could not be decoded, want none", n)
	}
}

// exampleLimits returns the limits beside the example of Envoy, but for those of an
// address: a test has one, which may send many requests and so many logins.
func exampleLimits(t *testing.T, logins int) string {
	t.Helper()
	limits, err := os.ReadFile(deployed + "ratelimit/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return envoytest.Edit(t, string(limits), "unit: second\n      requests_per_unit: 100\n", "unit: second\n      requests_per_unit: 100000\n",
		"unit: hour\n          requests_per_unit: 100\n", fmt.Sprintf("unit: hour\n          requests_per_unit: %d\n", logins))
}

// TestKeysThroughEnvoy has a client of a real Envoy whose key may send no more logins send
// others, in each way in which the service may still know it; and then send keys that
// nobody has.
func TestKeysThroughEnvoy(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, exampleLimits(t, 60))})
	e, reached := throughEnvoy(t, d)
	for range 20 {
		send(t, e, "GET /login", "X-Api-Key: alice\r\n")
	}
	if n := reached.Swap(0); n != 20 {
		t.Fatalf("%d logins reached the service, want 20", n)
	}
	for _, headers := range []string{
		"X-Api-Key: alice\r\n", "x-api-key:\t alice \t\r\n", "X-API-KEY: alice\r\n", "X-Api-Key: alice\r\nX-Api-Key: alice\r\n", "X-Api-Key: alice\r\nX-Api-Key:\r\n",
		"X-Api-Key: alice,\r\n", "X-Api-Key:\r\nX-Api-Key: alice\r\n", "X_Api_Key: alice\r\n", "X-Api_Key: alice\r\n", "X-Api-Key : alice\r\n", "X-Api-Key: al\x00ice\r\n",
		"X-Api-Key:\r\n alice\r\n", "X-Api-Key: alice\r\nX-Forwarded-For: 203.0.113.9\r\n", "X-Api-Key: alice\r\nX-Envoy-External-Address: 203.0.113.9\r\nX-Envoy-Internal: true\r\n",
		"X-Api-Key: alice\r\nX-Envoy-Original-Path: /\r\n", "X-Api-Key: alice\r\nX-Envoy-Expected-Rq-Timeout-Ms: 1\r\nX-Envoy-Upstream-Rq-Timeout-Ms: 1\r\n",
		"X-Api-Key: alice\r\nHost: service.\r\n", "X-Api-Key: alice\r\nTransfer-Encoding: chunked\r\n",
	} {
		if answer := send(t, e, "GET /login", headers); strings.Contains(answer, `"alice"`) {
			t.Errorf("%q: the service is asked by alice: %s", headers, answer)
		}
	}
	// Neither no key nor new ones are a way around the limit of the address. Those above
	// have taken some of its 60.
	reached.Store(0)
	for i := range 80 {
		headers := ""
		if i%2 == 0 {
			headers = fmt.Sprintf("X-Api-Key: %s%d\r\n", strings.Repeat("k", 500*i), i)
		}
		send(t, e, "GET /login", headers)
	}
	if n := reached.Load(); n > 40 || n < 10 {
		t.Errorf("%d logins without a key or with new ones reached the service, want up to 40", n)
	}
}

const features = `
domain: edge
descriptors:
  - {key: path, value: /api/*/action, rate_limit: {unit: day, requests_per_unit: 2}}
  - key: tenant
    descriptors:
      - {key: tier, value: gold, rate_limit: {unit: day, requests_per_unit: 2}}
      - {key: tier, rate_limit: {unit: hour, requests_per_unit: 1}}
  - {key: model, value: big, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: model, value: small, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 2}}
  - {key: tried, shadow_mode: true, rate_limit: {unit: day, requests_per_unit: 1}}
  - {key: page, rate_limit: {name: each_page, unit: day, requests_per_unit: 1}}
  - {key: site, rate_limit: {unit: day, requests_per_unit: 9, replaces: [{name: each_page}]}}
  - {key: free, rate_limit: {unlimited: true}}
  - {key: custom, rate_limit: {unit: day, requests_per_unit: 100}}
  - {key: bytes, rate_limit: {unit: day, requests_per_unit: 10}}
`

// TestFeaturesThroughEnvoy has a real Envoy make the descriptors, and obey the
// answers, of each kind of limit that its users configure.
func TestFeaturesThroughEnvoy(t *testing.T) {
	config, err := os.ReadFile("testdata/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, Options{Config: envoyConfig(t, features)})
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(service.Close)
	e := envoytest.Start(t, envoytest.Edit(t, string(config),
		"port_value: 8000", "port_value: "+envoytest.PortOf(t, service.Listener.Addr().String()),
		"port_value: 8081", "port_value: "+envoytest.PortOf(t, d.GRPCAddr())))
	ask := func(headers ...string) httpAnswer {
		header := http.Header{}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, "=")
			header.Set(name, value)
		}
		reply, _ := fetch(t, http.MethodGet, e.URL, "", header)
		return reply
	}
	for _, tt := range []struct {
		what    string
		headers []string
		codes   string // of the same request again and again
	}{
		{"a wildcard", []string{"x-path=/api/1/action"}, "200 200 429"},
		{"a wildcard, another value", []string{"x-path=/api/2/action"}, "200"},
		{"no match", []string{"x-path=/api/1"}, "200 200 200"},
		{"nested", []string{"x-tenant=a", "x-tier=gold"}, "200 200 429"},
		{"nested, any value", []string{"x-tenant=a", "x-tier=free"}, "200 429"},
		{"nested, another parent", []string{"x-tenant=b", "x-tier=free"}, "200 429"},
		{"half of a nested one", []string{"x-tenant=a"}, "200 200 200"},
		{"two quotas", []string{"x-model=big", "x-other-model=small"}, "200 200 429"}, // until both are used up
		{"shadow mode", []string{"x-tried=a"}, "200 200 200"},
		{"replaced", []string{"x-page=a", "x-site=a"}, "200 200 200"},
		{"what was replaced", []string{"x-page=a"}, "200 429"},
		{"unlimited", []string{"x-free=a"}, "200 200 200"},
		{"an override from dynamic metadata", []string{"x-custom=a"}, "200 200 429"},
		{"hits by a format", []string{"x-bytes-of=a", "x-bytes=4"}, "200 200 429"},
		{"hits by a format, after some that did not fit", []string{"x-bytes-of=a", "x-bytes=2"}, "429"},
	} {
		var codes []string
		for range strings.FieldsSeq(tt.codes) {
			codes = append(codes, fmt.Sprint(ask(tt.headers...).StatusCode))
		}
		if got := strings.Join(codes, " "); got != tt.codes {
			t.Errorf("%s: %v: got %s, want %s", tt.what, tt.headers, got, tt.codes)
		}
	}

	reply := ask("x-tenant=a", "x-tier=free") // at midnight, with an hour to go
	for name, want := range map[string]string{
		"Retry-After": "3600", "X-Ratelimit-Limit": "1, 1;w=3600", "X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": "3600", "X-Envoy-Ratelimited": "true",
	} {
		if got := reply.Header.Get(name); got != want {
			t.Errorf("denied: %s is %q, want %q", name, got, want)
		}
	}

	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	if reply := ask("x-free=a"); reply.StatusCode != http.StatusInternalServerError {
		t.Errorf("without a daemon, and with failure_mode_deny: %s, want 500", reply.Status)
	}
}
