package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/server/httpapi"
)

// date matches what differs between two answers of which each is right.
var date = regexp.MustCompile("\r\nDate: [^\r]*\r\n")

// TestPlainHTTP has the daemon and net/http alone answer the same requests with the handler of
// the HTTP port, and wants the same bytes.
func TestPlainHTTP(t *testing.T) {
	d := start(t, Options{Config: policyConfig(t, checkout)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	alone := &http.Server{Handler: d.http.Handler, BaseContext: d.http.BaseContext}
	served := make(chan error, 1)
	go func() { served <- alone.Serve(l) }()
	defer func() {
		_ = alone.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	const ask = `{"namespace":"checkout","identifier":"a","policy":"default","dryRun":true`
	for _, body := range []string{
		ask + "}", ask + `,"cost":"2"}`, ask + `,"cost":"9"}`, ask + `,"cost":"99999999999999999999"}`, ask + `,"mode":"charge"}`,
		`{"namespace":"checkout","identifier":"internal-a","policy":"default"}`, `{"namespace":"checkout","identifier":"a","policy":"no"}`,
		`{"namespace":"checkout","identifier":"a","limits":[{"rate":"0/h"}]}`, `{"namespace":"checkout","identifier":"a","limits":[{"rate":"5 apples"}]}`,
		"", "{", "{}", "\xff", "\xef\xbb\xbf{}", `{"requests":[]}`, `{"requests":[` + ask + "}," + ask + "}]}", `{"requests":[{}` + strings.Repeat(",{}", 400) + "]}",
		`{"namespace":"checkout","identifier":"a","dryRun":true,"limits":[{"rate":"1/s","name":"` + strings.Repeat("n", 100) + `0"}` + manyLimits(15) + "]}",
	} {
		for _, header := range []string{"Content-Type: application/json\r\n", "Origin: https://example.com\r\n", "Sec-Fetch-Site: cross-site\r\n", "Authorization: Bearer x\r\n"} {
			text := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s", httpapi.PathShouldAllow, header, len(body), body)
			want, got := said(t, l.Addr().String(), text), said(t, d.HTTPAddr(), text)
			if got != want {
				t.Errorf("%s%.200q:\n%.2000q\nwant\n%.2000q", header, body, got, want)
			}
		}
	}
}

// manyLimits returns n limits as JSON, each with a comma before.
func manyLimits(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `,{"rate":"1/s","name":"%s%d"}`, strings.Repeat("m", 100), i)
	}
	return text.String()
}

// said returns what a server says, without the date, until it closes the connection: the
// request after the first wants that.
func said(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text+"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	reply := date.ReplaceAllString(string(all), "\r\n")
	if !strings.HasPrefix(reply, "HTTP/1.1 ") || !strings.HasSuffix(reply, "ok\n") {
		t.Errorf("%.200q: %.1000q", text, reply)
	}
	return reply
}
