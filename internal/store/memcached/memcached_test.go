package memcached

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestMain(m *testing.M) {
	if storetest.Race(func(addr string) (store.Store, error) {
		return New(Options{Addrs: []string{addr}, Timeout: patient, MaxAttempts: tireless})
	}) {
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	// patient is longer than any decision takes on a loaded machine.
	patient = 10 * time.Second
	// tireless is more attempts than any race takes.
	tireless = 10_000
	// forever keeps items in the server while a test sets the clock of the store.
	forever = 200 * 365 * 24 * time.Hour
)

// open returns a store on servers, with a timeout that no decision reaches.
func open(tb testing.TB, o Options, servers ...*memcachedtest.Server) *Store {
	tb.Helper()
	for _, server := range servers {
		o.Addrs = append(o.Addrs, server.Addr)
	}
	if o.Timeout == 0 {
		o.Timeout = patient
	}
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		var clock atomic.Int64
		now := func() strategy.Instant { return strategy.Instant(clock.Load()) }
		s := open(t, Options{Now: now}, memcachedtest.Start(t), memcachedtest.Start(t))
		s.slack = forever
		return storetest.Subject{Store: s, Set: func(now strategy.Instant) { clock.Store(int64(now)) }, Skew: maxSkew}
	})
}

// decide asks s for one decision.
func decide(ctx context.Context, s *Store, r store.Request) store.Result {
	results := make([]store.Result, 1)
	s.Decide(ctx, []store.Request{r}, results)
	return results[0]
}

func request(tb testing.TB, specs ...strategy.Spec) store.Request {
	tb.Helper()
	r := store.Request{Namespace: "test", Identifier: "alice", Cost: 1}
	for _, spec := range specs {
		r.Limits = append(r.Limits, storetest.Limit(tb, spec))
	}
	return r
}

// left returns how much is left of the first limit of r.
func left(t *testing.T, s *Store, r store.Request) uint64 {
	t.Helper()
	r.Cost = 0
	res := decide(t.Context(), s, r)
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	return res.Statuses[0].Remaining
}

// waits returns a caller that waits for as long as the test does.
func waits(tb testing.TB) caller { return caller{tb.Context(), time.Now().Add(patient)} }

// read returns the value of the item with key at the first server, or nil if there is none.
func read(tb testing.TB, s *Store, key string) []byte {
	tb.Helper()
	on := s.servers[0]
	a := on.send(newRead(key))
	if err := on.await(waits(tb), a); err != nil {
		tb.Fatal(err)
	}
	return a.found[0].value
}

// oneOfEach is a limit of each strategy.
var oneOfEach = []strategy.Spec{
	{Rate: "100/min"},
	{Rate: "100/min", Strategy: strategy.SlidingWindowCounter},
	{Rate: "100/min", Strategy: strategy.SlidingWindowLog},
	{Rate: "100/min", Strategy: strategy.TokenBucket, Burst: 20, Name: "burst"},
	{Rate: "100/min", Strategy: strategy.LeakyBucket},
	{Rate: "100/min", Strategy: strategy.GCRA},
}

// ttl returns the seconds that the item with key has left, or -1 if it never
// expires.
func ttl(t *testing.T, server *memcachedtest.Server, key string) int64 {
	t.Helper()
	answer := server.Ask(t, "mg "+key+" t")
	text, ok := strings.CutPrefix(answer[0], "HD t")
	n, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		t.Fatalf("the item %s has ttl %q", key, answer)
	}
	return n
}

// TestOneItemPerIdentifier decides with several limits, and looks at the items in the server
// as an operator would.
func TestOneItemPerIdentifier(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{}, server)
	r := request(t, oneOfEach...)
	r.Namespace, r.Identifier = "check:out", "user:{42} é"
	if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
		t.Fatalf("%+v", res)
	}
	if n := ttl(t, server, "rl:check%3Aout:user:{42}%20%C3%A9"); n <= 60 || n > 122 {
		t.Errorf("the item expires in %d s, want at most the two windows of the sliding window counter and 2 s more", n)
	}
	if stats := server.Ask(t, "stats"); stat(stats, "curr_items") != 1 {
		t.Errorf("a decision by %d limits left %d items, want 1", len(r.Limits), stat(stats, "curr_items"))
	}
}

