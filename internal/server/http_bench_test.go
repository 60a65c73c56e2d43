package server

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/auth"
)

// A page is a response that nobody reads.
type page struct {
	header http.Header
	code   int
}

func (p *page) Header() http.Header         { return p.header }
func (p *page) WriteHeader(code int)        { p.code = code }
func (p *page) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkHTTP has the handler of the HTTP port answer ShouldAllow as JSON: all that is
// not net/http's own. In "token", the daemon knows its callers, as in BenchmarkCall.
func BenchmarkHTTP(b *testing.B) {
	token := auth.NewToken()
	b.Run("open", func(b *testing.B) { benchmarkHTTP(b, nil, token) })
	b.Run("token", func(b *testing.B) { benchmarkHTTP(b, clientsWith(b, token), token) })
}

func benchmarkHTTP(b *testing.B, known *auth.Directory, token string) {
	b.Helper()
	d := serveBench(b, known)
	const text = `{"namespace":"checkout","identifier":"user:4213","limits":[{"rate":"1000000/s"}]}`
	body := strings.NewReader(text)
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/should-allow", io.NopCloser(body))
	if err != nil {
		b.Fatal(err)
	}
	r.ContentLength, r.RemoteAddr = int64(len(text)), "127.0.0.1:1234"
	r.Header = http.Header{"User-Agent": {"bench"}, "Content-Type": {"application/json"}, "Authorization": {"Bearer " + token}}
	w := &page{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		body.Reset(text)
		clear(w.header)
		if d.http.Handler.ServeHTTP(w, r); w.code != http.StatusOK {
			b.Fatal(w.code)
		}
	}
}
