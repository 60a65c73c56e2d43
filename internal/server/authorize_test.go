package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/httplimit"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func quietStore(tb testing.TB) *memory.Store {
	tb.Helper()
	s, err := memory.New(memory.Options{Now: func() strategy.Instant { return 1_767_225_600_000_000 }})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestAuthorize(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, checkout)})
	const who = "namespace=checkout&identifier=a"
	for _, step := range []struct {
		method, query string
		header        http.Header
		code          int
		want          string
	}{
		{"GET", who + "&policy=default", nil, 200, ""},
		{"POST", who + "&policy=default", nil, 200, ""},
		{"HEAD", who + "&policy=default", nil, 429, ""},
		{"DELETE", who + "&policy=default&deny_status=403", nil, 403, "over the limit"},
		{"GET", "namespace=checkout&policy=default&identifier_header=x-api-key", http.Header{"X-Api-Key": {"internal-1"}}, 200, ""},
		{"GET", "namespace=checkout&policy=default&identifier_from=client_ip&trusted_proxies=0", nil, 200, ""},
		{"GET", "namespace=n&identifier=b&rate=3/h&strategy=TOKEN_BUCKET&burst=5&cost=5", nil, 200, ""},
		{"GET", "namespace=n&identifier=b&rate=3/h&strategy=token_bucket&burst=5", nil, 429, "over the limit"},
		{"GET", "namespace=n&identifier=b&rate=3/h&cost=0", nil, 200, ""},

		{"GET", who + "&policy=gold", nil, 404, "unknown policy"},
		{"GET", "policy=default&identifier=a", nil, 400, "namespace: empty"},
		{"GET", who, nil, 400, "policy: give exactly one of policy, rate; there are 0"},
		{"GET", who + "&policy=default&rate=1/s", nil, 400, "policy: give exactly one of policy, rate; there are 2"},
		{"GET", "namespace=n&identifier=m&rate=3/month&time_zone=Europe/Berlin&anchor_day=15&cost=3", nil, 200, ""},
		{"GET", "namespace=n&identifier=m&rate=3/month&time_zone=Europe/Berlin&anchor_day=15", nil, 429, "over the limit"},
		{"GET", who + "&rate=3/month&time_zone=Berlin", nil, 400, "time_zone \\\"Berlin\\\" is not known"},
		{"GET", who + "&rate=3/month&anchor_day=29", nil, 400, "anchor_day: \\\"29\\\" is not a whole number from 1 to 28"},
		{"GET", who + "&policy=default&burst=2", nil, 400, "burst: \\\"2\\\" means nothing without rate"},
		{"GET", who + "&rate=1/mn", nil, 400, "request: rate: rate "},
		{"GET", who + "&rate=1/s&strategy=x", nil, 400, "strategy: unknown strategy"},
		{"GET", who + "&rate=1/s&burst=4", nil, 400, "burst: burst 4: fixed_window has none"},
		{"GET", who + "&policy=default&trusted_proxy=1", nil, 400, "query: unknown parameter \\\"trusted_proxy\\\"; there are namespace"},
		{"GET", who + "&policy=default&identifier=b", nil, 400, "identifier: given 2 times"},
		{"GET", who + "&policy=default&identifier_from=client_ip", nil, 400, "identifier: give exactly one of"},
		{"GET", who + "&policy=default&trusted_proxies=1", nil, 400, "trusted_proxies: \\\"1\\\" means nothing without identifier_from"},
		{"GET", who + "&policy=default&deny_status=200", nil, 400, "deny_status: \\\"200\\\" is not a whole number from 400 to 599; write one such as 429"},
		{"GET", who + "&policy=default&cost=-1", nil, 400, "cost: "},
		{"GET", who + "&policy=%zz", nil, 400, "query: invalid URL escape"},
		{"GET", "namespace=checkout&policy=default&identifier_header=X-Api-Key", nil, 400, "the request has 0 headers"},
		{"GET", "namespace=checkout&policy=default&identifier_header=X-Api-Key", http.Header{"X-Api-Key": {"a", "b"}}, 400, "the request has 2 headers"},
		{"GET", "namespace=checkout&policy=default&identifier_from=peer", nil, 400, "write \\\"client_ip\\\""},
		{"GET", "namespace=checkout&policy=default&identifier_from=client_ip", nil, 400, "X-Forwarded-For has 0 addresses, and trusted_proxies is 1"},
		{"GET", "namespace=checkout&policy=default&identifier_from=client_ip", http.Header{"X-Forwarded-For": {"10.0.0.1, unknown"}}, 400, "X-Forwarded-For has \\\"unknown\\\""},
	} {
		d := d
		if step.code == 400 || step.code == 404 { // whose log says why, once in a while
			d = start(t, Options{Config: policyConfig(t, checkout)})
		}
		reply, text := fetch(t, step.method, "http://"+d.HTTPAddr()+"/v1/authorize?"+step.query, "", step.header)
		if step.code == 400 || step.code == 404 {
			if !strings.Contains(text, hiddenReason) || strings.Contains(text, step.want) {
				t.Errorf("%s: the client is told %s", step.query, text)
			}
			if !d.log.has(step.want) {
				t.Errorf("%s: the log does not say %s", step.query, step.want)
			}
			text = step.want
		}
		if reply.StatusCode != step.code || !strings.Contains(text, step.want) {
			t.Errorf("%s %s: %s %s, want %d with %q", step.method, step.query, reply.Status, text, step.code, step.want)
		}
		if step.code == 403 || step.code == 429 {
			if ct := reply.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("%s: %d with Content-Type %q", step.query, step.code, ct)
			}
			if want := fmt.Sprintf(`{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"over the limit","status":%d,"violated-policies":["`, step.code); step.method != "HEAD" && !strings.HasPrefix(text, want) {
				t.Errorf("%s: %s, want %s", step.query, text, want)
			}
		}
		if retry := reply.Header.Get("Retry-After"); (step.code == 403 || step.code == 429) != (retry != "") {
			t.Errorf("%s: %d with Retry-After %q", step.query, step.code, retry)
		}
	}
}

