package httpapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
)

func TestClientAddr(t *testing.T) {
	for _, tt := range []struct {
		forwardedFor []string
		proxies      int
		want         string // "": refused
	}{
		{nil, 0, "192.0.2.9"},
		{[]string{"203.0.113.1"}, 0, "192.0.2.9"},
		{[]string{"203.0.113.1"}, 1, "203.0.113.1"},
		{[]string{"6.6.6.6, 203.0.113.1"}, 1, "203.0.113.1"}, // what is further left may be forged
		{[]string{"6.6.6.6", "203.0.113.1"}, 1, "203.0.113.1"},
		{[]string{"6.6.6.6, 203.0.113.1", "10.0.0.1"}, 2, "203.0.113.1"},
		{[]string{"garbage,,\x00, 203.0.113.1 ,10.0.0.1"}, 2, "203.0.113.1"},
		{[]string{"203.0.113.1:4711"}, 1, "203.0.113.1"},
		{[]string{"2001:DB8:0::1"}, 1, "2001:db8::1"},
		{[]string{"[2001:db8::1]"}, 1, "2001:db8::1"},
		{[]string{"[2001:db8::1]:443"}, 1, "2001:db8::1"},
		{[]string{"::ffff:203.0.113.1"}, 1, "203.0.113.1"},
		{[]string{"fe80::1%eth0"}, 1, "fe80::1"},
		{nil, 1, ""},
		{[]string{"203.0.113.1"}, 2, ""},
		{[]string{"203.0.113.1,"}, 1, ""},
		{[]string{"unknown"}, 1, ""},
		{[]string{"_hidden"}, 1, ""},
		{[]string{"203.0.113.01"}, 1, ""},
	} {
		got, err := clientAddr("192.0.2.9:1234", tt.forwardedFor, tt.proxies)
		if tt.want == "" && err == nil || tt.want != "" && (err != nil || got.String() != tt.want) {
			t.Errorf("%q behind %d: %v, %v; want %q", tt.forwardedFor, tt.proxies, got, err, tt.want)
		}
	}
}

// FuzzAuthorize looks for a query or a header that panics, and for one where
// what a client puts to the left of X-Forwarded-For counts.
func FuzzAuthorize(f *testing.F) {
	f.Add("namespace=n&policy=p&identifier_from=client_ip&ipv6_prefix=64", "2001:db8::1", "6.6.6.6")
	f.Add("namespace=n&rate=1/s&identifier_from=client_ip&trusted_proxies=2", "[::1]:1, 10.0.0.1", "unknown,")
	f.Add("namespace=n&rate=1/s&identifier_header=X-Forwarded-For&deny_status=403&burst=1&cost=2", "", "")
	f.Fuzz(func(t *testing.T, query, forwardedFor, forged string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/authorize", nil)
		r.URL.RawQuery = query
		r.Header["X-Forwarded-For"] = []string{forwardedFor}
		var wrong, wrongAgain decide.InvalidError
		request, denyStatus := parseAuthorize(r, &wrong)
		if wrong.Violations != nil {
			return
		}
		if denyStatus < 400 || denyStatus > 599 {
			t.Errorf("deny status %d", denyStatus)
		}
		if !r.URL.Query().Has("identifier_from") {
			return
		}
		r.Header["X-Forwarded-For"] = []string{forged + "," + forwardedFor}
		again, _ := parseAuthorize(r, &wrongAgain)
		if wrongAgain.Violations != nil || again.Identifier != request.Identifier {
			t.Errorf("with %q to the left, %q is %q, not %q (%v)", forged, forwardedFor, again.Identifier, request.Identifier, wrongAgain)
		}
	})
}

// BenchmarkAuthorize times the handler without the network.
func BenchmarkAuthorize(b *testing.B) {
	counters, err := memory.New(memory.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = counters.Close() }()
	a := &API{
		Core:    decide.New(decide.Options{Store: counters, Book: account.New(decide.Outcomes, time.Now), Logger: slog.New(slog.DiscardHandler)}),
		Latency: histogram.NewVec("test", "test", "path", PathShouldAllow, PathAuthorize),
	}
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, PathAuthorize+"?namespace=web&rate=5/min&identifier_from=client_ip&ipv6_prefix=64", nil)
	r.Header.Set("X-Forwarded-For", "2001:db8::1")
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		if a.Authorize(w, r); w.Code != http.StatusOK && w.Code != http.StatusTooManyRequests {
			b.Fatal(w.Code, w.Body)
		}
	}
}
