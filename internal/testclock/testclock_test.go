package testclock

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// ask has c answer one request.
func ask(c *Clock, method, target string) (int, string) {
	w := httptest.NewRecorder()
	c.ServeHTTP(w, httptest.NewRequest(method, target, http.NoBody))
	return w.Code, strings.TrimSpace(w.Body.String())
}

// TestClock turns a clock over HTTP.
func TestClock(t *testing.T) {
	c := New()
	for _, step := range []struct {
		method, query string
		code          int
		says          string
	}{
		{http.MethodGet, "", 200, "2000-01-01T00:00:00Z"},
		{http.MethodGet, "?advance=1h", 200, "2000-01-01T00:00:00Z"},
		{http.MethodPost, "?advance=1h30m", 200, "2000-01-01T01:30:00Z"},
		{http.MethodPost, "?advance=1us", 200, "2000-01-01T01:30:00.000001Z"},
		{http.MethodPost, "?advance=soon", 400, `advance: "soon": write a duration, as in ?advance=1h30m`},
		{http.MethodPost, "", 400, `advance: "": write a duration, as in ?advance=1h30m`},
		{http.MethodPost, "?advance=-1h", 400, `advance: "-1h": the clock turns forward only, by 1us or more, as in 90s`},
		{http.MethodPost, "?advance=1ns", 400, `advance: "1ns": the clock turns forward only, by 1us or more, as in 90s`},
		{http.MethodPost, "?advance=2000000h", 400, `advance: "2000000h": 2000000h0m0s is beyond the year 2200, where the clock stops`},
		{http.MethodGet, "", 200, "2000-01-01T01:30:00.000001Z"},
	} {
		if code, says := ask(c, step.method, "/test-clock"+step.query); code != step.code || says != step.says {
			t.Errorf("%s %s: %d %s", step.method, step.query, code, says)
		}
	}
}
