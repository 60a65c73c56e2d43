package httplimit

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/internal/testdaemon"
)

// A service answers requests behind a middleware.
type service struct {
	t *testing.T
	*httptest.Server
	served atomic.Int64
}

func serve(t *testing.T, limit func(http.Handler) http.Handler) *service {
	t.Helper()
	s := &service{t: t}
	s.Server = httptest.NewServer(limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.served.Add(1)
		if n := r.URL.Query().Get("messages"); n != "" { // as on a WebSocket
			for i := range 3 {
				if !FromContext(r.Context()).Allow(r.Context(), 1).Allowed {
					_, _ = io.WriteString(w, "message "+string(rune('0'+i))+" denied")
					return
				}
			}
		}
	})))
	t.Cleanup(s.Close)
	return s
}

// An answer is what a caller gets.
type answer struct {
	status int
	header http.Header
	body   string
}

// do returns the answer to a request with headers, as "name: value".
func (s *service) do(method, path string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err := s.Client().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

// wants fails the test unless the next request is answered with a status.
func (s *service) wants(status int, method, path string, headers ...string) answer {
	s.t.Helper()
	got := s.do(method, path, headers...)
	if got.status != status {
		s.t.Errorf("%s %s %v: %d %s, want %d", method, path, headers, got.status, got.body, status)
	}
	return got
}

func TestDenialIsAProblem(t *testing.T) {
	d, limits := testdaemon.NewClient(t)
	s := serve(t, Limit(limits.Limiter("shop", client.Rate("2/min"), client.Limit{Name: "daily", Rate: "100/day", Strategy: client.SlidingWindowCounter}), ClientAddress()))
	d.Advance(t, 10*time.Second)
	allowed := s.wants(200, "GET", "/")
	for name, want := range map[string]string{
		"RateLimit-Policy": `"fixed_window:2/min";q=2;w=60, "daily";q=100;w=86400`,
		"RateLimit":        `"fixed_window:2/min";r=1;t=50, "daily";r=99;t=172790`,
		"Retry-After":      "",
	} {
		if got := allowed.header.Get(name); got != want {
			t.Errorf("allowed: %s: %s, want %s", name, got, want)
		}
	}
	s.wants(200, "GET", "/")
	over := s.do("GET", "/")
	const problem = `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"over the limit","status":429,"violated-policies":["fixed_window:2/min"]}` + "\n"
	if over.status != 429 || over.body != problem || over.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("denied: %+v", over)
	}
	if got, want := over.header.Get("RateLimit"), `"fixed_window:2/min";r=0;t=50, "daily";r=98`; got != want {
		t.Errorf("denied: RateLimit: %s, want %s", got, want)
	}
	if got := over.header.Get("Retry-After"); got != "50" {
		t.Errorf("Retry-After: %s", got)
	}
	if n := s.served.Load(); n != 2 {
		t.Errorf("%d requests were served", n)
	}
	d.Advance(t, 50*time.Second)
	s.wants(200, "GET", "/")
}

func TestRules(t *testing.T) {
	_, limits := testdaemon.NewClient(t)
	key, calls := APIKey("X-API-Key"), atomic.Int64{}
	counted := func(r *http.Request) string { calls.Add(1); return key(r) }
	once := func(name string) []Step {
		return []Step{{Limiter: limits.Limiter("shop", client.Limit{Rate: "1/h", Name: name})}}
	}
	s := serve(t, New(Options{Rules: []Rule{
		{Path: "/health", By: func(*http.Request) string { return client.Exempt }, Steps: once("health")},
		{Methods: []string{"POST"}, Path: "/orders/", By: counted, Steps: append(once("orders"), once("posts")...)},
		{Path: "/orders", By: counted, Steps: once("list")},
	}}))
	for range 3 {
		s.wants(200, "GET", "/health")
		s.wants(200, "GET", "/free")
	}
	s.wants(200, "GET", "/orders")
	s.wants(429, "GET", "//orders")
	s.wants(429, "GET", "/./orders")
	s.wants(429, "GET", "/orders") // all without a key are one
	before := calls.Load()
	s.wants(200, "POST", "/orders/7", "X-API-Key: one")
	if n := calls.Load() - before; n != 1 {
		t.Errorf("the identifier of one request was computed %d times", n)
	}
	s.wants(429, "POST", "/orders/7/items", "X-API-Key: one")
	s.wants(200, "POST", "/orders/", "X-API-Key: two")
	s.wants(200, "PUT", "/orders/7", "X-API-Key: one")
}

