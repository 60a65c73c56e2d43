package redis

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func limit(t *testing.T, s strategy.Spec) strategy.Limit {
	t.Helper()
	l, wrong := strategy.NewLimit(s, strategy.DefaultMaxLogCount)
	if wrong != nil {
		t.Fatal(wrong)
	}
	return l
}

// TestTTL looks how long the server keeps the counters of the limits that last
// longest.
func TestTTL(t *testing.T) {
	server := redistest.Start(t)
	s, err := New(Options{URLs: []string{server.URL}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := server.Client(t)
	const most = 366*24*time.Hour + time.Second
	for _, of := range strategy.All {
		for _, spec := range []strategy.Spec{
			{Rate: "1/366d", Strategy: of}, {Rate: "1/366d", Burst: strategy.MaxBurst, Strategy: of},
			{Rate: "1_000/10s", Strategy: of}, {Rate: "1/10s", Burst: 5, Strategy: of},
		} {
			bucket := of == strategy.TokenBucket || of == strategy.LeakyBucket || of == strategy.GCRA
			factor, cost := time.Duration(1), uint64(1)
			if bucket { // the next use needs the key for longer
				factor = 2
			}
			switch {
			case spec.Burst > 0 && !bucket:
				continue
			case spec.Burst == strategy.MaxBurst:
				cost = strategy.MaxBurst
			}
			requests := []store.Request{{Namespace: "ttl", Identifier: fmt.Sprint(of, spec.Rate, spec.Burst), Limits: []strategy.Limit{limit(t, spec)}, Cost: cost}}
			results := make([]store.Result, 1)
			if s.Decide(t.Context(), requests, results); results[0].Err != nil || !results[0].Allowed {
				t.Fatalf("%v %s: %+v", of, spec.Rate, results[0])
			}
			key := counterKey("ttl", requests[0].Identifier, &requests[0].Limits[0])
			ttl, err := client.PTTL(t.Context(), key).Result()
			reset := results[0].Statuses[0].ResetAfter
			if err != nil || ttl <= 0 || ttl > most {
				t.Errorf("%v %s, burst %d: TTL %v, %v; want at most %v", of, spec.Rate, spec.Burst, ttl, err, most)
			}
			if reset < most-time.Minute && ttl < reset-10*time.Second || (ttl-10*time.Second)/factor > reset {
				t.Errorf("%v %s, burst %d: TTL %v, and the limit needs %v", of, spec.Rate, spec.Burst, ttl, reset)
			}
		}
	}
}

// TestHostileServer has servers that reply with more than fits in memory, or in a
// log line, or with what answers another question.
func TestHostileServer(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	t.Run("all", func(t *testing.T) {
		for name, reply := range redistest.HostileReplies() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				s, err := New(Options{URLs: []string{redistest.Hostile(t, reply)}, Timeout: 300 * time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				requests := []store.Request{{Namespace: "n", Identifier: "i", Limits: []strategy.Limit{limit(t, strategy.Spec{Rate: "1/s", Strategy: strategy.FixedWindow})}, Cost: 1}}
				results := make([]store.Result, 1)
				s.Decide(t.Context(), requests, results)
				if results[0].Err == nil {
					t.Error("the request is decided")
				}
				for what, err := range map[string]error{"decide": results[0].Err, "health": s.Health(t.Context())} {
					if text := fmt.Sprint(err); len(text) > 2*quote.MaxErrorBytes || strings.Contains(text, "\x1b") {
						t.Errorf("%s: an error of %d bytes: %.1000q", what, len(text), text)
					}
				}
			})
		}
	})
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 128<<20 {
		t.Errorf("it took %d MB", used>>20)
	}
}

// TestReplyScanner reads valid replies in pieces, and finds each end.
func TestReplyScanner(t *testing.T) {
	for _, reply := range []string{
		"+OK\r\n", "-ERR no\r\n", ":1\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "_\r\n", "#t\r\n", ",1.5\r\n", "(1234567890123456789012345678901234567890\r\n",
		"$5\r\na\r\nbc\r\n", "$0\r\n\r\n", "=7\r\ntxt:abc\r\n", "!5\r\nERR x\r\n",
		"*3\r\n:1\r\n*2\r\n$1\r\na\r\n*0\r\n%1\r\n+k\r\n*1\r\n_\r\n", "%0\r\n", "~1\r\n:1\r\n", ">2\r\n+a\r\n:1\r\n",
		"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
	} {
		var s replyScanner
		in := strings.Repeat(reply, 3)
		r := iotest.OneByteReader(strings.NewReader(in))
		one := make([]byte, 1)
		for {
			if _, err := r.Read(one); err != nil {
				break
			}
			if err := s.scan(one); err != nil {
				t.Errorf("%q: %v", reply, err)
			}
		}
		if s.depth != 0 || s.cost != 0 || s.line != 0 || s.skip != 0 {
			t.Errorf("%q has not ended: %+v", reply, s)
		}
	}
	var s replyScanner // many replies are no large one
	many := bytes.Repeat([]byte("$100000\r\n"+strings.Repeat("x", 100_000)+"\r\n"), 100)
	if err := s.scan(many); err != nil {
		t.Error(err)
	}
	if err := s.scan([]byte("$4194305\r\n")); !errors.Is(err, errReply) {
		t.Errorf("%v", err)
	}
}

// FuzzReplyScanner compares what the scanner lets pass with what the client makes
// of it: neither may panic, nor the client take much memory.
func FuzzReplyScanner(f *testing.F) {
	f.Add([]byte("*2\r\n$1\r\na\r\n:1\r\n"))
	f.Add([]byte("%1\r\n+a\r\n$-1\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var s replyScanner
		for i := range in {
			if err := s.scan(in[i : i+1]); err != nil {
				return
			}
			if s.depth < 0 || s.depth > maxReplyDepth || s.cost > maxReplyBytes || s.skip < 0 {
				t.Fatalf("%+v", s)
			}
		}
	})
}