func stat(stats []string, name string) int {
	for _, line := range stats {
		if text, ok := strings.CutPrefix(line, "STAT "+name+" "); ok {
			n, _ := strconv.Atoi(text)
			return n
		}
	}
	return -1
}

func TestResetLeavesNothing(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{}, server)
	r := request(t, oneOfEach...)
	for range 2 {
		if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
			t.Fatalf("%+v", res)
		}
		if err := s.Reset(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		if answer := server.Ask(t, "mg rl:test:alice v"); answer[0] != "EN" {
			t.Errorf("after a reset of all counters there is an item: %q", answer)
		}
	}
}

// TestExpiry asks the server when it will drop items.
func TestExpiry(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{}, server)
	for _, tt := range []struct {
		rate  string
		burst uint64 // all of which is used
		want  int64  // seconds; those that pass meanwhile are not missed
	}{
		{"2/60s", 2, 61},
		{"1/719h", 1, 719*3600 + 1},
		{"1/720h", 1, 720*3600 + 1}, // 30 days, and a second more
		{"1/366d", 1, 366*24*3600 + 1},
		{"1/366d", 100, 366*24*3600 + 1}, // it needs a hundred times as long
	} {
		r := request(t, strategy.Spec{Rate: tt.rate, Burst: tt.burst, Strategy: strategy.TokenBucket})
		r.Identifier, r.Cost = fmt.Sprint(tt.rate, tt.burst), tt.burst
		if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
			t.Fatalf("%+v", res)
		}
		// The server's clock counts whole seconds and may be behind, and an absolute
		// time is rounded up.
		if n := ttl(t, server, "rl:test:"+r.Identifier); n > tt.want+3 || n < tt.want-10 {
			t.Errorf("%s, all of %d used: expires in %d s, want %d", tt.rate, tt.burst, n, tt.want)
		}
		if n := left(t, s, r); n != 0 {
			t.Errorf("%s, all of %d used: %d left", tt.rate, tt.burst, n)
		}
	}
}

// TestCountersExpire uses real time, because it tests the server's expiry.
func TestCountersExpire(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{}, server)
	r := request(t, strategy.Spec{Rate: "1/ms"})
	if res := decide(t.Context(), s, r); !res.Allowed {
		t.Fatalf("%+v", res)
	}
	for deadline := time.Now().Add(patient); server.Ask(t, "mg rl:test:alice v")[0] != "EN"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v the item is still there", patient)
		}
	}
}

// TestExpiredCountersAreDropped lets a counter expire in an item that has other counters.
func TestExpiredCountersAreDropped(t *testing.T) {
	var now atomic.Int64
	s := open(t, Options{Now: func() strategy.Instant { return strategy.Instant(now.Load()) }}, memcachedtest.Start(t))
	names := func() (names []string) {
		for _, c := range parseItem(read(t, s, "rl:test:alice"), 0).counters {
			names = append(names, string(c.name[2:]))
		}
		return names
	}
	hour := strategy.Spec{Rate: "100/h", Name: "hour"}
	now.Store(1_800_000_000_000_000)
	decide(t.Context(), s, request(t, hour, strategy.Spec{Rate: "100/s", Name: "second"}))
	if got := fmt.Sprint(names()); got != "[hour second]" {
		t.Errorf("the item holds %s", got)
	}
	now.Add(999_999)
	decide(t.Context(), s, request(t, hour))
	if got := fmt.Sprint(names()); got != "[hour second]" {
		t.Errorf("a microsecond before the end of the second, the item holds %s", got)
	}
	now.Add(1)
	decide(t.Context(), s, request(t, hour))
	if got := fmt.Sprint(names()); got != "[hour]" {
		t.Errorf("at the end of the second, the item holds %s", got)
	}
}

func TestForeignValues(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{}, server)
	r := request(t, strategy.Spec{Rate: "5/h"})
	for _, value := range []string{"", "not an item", "\x01not an item", "\x02", "\x01\x00\x00\x00"} {
		server.Set(t, "rl:test:alice", []byte(value))
		if err := s.Reset(t.Context(), &r); err != nil {
			t.Errorf("Reset over %q: %v", value, err)
		}
		server.Set(t, "rl:test:alice", []byte(value))
		empty := value == "" || value == "\x02"
		if res := decide(t.Context(), s, r); errors.Is(res.Err, errCorrupt) == empty || empty && res.Statuses[0].Remaining != 4 {
			t.Errorf("over %q: %+v", value, res)
		}
		if !empty {
			if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != 4 {
				t.Errorf("after %q: %+v, want a counter that starts again", value, res)
			}
		}
		if n := left(t, s, r); n != 4 {
			t.Errorf("over %q: the counter is not kept: %d left", value, n)
		}
	}
}

