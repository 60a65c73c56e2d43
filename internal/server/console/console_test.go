package console_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// An answer is what the admin port says.
type answer struct {
	code   int
	header http.Header
	body   string
}

// send sends a request to the admin port with some headers, each name: value.
func (d *daemon) send(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.AdminAddr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
		}
		r.Header.Set(name, value)
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
	return answer{reply.StatusCode, reply.Header, string(text)}
}

// get returns the status and the body of a page.
func (d *daemon) get(t *testing.T, path string) (int, string) {
	t.Helper()
	a := d.send(t, http.MethodGet, path, "")
	return a.code, a.body
}

const (
	isJSON  = "Content-Type: application/json"
	isForm  = "Content-Type: multipart/form-data; boundary=x"
	mallory = `{"namespace": "checkout", "identifier": "mallory", "policy": "default", "cost": 1}`
)

// TestPageIsStrict looks at what the page is allowed to do.
func TestPageIsStrict(t *testing.T) {
	d := start(t, nil)
	page := d.send(t, http.MethodGet, "/", "", "Accept: text/html,application/xhtml+xml,*/*;q=0.8")
	if page.code != 200 || !strings.Contains(page.body, "<!doctype html>") {
		t.Fatalf("the page: %d, %.50s", page.code, page.body)
	}
	for _, forbidden := range []string{"<script>", "<style", "style=", "onclick=", "http://", "https://", "//cdn"} {
		if strings.Contains(page.body, forbidden) {
			t.Errorf("the page has %s", forbidden)
		}
	}
	policy := page.header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy has no %s: %s", want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("the policy: %s", policy)
	}
	if page.header.Get("X-Content-Type-Options") != "nosniff" || page.header.Get("Vary") != "Accept" {
		t.Errorf("headers: %v", page.header)
	}
	for _, accept := range []string{"text/plain", "*/*", ""} {
		if a := d.send(t, http.MethodGet, "/", "", "Accept: "+accept); !strings.HasPrefix(a.body, "ratelimitd: admin") {
			t.Errorf("who accepts %q gets %.50s", accept, a.body)
		}
	}
	for _, path := range []string{"/console/assets/nothing.js", "/console/assets/../console.go", "/console/assets/", "/console/nothing"} {
		if code, _ := d.get(t, path); code != 404 && code != 307 && code != 301 {
			t.Errorf("%s: %d", path, code)
		}
	}
}

// TestNobodyElseMayAct has pages of other sites, names that point here and forms try to change
// or to read something.
func TestNobodyElseMayAct(t *testing.T) {
	d := start(t, nil)
	d.ask(t, "checkout", "mallory", 12)
	for _, tt := range []struct {
		what, method, path string
		headers            []string
		code               int
	}{
		{"a GET", "GET", "/console/reset", nil, 405},
		{"a page of another site", "POST", "/console/reset", []string{isJSON, "Sec-Fetch-Site: cross-site"}, 403},
		{"one of the same machine, by another port", "POST", "/console/reset", []string{isJSON, "Sec-Fetch-Site: same-site"}, 403},
		{"one of an old browser", "POST", "/console/reset", []string{isJSON, "Origin: http://evil.example"}, 403},
		{"a form", "POST", "/console/reset", []string{"Content-Type: text/plain"}, 415},
		{"a form with a file", "POST", "/console/reset", []string{isForm}, 415},
		{"a name that points here", "POST", "/console/reset", []string{isJSON, "Host: evil.example"}, 421},
		{"a name that points here, to read", "GET", "/console/overview", []string{"Host: evil.example"}, 421},
		{"another site, to read", "GET", "/console/overview", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"another site, the page", "GET", "/", []string{"Accept: text/html", "Host: evil.example"}, 421},
		{"another site, to replay", "POST", "/console/replay", []string{isForm, "Origin: http://evil.example"}, 403},
		{"the page", "POST", "/console/look-up", []string{isJSON, "Sec-Fetch-Site: same-origin"}, 200},
	} {
		if a := d.send(t, tt.method, tt.path, mallory, tt.headers...); a.code != tt.code {
			t.Errorf("%s: %d, %s; want %d", tt.what, a.code, a.body, tt.code)
		}
	}
	if strings.Contains(d.log.String(), "was reset") {
		t.Errorf("somebody has reset mallory: %s", d.log.String())
	}
	if a := d.send(t, "POST", "/console/look-up", mallory, isJSON); !strings.Contains(a.body, `"remaining": 0`) {
		t.Errorf("mallory's limits: %s", a.body)
	}
	if a := d.send(t, "POST", "/console/reset", mallory, isJSON); a.code != 200 {
		t.Errorf("an operator: %d, %s", a.code, a.body)
	}
}

