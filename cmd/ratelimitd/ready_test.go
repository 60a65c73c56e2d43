package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// ready asks a daemon whether it is ready.
func ready(t *testing.T, at addresses) (code int, body string) {
	t.Helper()
	reply, err := http.Get("http://" + at.HTTP + "/readyz")
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

// TestReadyFollowsDecisions has stores that answer and can be read, but at which no decision
// works that consumes: with --on-error=error, the daemon is not ready.
func TestReadyFollowsDecisions(t *testing.T) {
	full, replica := redistest.Start(t), redistest.Start(t)
	fullCache := memcachedtest.Start(t, "-M", "-m", "2")
	for name, s := range map[string]struct {
		env         []string
		harm, mend  func()
		says, store string
	}{
		"full": {[]string{"RATELIMITD_REDIS_URL=" + full.URL},
			func() { redisDo(t, full, "CONFIG", "SET", "maxmemory", "1") }, func() { redisDo(t, full, "CONFIG", "SET", "maxmemory", "0") }, "OOM", "redis"},
		"replica": {[]string{"RATELIMITD_REDIS_URL=" + replica.URL},
			func() { redisDo(t, replica, "REPLICAOF", "127.0.0.1", "1") }, func() { redisDo(t, replica, "REPLICAOF", "NO", "ONE") }, "READONLY", "redis"},
		"full memcached": {[]string{"RATELIMITD_MEMCACHED_ADDR=" + fullCache.Addr},
			func() { fillMemcached(t, fullCache) }, func() { fullCache.Ask(t, "flush_all") }, "out of memory", "memcached"},
	} {
		t.Run(name, func(t *testing.T) {
			at, _ := servesAt(t, append(s.env, "RATELIMITD_STORE="+s.store, "RATELIMITD_ON_ERROR=error", "RATELIMITD_STORE_TIMEOUT=1s"))
			if code, body := ready(t, at); code != http.StatusOK {
				t.Errorf("before: %d, %s", code, body)
			}
			redistest.Eventually(t, "not ready", func() error {
				s.harm() // again, as what has expired meanwhile makes room
				if code, body := ready(t, at); code != http.StatusServiceUnavailable || !strings.Contains(body, s.says) {
					return fmt.Errorf("%d, %s; want 503, and %s", code, body, s.says)
				}
				return nil
			})
			s.mend()
			redistest.Eventually(t, "ready again", func() error {
				if code, body := ready(t, at); code != http.StatusOK {
					return fmt.Errorf("%d, %s", code, body)
				}
				return nil
			})
		})
	}
}

// fillMemcached stores values of all sizes that items have until nothing fits.
func fillMemcached(t *testing.T, server *memcachedtest.Server) {
	t.Helper()
	for size := 0; size < 150; size += 10 {
		var sets strings.Builder
		for i := range 9000 { // what a page of the server has
			fmt.Fprintf(&sets, "set fill:%d:%d 0 0 %d noreply\r\n%s\r\n", size, i, size, strings.Repeat("x", size))
		}
		server.Ask(t, sets.String()+"version")
	}
}

// redisDo runs a command on a server.
func redisDo(t *testing.T, server *redistest.Server, args ...any) {
	t.Helper()
	if err := server.Client(t).Do(t.Context(), args...).Err(); err != nil {
		t.Fatalf("%v: %v", args, err)
	}
}

// TestWaitForStore starts daemons whose store does not decide: its password is wrong. The log
// says so, and what to do. One that waits for the store is not ready until it decides.
func TestWaitForStore(t *testing.T) {
	server := redistest.Start(t)
	redisDo(t, server, "ACL", "SETUSER", "counter", "on", ">right", "~*", "+@all")
	env := []string{"RATELIMITD_STORE=redis", "RATELIMITD_REDIS_URL=" + server.URL, "RATELIMITD_REDIS_USER=counter", "RATELIMITD_REDIS_PASSWORD=wrong"}
	for _, wait := range []string{"false", "true"} { // which ends with a password that is right
		want := http.StatusOK
		if wait == "true" {
			want = http.StatusServiceUnavailable
		}
		_, at, log := startLogged(t, env, "--wait-for-store="+wait)
		for _, says := range []string{`"level":"ERROR"`, "requests are ALLOWED and no limit holds them", "WRONGPASS", "check --redis-user and --redis-password"} {
			redistest.Eventually(t, "the log says "+says, func() error {
				if text := log(); !strings.Contains(text, says) {
					return fmt.Errorf("%s", text)
				}
				return nil
			})
		}
		if code, body := ready(t, at); code != want || want == http.StatusServiceUnavailable && !strings.Contains(body, "--wait-for-store") {
			t.Errorf("--wait-for-store=%s: %d, %s, want %d", wait, code, body, want)
		}
		if _, _, status := runs(t, nil, "check", "--addr", at.GRPC, "--namespace=a", "--identifier=b", "--rate=1/s"); status != exitOK {
			t.Errorf("--wait-for-store=%s: exit status %d: --on-error does not answer", wait, status)
		}
		if wait == "true" {
			redisDo(t, server, "ACL", "SETUSER", "counter", ">wrong")
			redistest.Eventually(t, "ready", func() error {
				if code, body := ready(t, at); code != http.StatusOK {
					return fmt.Errorf("%d, %s", code, body)
				}
				return nil
			})
			if !strings.Contains(log(), "the store has decided") {
				t.Errorf("the log says:\n%s", log())
			}
		}
	}
}