// TestLargeLogs fills an item with logs of the greatest default size, and then with more than
// the server allows.
func TestLargeLogs(t *testing.T) {
	var now strategy.Instant = 1_800_000_000_000_000
	server := memcachedtest.Start(t)
	s := open(t, Options{Now: func() strategy.Instant { return now }}, server)
	s.slack = forever
	full := func(n int) *item {
		it := new(item)
		for i := range n {
			l := storetest.Limit(t, strategy.Spec{Rate: "10000/366d", Strategy: strategy.SlidingWindowLog, Name: fmt.Sprint(i)})
			c := counter{name: appendName(nil, &l), expires: now + instants(forever)}
			for j := range strategy.Instant(9999) {
				c.log.Add(&l, 1, now-366*24*3600*1_000_000+3_100_000_000*(j+1))
			}
			it.counters = append(it.counters, c)
		}
		return it
	}
	for _, logs := range []int{1, strategy.MaxLimits, 2 * strategy.MaxLimits} {
		r := request(t, strategy.Spec{Rate: "10000/366d", Strategy: strategy.SlidingWindowLog, Name: "0"})
		r.Identifier = fmt.Sprint(logs)
		value := full(logs).encode()
		t.Logf("%d full logs take %d bytes", logs, len(value))
		if logs <= strategy.MaxLimits {
			server.Set(t, "rl:test:"+r.Identifier, value)
			if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed || res.Statuses[0].Remaining != 0 {
				t.Errorf("%d logs with room for one more: %+v", logs, res)
			}
			if res := decide(t.Context(), s, r); res.Err != nil || res.Allowed {
				t.Errorf("%d full logs: %+v", logs, res)
			}
			continue
		}
		e := s.edit(&r)
		e.change = func(it *item, _ strategy.Instant) bool { *it = *full(logs); return true }
		s.run(waits(t), []*edit{e})
		if !errors.Is(e.err, store.ErrCounters) || !strings.Contains(e.err.Error(), `"rl:test:32" take `) || !strings.Contains(e.err.Error(), "too large") {
			t.Errorf("%d full logs: %v, want an error that says what is too large", logs, e.err)
		}
	}
}

// TestRoundTrips counts the messages to the server.
func TestRoundTrips(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{}, server)
	wires := tap(s)
	count := func(what string, reads, writes int, do func()) {
		t.Helper()
		wires.reset()
		do()
		if sent := wires.sent(); sent["gets"] != reads || sent["add"]+sent["cas"] != writes || len(sent) > 2 {
			t.Errorf("%s sent %v, want %d gets and %d writes", what, sent, reads, writes)
		}
	}
	r := request(t, oneOfEach...)
	r.Limits = append(r.Limits, storetest.Limit(t, strategy.Spec{Rate: "unlimited"}))
	one := func(r store.Request) func() {
		return func() {
			if res := decide(t.Context(), s, r); res.Err != nil {
				t.Error(res.Err)
			}
		}
	}
	count("a decision", 1, 1, one(r))
	denied, dry, free, unlimited := r, r, r, request(t, strategy.Spec{Rate: "unlimited"})
	denied.Cost, dry.DryRun, free.Cost = 101, true, 0
	count("a denial", 1, 0, one(denied))
	count("a dry run", 1, 0, one(dry))
	count("a cost of 0", 1, 0, one(free))
	count("an unlimited request", 0, 0, one(unlimited))
	count("a reset", 1, 1, func() {
		if err := s.Reset(t.Context(), &r); err != nil {
			t.Error(err)
		}
	})
	count("another reset", 1, 0, func() {
		if err := s.Reset(t.Context(), &r); err != nil {
			t.Error(err)
		}
	})
	bob := r
	bob.Identifier = "bob"
	bob.Limits, r.Limits = bob.Limits[:1], r.Limits[:1]
	requests := []store.Request{r, unlimited, bob, r, denied, free, bob, dry, r}
	count("a batch of two identifiers", 1, 2, func() {
		results := make([]store.Result, len(requests))
		s.Decide(t.Context(), requests, results)
		for i, want := range []uint64{99, 1<<64 - 1, 99, 98, 98, 98, 98, 98, 97} {
			if res := results[i]; res.Err != nil || res.Statuses[0].Remaining != want || res.Allowed != (i != 4) {
				t.Errorf("request %d of the batch: %+v, want %d left", i, res, want)
			}
		}
	})
}

