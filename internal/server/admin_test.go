package server

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/account"
)

// admin asks the admin port, and returns the status and the body.
func (d *daemon) admin(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+d.AdminAddr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
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
	return reply.StatusCode, string(text)
}

func TestAdmin(t *testing.T) {
	level := new(slog.LevelVar)
	d := start(t, Options{AdminAddr: "127.0.0.1:0", LogLevel: level, Flags: map[string]any{"store": "memory"}, Config: &Config{Version: "c0ffee", Text: "checkout: {}\n"}})
	for _, tt := range []struct {
		method, path, body string
		code               int
		says               string
	}{
		{"GET", "/", "", 200, "/hot-keys"},
		{"GET", "/nothing", "", 404, ""},
		{"GET", "/configuration", "", 200, `"store": "memory"`},
		{"GET", "/configuration", "", 200, `"version": "c0ffee"`},
		{"GET", "/configuration", "", 200, `"policies": "checkout: {}\n"`},
		{"GET", "/hot-keys", "", 200, "[]"},
		{"GET", "/hot-keys?n=none", "", 400, `n: "none": give a number above 0, such as 10`},
		{"GET", "/loglevel", "", 200, "info"},
		{"PUT", "/loglevel", "loud", 400, `log level "loud": PUT debug, info, warn or error`},
		{"PUT", "/loglevel", strings.Repeat("debug", 100), 400, "PUT debug, info, warn or error"},
		{"PUT", "/loglevel", "debug\n", 200, "debug"},
		{"GET", "/loglevel", "", 200, "debug"},
		{"POST", "/loglevel", "warn", 405, ""},
		{"GET", "/debug/pprof/", "", 200, "goroutine"},
		{"GET", "/debug/pprof/cmdline", "", 404, ""}, // it would show passwords
		{"GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile"},
	} {
		if code, body := d.admin(t, tt.method, tt.path, tt.body); code != tt.code || !strings.Contains(body, tt.says) {
			t.Errorf("%s %s %.20q: %d, %q; want %d, %q", tt.method, tt.path, tt.body, code, body, tt.code, tt.says)
		}
	}
	if level.Level() != slog.LevelDebug || d.log.lines("the log level was set") != 1 {
		t.Errorf("the level is %v", level.Level())
	}
	if code, _ := d.get(t, "/debug/pprof/"); code != 404 {
		t.Errorf("the HTTP port shows profiles: %d", code)
	}
}

func TestAdminPortTaken(t *testing.T) {
	d := start(t, Options{AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar)})
	_, err := New(Options{GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", AdminAddr: d.AdminAddr(), Store: d.store, Logger: d.logger, Registry: prometheus.NewRegistry()})
	if err == nil || !strings.Contains(err.Error(), "--admin-addr") || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("a second daemon on the admin port: %v", err)
	}
}

func TestHotKeys(t *testing.T) {
	d := start(t, Options{AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar)})
	for i := range 9 {
		identifier := "alice"
		if i == 0 {
			identifier = "bob"
		}
		if _, err := d.client.ShouldAllow(t.Context(), ask(identifier, limit("4/min"))); err != nil {
			t.Fatal(err)
		}
	}
	_, body := d.admin(t, "GET", "/hot-keys?n=1", "")
	var top []account.HotKeys
	if err := json.Unmarshal([]byte(body), &top); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if len(top) != 1 || top[0].Namespace != "checkout" || len(top[0].Asked) != 1 || top[0].Asked[0].Identifier != "alice" || len(top[0].Denied) != 1 || top[0].Denied[0].Identifier != "alice" {
		t.Errorf("hot keys: %s", body)
	}
}

// TestSlowBodyOfAdmin sends a body to the admin port byte by byte: it ends in time.
func TestSlowBodyOfAdmin(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	var readErr error
	read := make(chan struct{})
	server.Config.Handler = bodiesInTime(100*time.Millisecond, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, readErr = io.ReadAll(r.Body)
		close(read)
	}))
	server.Start()
	defer server.Close()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "PUT /loglevel HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nd"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-read:
	case <-time.After(patient):
		t.Fatal("the body is still awaited")
	}
	if !errors.Is(readErr, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want that it takes too long", readErr)
	}
}
