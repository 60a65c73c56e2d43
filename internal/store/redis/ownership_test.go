package redis

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi/envoytest"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// startEnvoy starts an Envoy whose redis_proxy spreads keys over servers, by what is in
// braces or, without tags, by whole keys. It returns its address.
func startEnvoy(t *testing.T, tags bool, servers ...*redistest.Server) string {
	t.Helper()
	var endpoints strings.Builder
	for _, s := range servers {
		host, port, _ := strings.Cut(s.Addr, ":")
		fmt.Fprintf(&endpoints, "\n        - endpoint: {address: {socket_address: {address: %s, port_value: %s}}}", host, port)
	}
	e := envoytest.Start(t, fmt.Sprintf(`
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: counters
          settings: {op_timeout: 10s, enable_hashtagging: %t}
          prefix_routes: {catch_all_route: {cluster: counters}}
  clusters:
  - name: counters
    connect_timeout: 5s
    type: STATIC
    lb_policy: MAGLEV
    load_assignment:
      cluster_name: counters
      endpoints:
      - lb_endpoints:%s
`, tags, &endpoints))
	return strings.TrimPrefix(e.URL, "http://")
}

// A logText is what a store has logged.
type logText struct {
	mu   sync.Mutex // protects the following
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestArrangements has what answers to one address be a server, or several, or something
// in between. The limits hold in all of them, and the log says what was found.
func TestArrangements(t *testing.T) {
	one := func(t *testing.T) string { return redistest.Start(t).Addr }
	two := func(t *testing.T) []*redistest.Server {
		return []*redistest.Server{redistest.Start(t), redistest.Start(t)}
	}
	for _, tt := range []struct {
		name     string
		start    func(t *testing.T) (addr string)
		sharing  Sharing
		together bool
		says     string
	}{
		{"one server", one, ShareAuto, true, "one server owns all keys"},
		{"one server, never", one, ShareNever, false, ""},
		{"one server, always", one, ShareAlways, true, ""},
		{"one server without CLIENT", startWithout("CLIENT"), ShareAuto, true, "one server owns all keys"},
		{"one server without EVALSHA", startWithout("EVALSHA"), ShareAuto, true, "one server owns all keys"},
		{"one server without HELLO", startWithout("HELLO"), ShareAuto, false, "unknown command"},
		{"Envoy", func(t *testing.T) string { return startEnvoy(t, true, two(t)...) }, ShareAuto, false, "NOPROTO"},
		{"Envoy without hash tags", func(t *testing.T) string { return startEnvoy(t, false, two(t)...) }, ShareAuto, false, "NOPROTO"},
		{"Envoy, one server, always", func(t *testing.T) string { return startEnvoy(t, true, redistest.Start(t)) }, ShareAlways, true, ""},
		{"twemproxy", func(t *testing.T) string { return redistest.StartTwemproxy(t, true, two(t)...) }, ShareAuto, false, "closed a connection"},
		{"twemproxy without hash tags", func(t *testing.T) string { return redistest.StartTwemproxy(t, false, two(t)...) }, ShareAuto, false, "closed a connection"},
		{"cluster of one", func(t *testing.T) string {
			return redistest.StartClusterOfOne(t, func(addr string) string { return addr }).Addr
		}, ShareAuto, false, "set --redis-cluster"},
		{"cluster of one, always", func(t *testing.T) string {
			return redistest.StartClusterOfOne(t, func(addr string) string { return addr }).Addr
		}, ShareAlways, false, "CROSSSLOT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			var log logText
			s := openWith(t, Options{URLs: []string{"redis://" + tt.start(t)}, SharedScripts: tt.sharing, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			holds(t, s)
			redistest.Eventually(t, "it is found out", func() error {
				if s.pipes.shares() != tt.together {
					return errors.New(log.String())
				}
				return nil
			})
			holds(t, s)
			if text := log.String(); !strings.Contains(text, tt.says) || strings.Count(text, "\n") != min(len(tt.says), 1) {
				t.Errorf("the log says %q, want one line with %q", text, tt.says)
			}
		})
	}
}

// startWithout returns what starts a server that does not know a command.
func startWithout(command string) func(t *testing.T) string {
	return func(t *testing.T) string {
		return redistest.Start(t, "--rename-command", command, "").Addr
	}
}

var asked atomic.Int64 // for names that no test has used yet

// holds asks s in each way in which a limit could be lost. None may be.
func holds(t *testing.T, s *Store) {
	t.Helper()
	name := fmt.Sprint(t.Name(), asked.Add(1))
	once := limits(t, strategy.Spec{Rate: "1/366d"})
	var batch []store.Request
	for i := range 16 {
		batch = append(batch, store.Request{Namespace: "test", Identifier: fmt.Sprint(name, "batch", i), Limits: once, Cost: 1})
	}
	results := make([]store.Result, len(batch))
	s.Decide(t.Context(), batch, results)
	again := 0
	for i := range batch {
		alone := decide(t.Context(), s, batch[i])
		if results[i].Err != nil || !results[i].Allowed || alone.Err != nil {
			t.Errorf("identifier %d: %+v, and alone %+v", i, results[i], alone)
		}
		if alone.Allowed {
			again++
		}
	}
	if again != 0 {
		t.Errorf("%d of 16 identifiers, asked in one batch, pass again alone", again)
	}

	ten := limits(t, strategy.Spec{Rate: "10/366d"})
	var allowed, failed atomic.Int64
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for i := range 20 {
				res := decide(t.Context(), s, store.Request{Namespace: "test", Identifier: fmt.Sprint(name, "key", i), Limits: ten, Cost: 1})
				if res.Err != nil {
					t.Error(res.Err)
					failed.Add(1)
				}
				if res.Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if allowed.Load() != 200 || failed.Load() != 0 {
		t.Errorf("of 640 requests for 20 keys at 10 %d were allowed and %d failed, want 200 and none", allowed.Load(), failed.Load())
	}

	// Two limits, in both orders and each alone, are the same two counters.
	a, b := strategy.Spec{Rate: "4/366d", Name: "a"}, strategy.Spec{Rate: "4/366d", Name: "b"}
	for i := range 16 {
		id := fmt.Sprint(name, "two", i)
		ask := func(specs ...strategy.Spec) store.Result {
			return decide(t.Context(), s, store.Request{Namespace: "test", Identifier: id, Limits: limits(t, specs...), Cost: 1})
		}
		if first, second := ask(a, b), ask(b, a); first.Statuses[0].Remaining != 3 || second.Statuses[0].Remaining != 2 || second.Statuses[1].Remaining != 2 {
			t.Errorf("two limits, and then in the other order: %+v, %+v", first, second)
		}
		if res := ask(b); res.Statuses[0].Remaining != 1 {
			t.Errorf("the second of two limits, asked alone: %+v", res)
		}
		r := store.Request{Namespace: "test", Identifier: id, Limits: limits(t, a, b), Cost: 1}
		if err := s.Reset(t.Context(), &r); err != nil {
			t.Error(err)
		}
		if res := ask(b); res.Statuses[0].Remaining != 3 {
			t.Errorf("after a reset: %+v", res)
		}
	}
}

// TestServerChanges has another arrangement come to the address of a server that shares
// scripts, while it is asked. No limit is lost, and none fails but for connections that
// end.
func TestServerChanges(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) string{
		"Envoy": func(t *testing.T) string { return startEnvoy(t, true, redistest.Start(t), redistest.Start(t)) },
		"twemproxy": func(t *testing.T) string {
			return redistest.StartTwemproxy(t, true, redistest.Start(t), redistest.Start(t))
		},
		"cluster": func(t *testing.T) string {
			return redistest.StartClusterOfOne(t, func(addr string) string { return addr }).Addr
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next := start(t)
			proxy := startProxy(t, redistest.Start(t).Addr)
			s := openWith(t, Options{URLs: []string{"redis://" + proxy.Listen}})
			s.owner.every = time.Hour // it does not find out by looking
			redistest.Eventually(t, "scripts are shared", func() error {
				if err := s.Health(t.Context()); err != nil || !s.pipes.shares() {
					return fmt.Errorf("not yet: %w", err)
				}
				return nil
			})
			// Requests that are decided together, which is no longer possible.
			with := store.Request{Namespace: "test", Identifier: "together", Limits: limits(t, strategy.Spec{Rate: "1/366d"}), Cost: 1}
			for i := range 3 {
				w := with
				w.Identifier = fmt.Sprint("with", i)
				with.With = append(with.With, w)
			}
			proxy.Stop()
			proxy.Upstream = next
			if err := proxy.Start(); err != nil {
				t.Fatal(err)
			}
			var res store.Result
			redistest.Eventually(t, "a decision", func() error { res = decide(t.Context(), s, with); return res.Err })
			if !res.Allowed || len(res.With) != 3 || !res.With[2].Allowed || s.pipes.shares() {
				t.Errorf("%+v, and it decides together: %t", res, s.pipes.shares())
			}
			for _, w := range with.With {
				if res := decide(t.Context(), s, w); res.Allowed || res.Err != nil {
					t.Errorf("%s, which was decided together with others, passes again: %+v", w.Identifier, res)
				}
			}
			holds(t, s)
		})
	}
}

// TestHealthBehindProxy has the servers behind an Envoy hang. It still answers PING by
// itself, but no decision works.
func TestHealthBehindProxy(t *testing.T) {
	t.Parallel()
	a, b := redistest.Start(t), redistest.Start(t)
	s := openWith(t, Options{URLs: []string{"redis://" + startEnvoy(t, true, a, b)}, Timeout: time.Second})
	redistest.Eventually(t, "all is well", func() error { return s.Health(t.Context()) })
	a.Pause(t)
	b.Pause(t)
	defer b.Resume(t)
	defer a.Resume(t)
	if err := s.client.Ping(t.Context()).Err(); err != nil {
		t.Errorf("PING: %v", err)
	}
	if err := s.Health(t.Context()); err == nil {
		t.Error("no decision works, and the store says that it is well")
	}
}