// TestLargestBatch reads 1,000 keys of the greatest length at once.
func TestLargestBatch(t *testing.T) {
	s := open(t, Options{}, memcachedtest.Start(t), memcachedtest.Start(t), memcachedtest.Start(t))
	wires := tap(s)
	requests, results := make([]store.Request, 1000), make([]store.Result, 1000)
	for i := range requests {
		requests[i] = request(t, strategy.Spec{Rate: "5/h"})
		requests[i].Identifier = fmt.Sprint(i, strings.Repeat("\x00", 1000))
	}
	for want := uint64(4); want > 2; want-- {
		wires.reset()
		s.Decide(t.Context(), requests, results)
		for i, res := range results {
			if res.Err != nil || res.Statuses[0].Remaining != want {
				t.Fatalf("request %d: %+v, want %d left", i, res, want)
			}
		}
		if sent := wires.sent(); sent["gets"] != 3 {
			t.Errorf("1,000 requests sent %v, want one gets to each of 3 servers", sent)
		}
	}
}

// TestConflicts lets another writer write between each read and its write. It does so when
// the store reads its clock, which is between the two.
func TestConflicts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before uint64 // units used before; with none, there is no item
		meddle func(other *Store, r store.Request)
		left   uint64
	}{
		{"the first to add", 0, func(other *Store, r store.Request) { decide(t.Context(), other, r) }, 98},
		{"another decision", 10, func(other *Store, r store.Request) { decide(t.Context(), other, r) }, 88},
		{"a reset", 10, func(other *Store, r store.Request) { _ = other.Reset(t.Context(), &r) }, 99},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := memcachedtest.Start(t)
			other := open(t, Options{}, server)
			r := request(t, strategy.Spec{Rate: "100/366d"})
			if tt.before > 0 {
				before := r
				before.Cost = tt.before
				decide(t.Context(), other, before)
			}
			meddling := 1
			s := open(t, Options{MaxAttempts: 3, Now: func() strategy.Instant {
				if meddling > 0 {
					meddling--
					tt.meddle(other, r)
				}
				return other.now()
			}}, server)

			res := decide(t.Context(), s, r)
			if res.Err != nil || !res.Allowed || res.Statuses[0].Remaining != tt.left {
				t.Errorf("%+v, want %d left", res, tt.left)
			}
			wantMetrics(t, s, 1, 0)
		})
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	server := memcachedtest.Start(t)
	other := open(t, Options{}, server)
	r := request(t, strategy.Spec{Rate: "100/366d"})
	meddled := 0
	o := Options{MaxAttempts: 3, Now: func() strategy.Instant {
		meddled++
		decide(t.Context(), other, r)
		return other.now()
	}}
	s := open(t, o, server)
	if res := decide(t.Context(), s, r); res.Err == nil || !strings.Contains(res.Err.Error(), `at each of 3 attempts to write "rl:test:alice"`) {
		t.Errorf("%+v, want an error that says how often it tried", res)
	}
	wantMetrics(t, s, 3, 1)
	if n := left(t, other, r); meddled != 3 || n != 97 {
		t.Errorf("the others wrote %d times, and %d are left; want 3 and 97", meddled, n)
	}

	// The time may run out before the attempts do.
	o.MaxAttempts, o.Timeout = tireless, 50*time.Millisecond
	s = open(t, o, server)
	r.Limits[0] = storetest.Limit(t, strategy.Spec{Rate: "1000000/366d"})
	if res := decide(t.Context(), s, r); !errors.Is(res.Err, context.DeadlineExceeded) {
		t.Errorf("%+v, want the deadline", res)
	}
}