// TestFieldsOfTheClient holds together the two places that write RateLimit, RateLimit-Policy,
// Retry-After and the problem of a denial: the daemon, and the Go client in the services of
// its users. They share no code, as the client's users need none of the daemon.
func TestFieldsOfTheClient(t *testing.T) {
	const policies = `
checkout:
  policies:
    default:
      limits:
        - {name: 'a"b\c', rate: 1/h}
        - {name: "é 100%\u007f", rate: 9/h}
        - {name: "same", rate: 9/h}
        - {name: "same", rate: 9/h, strategy: token_bucket}
        - {name: none, rate: unlimited}
`
	d := start(t, Options{Config: policyConfig(t, policies)})
	limits, err := client.New(client.Options{Addresses: []string{d.GRPCAddr()}, Timeout: patient, OnFailure: client.Deny, MaxDenials: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer limits.Close()
	service := httptest.NewServer(httplimit.Limit(limits.Policy("checkout", "default"), httplimit.Header("X-Caller"))(http.NotFoundHandler()))
	defer service.Close()
	window := regexp.MustCompile(`;w=\d+`) // the client does not know that of a policy
	for _, denied := range []bool{false, true} {
		ours, problem := fetch(t, "GET", "http://"+d.HTTPAddr()+"/v1/authorize?namespace=checkout&policy=default&identifier=a", "", nil)
		theirs, theirProblem := fetch(t, "GET", service.URL, "", http.Header{"X-Caller": {"b"}})
		if (ours.StatusCode == 429) != denied || (theirs.StatusCode == 429) != denied {
			t.Fatalf("the daemon answers %s, and the client %s", ours.Status, theirs.Status)
		}
		policy := window.ReplaceAllString(ours.Header.Get("RateLimit-Policy"), "")
		if got := theirs.Header.Get("RateLimit-Policy"); got != policy || !strings.Contains(policy, `"a\"b\\c";q=1, "%C3%A9 100%25%7F";q=9, "same"`) {
			t.Errorf("RateLimit-Policy: %s of the client, and %s of the daemon", got, policy)
		}
		if !denied { // the daemon says when one more unit is left, and the client when all are
			continue
		}
		for _, name := range []string{"RateLimit", "Retry-After", "Content-Type"} {
			if ours, theirs := ours.Header.Get(name), theirs.Header.Get(name); ours != theirs || ours == "" {
				t.Errorf("%s: %s of the client, and %s of the daemon", name, theirs, ours)
			}
		}
		if problem != theirProblem {
			t.Errorf("the problem: %s of the client, and %s of the daemon", theirProblem, problem)
		}
	}
}
