package server

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/inflight"
)

// TestRepliesInFlight has clients ask for long replies and not read them. Those for which
// there is no room end, and who reads gets a whole one.
func TestRepliesInFlight(t *testing.T) {
	const reply = 16 << 20 // more than sockets take
	bound := inflight.New(inflight.Options{Bytes: 5 * reply / 2, MessageBytes: reply, Wait: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	ended := make(chan error, 10)
	server := httptest.NewServer(heldReplies(bound, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(reply))
		_, err := w.Write(make([]byte, reply))
		ended <- err
	})))
	defer server.Close()
	ask := func() io.Reader {
		t.Helper()
		answer, err := server.Client().Get(server.URL) //nolint:noctx // the server ends by itself
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = answer.Body.Close() })
		return answer.Body
	}
	first, second := ask(), ask()
	if n := len(ended); n != 0 {
		t.Fatalf("%d replies have ended, and none was read", n)
	}
	third, err := server.Client().Get(server.URL) //nolint:noctx // likewise
	if err == nil {
		_, err = io.Copy(io.Discard, third.Body)
		_ = third.Body.Close()
	}
	if err == nil || <-ended == nil {
		t.Error("there is room for a third reply")
	}
	for i, body := range []io.Reader{first, second} {
		if n, err := io.Copy(io.Discard, body); n != reply || err != nil {
			t.Errorf("reply %d has %d bytes, %v, want all", i, n, err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if release := bound.Hold(5*reply/2, "", func() {}); release == nil {
		t.Error("replies that have ended are still counted")
	}
}