func wantMetrics(t *testing.T, s *Store, conflicts, exhausted int) {
	t.Helper()
	want := fmt.Sprintf(`# HELP ratelimitd_memcached_attempts_exhausted_total How often the counters of an identifier could not be written because every attempt met a conflict until the attempts or the time ran out.
# TYPE ratelimitd_memcached_attempts_exhausted_total counter
ratelimitd_memcached_attempts_exhausted_total %d
# HELP ratelimitd_memcached_cas_conflicts_total Writes that memcached refused because of another write in between. Each was tried again while attempts were left.
# TYPE ratelimitd_memcached_cas_conflicts_total counter
ratelimitd_memcached_cas_conflicts_total %d
`, exhausted, conflicts)
	if err := testutil.CollectAndCompare(s.Collector(), strings.NewReader(want), "ratelimitd_memcached_attempts_exhausted_total", "ratelimitd_memcached_cas_conflicts_total"); err != nil {
		t.Error(err)
	}
}

// TestFailedWriteIsNotRepeated lets each write succeed, and loses its answer.
func TestFailedWriteIsNotRepeated(t *testing.T) {
	server := memcachedtest.Start(t)
	s, other := open(t, Options{}, server), open(t, Options{}, server)
	wires := tap(s)
	wires.lose = true
	r := request(t, strategy.Spec{Rate: "100/h"})
	for want := uint64(99); want > 96; want-- {
		if res := decide(t.Context(), s, r); !errors.Is(res.Err, io.ErrUnexpectedEOF) {
			t.Errorf("%+v, want the error of the connection", res)
		}
		if n := left(t, other, r); n != want {
			t.Errorf("%d left, want %d: the write happened once", n, want)
		}
	}
	wantMetrics(t, s, 0, 0)
}

// TestRestart restarts the server. That breaks all idle connections, and no decision may fail
// because of it.
func TestRestart(t *testing.T) {
	server := memcachedtest.Start(t)
	s := open(t, Options{}, server)
	r := request(t, strategy.Spec{Rate: "1000/h"})
	var wg sync.WaitGroup
	for i := range 8 { // leaves several connections
		wg.Go(func() {
			r := r
			r.Identifier = fmt.Sprint(i)
			if res := decide(t.Context(), s, r); res.Err != nil {
				t.Error(res.Err)
			}
		})
	}
	wg.Wait()
	for range 3 {
		server.Restart(t)
		if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != 999 {
			t.Errorf("after a restart: %+v, want a fresh counter", res)
		}
	}
	server.Stop()
	if res := decide(t.Context(), s, r); res.Err == nil {
		t.Errorf("without a server: %+v, want an error", res)
	}
}

// TestOneServerDown stops one server. Only decisions about its identifiers may fail.
func TestOneServerDown(t *testing.T) {
	up, down := memcachedtest.Start(t), memcachedtest.Start(t)
	s := open(t, Options{}, up, down)
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
	down.Stop()
	if err := s.Health(t.Context()); err != nil {
		t.Errorf("with one of two servers: %v, want it healthy", err)
	}
	requests, results := make([]store.Request, 100), make([]store.Result, 100)
	for i := range requests {
		requests[i] = request(t, strategy.Spec{Rate: "5/h"})
		requests[i].Identifier = fmt.Sprint("user:", i)
	}
	s.Decide(t.Context(), requests, results)
	failed := 0
	for i, res := range results {
		at := pick(s.servers, "rl:test:"+requests[i].Identifier).addr
		if named := s.ServerOf(t.Context(), &requests[i]); named != at {
			t.Errorf("an identifier at %s is said to be at %s", at, named)
		}
		if failing := res.Err != nil; failing != (at == down.Addr) {
			t.Errorf("an identifier at %s, where %s is down: %+v", at, down.Addr, res)
		} else if failing {
			failed++
		}
	}
	if failed < 25 || failed > 75 {
		t.Errorf("%d of 100 identifiers are on one of two servers", failed)
	}
	up.Stop()
	if err := s.Health(t.Context()); err == nil || !strings.Contains(err.Error(), down.Addr) || !strings.Contains(err.Error(), up.Addr) {
		t.Errorf("Health reports %v, want it to name both servers", err)
	}
}

