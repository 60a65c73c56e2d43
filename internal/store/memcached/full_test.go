package memcached

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// named returns a request that consumes from n limits of 2/h, whose names nobody
// else uses.
func named(t *testing.T, first, n int) store.Request {
	t.Helper()
	r := store.Request{Namespace: "test", Identifier: "alice", Cost: 1}
	for i := range n {
		r.Limits = append(r.Limits, storetest.Limit(t, strategy.Spec{Rate: "2/h", Name: fmt.Sprintf("%0128d", first+i)}))
	}
	return r
}

// TestFullItem uses more limits of one identifier than fit into its item. A limit that
// denies goes on denying, and those that hardly anything was taken from make room.
func TestFullItem(t *testing.T) {
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	s := open(t, Options{Now: func() strategy.Instant { return now }}, memcachedtest.Start(t))
	const atATime = strategy.MaxLimits
	spent := named(t, 0, atATime)
	spent.Cost = 2
	if res := decide(t.Context(), s, spent); res.Err != nil || !res.Allowed {
		t.Fatalf("%+v", res)
	}
	for first := atATime; first < 2*maxCounters; first += atATime {
		if res := decide(t.Context(), s, named(t, first, atATime)); res.Err != nil || !res.Allowed {
			t.Fatalf("limits from %d on: %+v", first, res)
		}
	}
	if s.evicted.Load() == 0 || s.full.Load() != 0 {
		t.Errorf("%d counters are evicted and %d requests refused; want some, and none", s.evicted.Load(), s.full.Load())
	}
	if res := decide(t.Context(), s, spent); res.Err != nil || res.Allowed {
		t.Errorf("the limits that were spent: %+v, want them to deny", res)
	}
	latest := named(t, 2*maxCounters-atATime, atATime)
	if res := decide(t.Context(), s, latest); res.Err != nil || !res.Allowed || res.Statuses[0].Remaining != 0 {
		t.Errorf("the limits that were used last: %+v, want them to be counted", res)
	}
}

// TestItemFullOfDenials spends more limits than fit. Those that do not fit are denied
// until there is room, and no limit is granted twice.
func TestItemFullOfDenials(t *testing.T) {
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	s := open(t, Options{Now: func() strategy.Instant { return now }}, memcachedtest.Start(t))
	const requests, atATime = 2 * maxCounters / strategy.MaxLimits, strategy.MaxLimits
	granted := make([]int, requests)
	for range 2 {
		for i := range granted {
			r := named(t, i*atATime, atATime)
			r.Cost = 2
			res := decide(t.Context(), s, r)
			switch {
			case res.Err != nil:
				t.Fatal(res.Err)
			case res.Allowed:
				granted[i]++
			case res.RetryAfter != time.Hour:
				t.Fatalf("denied for %v, want 1h", res.RetryAfter)
			}
		}
	}
	once := 0
	for i, n := range granted {
		once += n
		if n > 1 {
			t.Errorf("request %d was granted %d times", i, n)
		}
	}
	if once != requests/2 || s.full.Load() == 0 || s.evicted.Load() != 0 {
		t.Errorf("%d of %d are granted, %d are refused, %d counters are evicted", once, requests, s.full.Load(), s.evicted.Load())
	}
	shadow := named(t, 1_000_000, 1)
	shadow.Limits[0].Shadow = true
	if res := decide(t.Context(), s, shadow); res.Err != nil || !res.Allowed || res.Statuses[0].Allowed {
		t.Errorf("a limit in shadow mode: %+v, want it to deny and the request to be allowed", res)
	}
	now += instants(time.Hour)
	if res := decide(t.Context(), s, named(t, 1_000_000, atATime)); res.Err != nil || !res.Allowed {
		t.Errorf("an hour later: %+v", res)
	}
}

// TestLogThatDoesNotFit has a log that alone is more than fits.
func TestLogThatDoesNotFit(t *testing.T) {
	now := strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	l, wrong := strategy.NewLimit(strategy.Spec{Rate: "1000000/366d", Strategy: strategy.SlidingWindowLog}, 1_000_000)
	if wrong != nil {
		t.Fatal(wrong)
	}
	it := &item{max: maxItemBytes}
	c := counter{name: appendName(nil, &l), expires: now + instants(forever)}
	for i := range strategy.Instant(400_000) {
		c.log.Add(&l, 1, now-4_000_000_000+10_000*i)
	}
	it.counters = append(it.counters, c)
	it = parseItem(it.encode(), now)
	r := store.Request{Namespace: "n", Identifier: "i", Limits: []strategy.Limit{l}, Cost: 1}
	var d store.Result
	if changed := it.decide(&r, &d, now, 0); changed || d.Allowed || d.RetryAfter != fullRetry || it.refused != 1 {
		t.Errorf("changed %t, %+v", changed, d)
	}
}

// TestSmallServer has a server that allows less than others.
func TestSmallServer(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{MaxAttempts: 30}, server)
	full := s.servers[0]
	full.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &smallServer{Conn: c}, err
	}
	for first := 0; first < maxCounters; first += strategy.MaxLimits {
		if res := decide(t.Context(), s, named(t, first, strategy.MaxLimits)); res.Err != nil || !res.Allowed {
			t.Fatalf("limits from %d on: %+v", first, res)
		}
	}
	if most := full.maxItem(); most > smallItem || most < smallItem/4 {
		t.Errorf("items of %d bytes are written to a server that allows %d", most, smallItem)
	}
}

const smallItem = 100_000

// A smallServer is a connection to a server that refuses large values.
type smallServer struct {
	net.Conn
	refuse bool
}

func (c *smallServer) Write(p []byte) (int, error) {
	if len(p) > smallItem {
		c.refuse = true
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *smallServer) Read(p []byte) (int, error) {
	if c.refuse {
		c.refuse = false
		return copy(p, "SERVER_ERROR object too large for cache\r\n"), nil
	}
	return c.Conn.Read(p)
}

// TestHostileServer has servers that reply with more than fits in memory, or in a log
// line.
func TestHostileServer(t *testing.T) {
	for name, reply := range memcachedtest.HostileReplies() {
		t.Run(name, func(t *testing.T) {
			s := open(t, Options{Addrs: []string{memcachedtest.Hostile(t, reply)}, Timeout: 2 * time.Second})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			res := decide(t.Context(), s, request(t, oneOfEach...))
			health := s.Health(t.Context())
			runtime.ReadMemStats(&after)
			if res.Err == nil {
				t.Error("the request is decided")
			}
			for what, err := range map[string]error{"decide": res.Err, "health": health} {
				if text := fmt.Sprint(err); len(text) > 2*quote.MaxErrorBytes || strings.Contains(text, "\x1b") {
					t.Errorf("%s: an error of %d bytes: %.1000q", what, len(text), text)
				}
			}
			if used := after.HeapSys - min(before.HeapSys, after.HeapSys); used > 128<<20 {
				t.Errorf("the heap grew by %d MB", used>>20)
			}
		})
	}
}

// TestLargestItem writes an item of the greatest size to a real server.
func TestLargestItem(t *testing.T) {
	s := open(t, Options{}, memcachedtest.Start(t))
	key := strings.Repeat("k", 250)
	on := s.servers[0]
	if err := on.await(waits(t), on.send(newWrite(write{key: key, value: make([]byte, maxItemBytes), add: true}))); err != nil {
		t.Error(err)
	}
}
