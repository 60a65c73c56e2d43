package httpapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
)

// TestErrorsOfBatches holds the answers to batches to the bound on what is decided at a time:
// an error is far longer than the request "{}".
func TestErrorsOfBatches(t *testing.T) {
	s, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	logger := slog.New(slog.DiscardHandler)
	book := account.New(decide.Outcomes, time.Now)
	api := &API{
		Core: decide.New(decide.Options{Store: s, Book: book, Logger: logger}), Faults: fault.NewLog(book, logger),
		Latency: histogram.NewVec("x", "x", "path", PathShouldAllow),
	}
	bound := inflight.New(inflight.Options{Bytes: 2_000_000, Logger: logger})
	ask := func(request string, n int) (code int) {
		body := `{"requests":[` + strings.Repeat(request+",", n-1) + request + `]}`
		r := httptest.NewRequestWithContext(inflight.NewContext(t.Context(), bound), http.MethodPost, PathShouldAllow, strings.NewReader(body))
		w := httptest.NewRecorder()
		api.ShouldAllow(w, r)
		return w.Code
	}
	others := bound.Work(1_000_000, "192.0.2.1:1") // all there may be
	for _, c := range []struct {
		request string
		n, code int
	}{
		{`{}`, 16, http.StatusOK},
		{`{}`, 17, http.StatusServiceUnavailable},
		{`{"namespace":"a","identifier":"b","limits":[{},{},{},{}]}`, 8, http.StatusOK},
		{`{"namespace":"a","identifier":"b","limits":[{},{},{},{}]}`, 9, http.StatusServiceUnavailable},
		{`{"namespace":"a","identifier":"b","limits":[{"rate":"9/s"}]}`, 50, http.StatusOK},
	} {
		if code := ask(c.request, c.n); code != c.code {
			t.Errorf("%d of %s: %d, want %d", c.n, c.request, code, c.code)
		}
	}
	others()
	if code := ask(`{}`, 17); code != http.StatusOK {
		t.Errorf("with room: %d", code)
	}
}