// TestBreakerWithOneServerDown kills one of three servers, with a breaker before the store.
// Decisions about identifiers of the other servers go on. Those of the dead server fail
// at once until it is back.
func TestBreakerWithOneServerDown(t *testing.T) {
	servers := []*memcachedtest.Server{memcachedtest.Start(t), memcachedtest.Start(t), memcachedtest.Start(t)}
	s := open(t, Options{}, servers...)
	b := breaker.New(s, s.timeout)
	requests, results := make([]store.Request, 60), make([]store.Result, 60)
	for i := range requests {
		requests[i] = request(t, strategy.Spec{Rate: "1000000/366d"})
		requests[i].Identifier = fmt.Sprint("user:", i)
	}
	asked := 0
	// decideUntil decides all requests, in batches with many requests and with one, until
	// those of the dead server fail with that error.
	decideUntil := func(want error) {
		t.Helper()
		for deadline := time.Now().Add(patient); ; time.Sleep(time.Millisecond) {
			asked++
			b.Decide(t.Context(), requests[:30], results[:30])
			for i := 30; i < len(requests); i++ {
				b.Decide(t.Context(), requests[i:i+1], results[i:i+1])
			}
			done := true
			for i, res := range results {
				switch of := s.ServerOf(t.Context(), &requests[i]); {
				case of == servers[0].Addr:
					done = done && errors.Is(res.Err, want)
				case res.Err != nil || res.Statuses[0].Remaining != uint64(1_000_000-asked):
					t.Fatalf("an identifier at %s, where %s is down: %+v, want one unit less each time", of, servers[0].Addr, res)
				}
			}
			if done {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("after %v not all identifiers of the server have %v", patient, want)
			}
		}
	}
	decideUntil(nil)
	servers[0].Stop()
	decideUntil(breaker.ErrOpen)
	if n := b.Open(); n != 1 {
		t.Errorf("%d circuits are open, want one", n)
	}
	servers[0].Restart(t)
	decideUntil(nil)
}

// TestErrors asks a server that is not there, and one that does not answer.
func TestErrors(t *testing.T) {
	silent, closed := listen(t), listen(t)
	_ = closed.Close()
	r := request(t, strategy.Spec{Rate: "5/h"})
	for name, addr := range map[string]string{"silent": silent.Addr().String(), "closed": closed.Addr().String()} {
		s := open(t, Options{Addrs: []string{addr}, Timeout: 50 * time.Millisecond})
		start := time.Now()
		res := decide(t.Context(), s, r)
		if res.Err == nil || !strings.Contains(res.Err.Error(), addr) || time.Since(start) > patient {
			t.Errorf("%s: %+v after %v, want an error soon that names the server", name, res, time.Since(start))
		}
		if err := s.Reset(t.Context(), &r); err == nil {
			t.Errorf("%s: Reset succeeds", name)
		}
		if err := s.Health(t.Context()); err == nil {
			t.Errorf("%s: Health reports nothing", name)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("%s: Close: %v", name, err)
			}
		}
	}
}

// TestCallerGoesAway ends the caller's context long before the timeout. Then it closes the
// store long before the timeout.
func TestCallerGoesAway(t *testing.T) {
	s := open(t, Options{Addrs: []string{listen(t).Addr().String()}, Timeout: time.Hour, MaxConns: 2})
	r := request(t, strategy.Spec{Rate: "5/h"})
	var dials atomic.Int32
	dial := s.servers[0].dial
	s.servers[0].dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, network, addr)
	}
	start := time.Now()
	for range 3 { // the third finds no connection free
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if res := decide(ctx, s, r); !errors.Is(res.Err, context.DeadlineExceeded) {
			t.Errorf("%+v, want the deadline", res)
		}
		cancel()
		if res := decide(ctx, s, r); res.Err == nil {
			t.Errorf("%+v after the deadline", res)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer time.AfterFunc(20*time.Millisecond, cancel).Stop()
	if res := decide(ctx, s, r); !errors.Is(res.Err, context.Canceled) {
		t.Errorf("%+v, want it canceled", res)
	}
	if n := dials.Load(); n != 2 {
		t.Errorf("%d connections were made, want 2", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > patient {
		t.Errorf("it all took %v", took)
	}
}

// listen returns a listener that answers nothing.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		options Options
		want    string
	}{
		{Options{Addrs: []string{"localhost"}}, `address "localhost": write it as host:port, such as "127.0.0.1:11211"`},
		{Options{Addrs: []string{"127.0.0.1:11211", "memcached://h:1"}}, `address "memcached://h:1"`},
		{Options{Addrs: []string{"h:port"}}, `address "h:port"`},
		{Options{Addrs: []string{"h:0"}}, `address "h:0"`},
		{Options{Addrs: []string{"h:65536"}}, `address "h:65536"`},
		{Options{Addrs: []string{":11211"}}, `address ":11211"`},
		{Options{Timeout: -1}, "timeout -1ns"},
		{Options{MaxConns: -1}, "at most -1 connections"},
		{Options{MaxAttempts: -1}, "-1 attempts"},
	} {
		s, err := New(tt.options)
		if err == nil {
			_ = s.Close()
			t.Errorf("New(%+v) succeeds", tt.options)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%+v): %q, want it to say %q", tt.options, err, tt.want)
		}
	}
}