func TestStepsAndCosts(t *testing.T) {
	_, limits := testdaemon.NewClient(t)
	perAddress, perKey := limits.Limiter("shop", client.Limit{Rate: "3/h", Name: "address"}), limits.Limiter("shop", client.Limit{Rate: "10/h", Name: "key"})
	var told []string
	s := serve(t, New(Options{
		Rules: []Rule{{Steps: []Step{
			{Limiter: perAddress, By: ClientAddress("127.0.0.0/8")},
			{Limiter: perKey, By: FirstOf(APIKey("X-API-Key"), BearerSubject()), Cost: func(*http.Request) uint64 { return 5 }},
		}}},
		OnResult: func(_ *http.Request, l *client.Limiter, result client.Result) {
			told = append(told, l.Limits()[0].Name+" "+result.Reason.String())
		},
	}))
	from := "X-Forwarded-For: 6.6.6.6, 192.0.2.1"
	s.wants(200, "GET", "/", from, "X-API-Key: one")
	s.wants(200, "GET", "/", from, "X-API-Key: one")
	denied := s.wants(429, "GET", "/", from, "X-API-Key: one")
	if got, want := denied.header.Get("RateLimit"), `"address";r=0, "key";r=0;t=3600`; got != want {
		t.Errorf("RateLimit: %s, want %s", got, want)
	}
	told = nil
	s.wants(429, "GET", "/", "X-Forwarded-For: 7.7.7.7, 192.0.2.1", "X-API-Key: two") // what the client wrote does not help
	if len(told) != 1 || told[0] != "address OVER_LIMIT" {
		t.Errorf("told %q: a denial must be the last to be asked", told)
	}
	s.wants(200, "GET", "/", "X-Forwarded-For: 192.0.2.2", "X-API-Key: two")
}

func TestShadowDeniesNobody(t *testing.T) {
	_, limits := testdaemon.NewClient(t)
	denials := 0
	s := serve(t, New(Options{
		Shadow: true, Rules: []Rule{{By: ClientAddress(), Steps: []Step{{Limiter: limits.Limiter("shop", client.Rate("1/h"))}}}},
		OnResult: func(_ *http.Request, _ *client.Limiter, r client.Result) {
			if !r.Allowed {
				denials++
			}
		},
	}))
	for range 3 {
		if h := s.wants(200, "GET", "/").header; h.Get("RateLimit") != "" || h.Get("Retry-After") != "" {
			t.Errorf("a limit in shadow mode shows: %v", h)
		}
	}
	if denials != 2 {
		t.Errorf("%d denials were told", denials)
	}
}

func TestMessagesOfOneRequest(t *testing.T) {
	_, limits := testdaemon.NewClient(t)
	s := serve(t, Limit(limits.Limiter("shop", client.Rate("3/h")), ClientAddress()))
	if got := s.do("GET", "/?messages=3"); got.body != "message 2 denied" {
		t.Errorf("%q", got.body)
	}
	if r := (*Caller)(nil).Allow(t.Context(), 1); !r.Allowed {
		t.Errorf("no rule: %+v", r)
	}
}

func TestOwnAnswerAndFailure(t *testing.T) {
	d, limits := testdaemon.NewClient(t)
	l := limits.Limiter("shop", client.Rate("0/h")).Timeout(100 * time.Millisecond)
	own := serve(t, New(Options{Rules: []Rule{{By: ClientAddress(), Steps: []Step{{Limiter: l}}}}, Denied: func(w http.ResponseWriter, _ *http.Request, r client.Result) {
		http.Error(w, r.Reason.String(), http.StatusTeapot)
	}}))
	if got := own.do("GET", "/"); got.status != http.StatusTeapot || got.body != "OVER_LIMIT\n" || got.header.Get("RateLimit-Policy") == "" {
		t.Errorf("%+v", got)
	}
	s := serve(t, Limit(l, ClientAddress()))
	if s.wants(429, "GET", "/").header.Get("Retry-After") != "" {
		t.Error("a wait that never ends has a Retry-After")
	}
	d.Kill()
	if got := s.do("GET", "/"); got.status != 503 || !strings.Contains(got.body, "about:blank") {
		t.Errorf("without a daemon: %+v", got)
	}
}

func TestLeakyBucketHolds(t *testing.T) {
	_, limits := testdaemon.NewClient(t)
	s := serve(t, Limit(limits.Limiter("shop", client.Limit{Rate: "10/s", Strategy: client.LeakyBucket}), ClientAddress()))
	began := time.Now()
	for range 3 { // the clock stands: 0, 100 and 200 ms
		s.wants(200, "GET", "/")
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("three requests at 10/s took %v", took)
	}
}