// TestWrongQuestions sends what cannot be answered.
func TestWrongQuestions(t *testing.T) {
	d := start(t, nil)
	form := func(parts ...string) string {
		var b strings.Builder
		for i := 0; i < len(parts); i += 2 {
			b.WriteString("--x\r\nContent-Disposition: form-data; name=\"" + parts[i] + "\"; filename=\"f\"\r\n\r\n" + parts[i+1] + "\r\n")
		}
		return b.String() + "--x--\r\n"
	}
	for _, tt := range []struct {
		path, body, kind string
		code             int
		says             string
	}{
		{"/console/look-up", `{}`, isJSON, 400, "namespace"},
		{"/console/look-up", `{"namespace": "checkout"}`, isJSON, 400, "identifier"},
		{"/console/look-up", `{"namespace": "checkout", "identifier": "a", "policy": "none"}`, isJSON, 400, "none"},
		{"/console/look-up", `{"namespace": "x", "identifier": "a", "rate": "1/min", "strategy": "magic"}`, isJSON, 400, "magic"},
		{"/console/look-up", `{"namespace": "x", "identifier": "a", "rate": "often"}`, isJSON, 200, "often"},
		{"/console/look-up", `{"nonsense": 1}`, isJSON, 400, "nonsense"},
		{"/console/look-up", strings.Repeat(" ", 20<<10), isJSON, 400, "too long"},
		{"/console/reset", `{"namespace": "checkout", "identifier": "a"}`, isJSON, 400, "policy: empty"},
		{"/console/validate", `{"yaml": "namespaces: {a: {policies: {b: {}}}}"}`, isJSON, 200, "a policy needs limits"},
		{"/console/validate", `{"yaml": "auth_file: /etc/passwd\nnamespaces: {}"}`, isJSON, 200, `"problems": []`}, // which is not opened
		{"/console/validate", `{"yaml": "redis_password: hush\nredis_password: hush"}`, isJSON, 200, `"source": ""`},
		{"/console/validate", `{"yaml": "domain: edge\ndescriptors: [{key: a, rate_limit: {unit: often, requests_per_unit: 1}}]"}`, isJSON, 200, `"kind": "envoy"`},
		{"/console/try", `{"yaml": "namespaces: {}", "identifiers": []}`, isJSON, 400, "give 1 to 20"},
		{"/console/try", `{"yaml": "namespaces: {}", "namespace": "a", "identifiers": ["b"]}`, isJSON, 400, "has no policies"},
		{"/console/replay", form("yaml", policies, "namespace", "checkout", "policy", "none", "log", "x"), isForm, 400, "no policy"},
		{"/console/replay", form("yaml", policies), isForm, 400, "log: missing"},
		{"/console/replay", form("yaml", policies, "namespace", "checkout", "policy", "default", "identifier", "{user", "log", "x"), isForm, 400, "identifier"},
		{"/console/replay", form("yaml", policies, "namespace", "checkout", "policy", "default", "identifier", "user", "log", "nonsense\n"), isForm, 400, "nonsense"},
		{"/console/replay", form("yaml", policies, "namespace", "checkout", "policy", "default", "identifier", "client_address", "log", strings.Repeat("\x00\xff\x1b[31m\n<script>", 10_000)), isForm, 400, "its format is not known"},
		{"/console/replay", form("yaml", policies, "namespace", "checkout", "policy", "default", "identifier", "client_address", "log", strings.Repeat("\x1f\x8b\x00", 10_000)), isForm, 400, "gzip"},
		{"/console/replay", form("namespace", strings.Repeat("x", 5000)), isForm, 400, "more than 2048 bytes"},
		{"/console/replay", mallory, isJSON, 400, "multipart"},
	} {
		if a := d.send(t, "POST", tt.path, tt.body, tt.kind); a.code != tt.code || !strings.Contains(a.body, tt.says) {
			t.Errorf("%s %.60q: %d, %s; want %d, %s", tt.path, tt.body, a.code, a.body, tt.code, tt.says)
		}
	}
}