// TestClock compares the default clock with the wall clock.
func TestClock(t *testing.T) {
	s := open(t, Options{})
	before := strategy.InstantOf(time.Now())
	now := s.now()
	if after := strategy.InstantOf(time.Now()); now < before || now > after {
		t.Errorf("the clock reads %d, want %d to %d", now, before, after)
	}
}

// wires are all connections of a store to its servers.
type wires struct {
	mu       sync.Mutex // protects the following
	commands map[string]int
	lose     bool // answers to writes, and with them the connection
}

// tap makes the store connect through wires.
func tap(s *Store) *wires {
	w := new(wires)
	w.reset()
	for _, server := range s.servers {
		dial := server.dial
		server.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			return &wire{Conn: c, of: w}, err
		}
	}
	return w
}

func (w *wires) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commands = map[string]int{}
}

func (w *wires) sent() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.commands
}

type wire struct {
	net.Conn
	of   *wires
	lost bool
}

// Write counts the commands that begin in b.
func (w *wire) Write(b []byte) (int, error) {
	w.of.mu.Lock()
	for line := range strings.SplitSeq(string(b), "\r\n") {
		for _, name := range []string{"gets", "add", "cas", "version"} {
			if strings.HasPrefix(line, name+" ") {
				w.of.commands[name]++
				w.lost = w.of.lose && name != "gets"
			}
		}
	}
	w.of.mu.Unlock()
	return w.Conn.Write(b)
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if w.lost {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func TestProcessesShareCounters(t *testing.T) {
	storetest.RaceProcesses(t, memcachedtest.Start(t).Addr)
}

// BenchmarkDecide measures a decision, and the read of an item: every store needs at least
// that round trip, and a decision makes two.
func BenchmarkDecide(b *testing.B) {
	server := memcachedtest.Start(b)
	s := open(b, Options{}, server)
	b.Run("read", func(b *testing.B) {
		server.Set(b, "key", []byte("value"))
		b.ReportAllocs()
		for b.Loop() {
			read(b, s, "key")
		}
	})
	for _, spec := range oneOfEach {
		spec.Rate = "1000000000/s"
		if spec.Burst > 0 || spec.Strategy == strategy.GCRA {
			spec.Burst = 1_000_000_000
		}
		if spec.Strategy == strategy.SlidingWindowLog {
			spec.Rate = "100/10ms" // denied, at times
		}
		r := request(b, spec)
		b.Run(r.Limits[0].Strategy.String(), func(b *testing.B) { benchmark(b, s, r) })
	}
	b.Run("denied", func(b *testing.B) {
		benchmark(b, s, request(b, strategy.Spec{Rate: "0/s"}))
	})
	for _, name := range []string{"parallel", "parallel_one_identifier"} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(16)
			r := request(b, strategy.Spec{Rate: "1000000000/s"})
			var racer atomic.Int64
			before := s.conflicts.Load()
			b.RunParallel(func(pb *testing.PB) {
				r := r
				if name == "parallel" {
					r.Identifier = fmt.Sprint(racer.Add(1))
				}
				for pb.Next() {
					if res := decide(b.Context(), s, r); res.Err != nil {
						b.Error(res.Err)
						return
					}
				}
			})
			b.ReportMetric(float64(s.conflicts.Load()-before)/float64(b.N), "conflicts/decision")
		})
	}
	b.Run("batch_of_100", func(b *testing.B) {
		requests, results := make([]store.Request, 100), make([]store.Result, 100)
		for i := range requests {
			requests[i] = request(b, strategy.Spec{Rate: "1000000000/s"})
			requests[i].Identifier = fmt.Sprint("batch:", i)
		}
		for b.Loop() {
			s.Decide(b.Context(), requests, results)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(requests)), "ns/decision")
	})
}

func benchmark(b *testing.B, s *Store, r store.Request) {
	b.ReportAllocs()
	for b.Loop() {
		if res := decide(b.Context(), s, r); res.Err != nil {
			b.Fatal(res.Err)
		}
	}
}
