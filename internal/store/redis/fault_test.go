package redis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	goredis "github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A faultyServer is a server behind a proxy that can harm connections.
type faultyServer struct {
	server *redistest.Server
	proxy  *toxiproxy.Proxy
	direct *goredis.Client // not by the proxy
}

func (f *faultyServer) url() string { return "redis://" + f.proxy.Listen }

func startProxy(t *testing.T, upstream string) *toxiproxy.Proxy {
	t.Helper()
	proxy := toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "redis", "127.0.0.1:0", upstream)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	return proxy
}

func startFaulty(t *testing.T) *faultyServer {
	t.Helper()
	server := redistest.Start(t)
	return &faultyServer{server, startProxy(t, server.Addr), server.Client(t)}
}

func startFaultyCluster(t *testing.T) *faultyServer {
	t.Helper()
	f := &faultyServer{}
	f.server = redistest.StartClusterOfOne(t, func(addr string) string {
		f.proxy = startProxy(t, addr)
		return f.proxy.Listen
	})
	f.direct = f.server.Client(t)
	return f
}

// do makes the proxy harm connections, on the way to the server (upstream) or back.
func (f *faultyServer) do(t *testing.T, harm, stream, attributes string) {
	t.Helper()
	if _, err := f.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type": %q, "stream": %q, "attributes": {%s}}`, harm, stream, attributes))); err != nil {
		t.Fatal(err)
	}
}

// heal ends all harm, and closes the connections that were harmed.
func (f *faultyServer) heal(t *testing.T) {
	t.Helper()
	f.proxy.Stop()
	f.proxy.Toxics.ResetToxics(t.Context())
	if err := f.proxy.Start(); err != nil {
		t.Fatal(err)
	}
}

// used returns how many units of r's only limit are used, as the server counts them.
func (f *faultyServer) used(t *testing.T, r store.Request) int64 {
	t.Helper()
	value, err := f.direct.Get(t.Context(), counterKey(r.Namespace, r.Identifier, &r.Limits[0])).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		t.Fatal(err)
	}
	if number, err := strconv.ParseInt(value, 10, 64); err == nil { // as a fixed window is kept
		return number % numberUnit
	}
	state, _ := parseState(value)
	return state.Used
}

// TestFaults harms a connection while a decision is on its way. The caller must get an error
// in time. The server must have run the script once, or not at all if it did not get it.
// Later decisions must work without help.
func TestFaults(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *faultyServer{"one server": startFaulty, "cluster": startFaultyCluster} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			s := openWith(t, Options{URLs: []string{f.url()}, Cluster: name == "cluster", Timeout: 200 * time.Millisecond})
			for _, fault := range []struct {
				name, harm, stream, attributes string
				used                           int64 // -1: the server may have got it later, whole
			}{
				{"latency of the request", "latency", "upstream", `"latency": 2000`, -1},
				{"latency of the reply", "latency", "downstream", `"latency": 2000`, 1},
				{"request dropped", "timeout", "upstream", `"timeout": 0`, 0},
				{"reply dropped", "timeout", "downstream", `"timeout": 0`, 1},
				{"connection reset", "reset_peer", "downstream", `"timeout": 0`, -1},
				{"reply cut at its start", "limit_data", "downstream", `"bytes": 0`, 1},
				{"reply cut in the middle", "limit_data", "downstream", `"bytes": 9`, 1},
				{"connection closed without a reply", "timeout", "downstream", `"timeout": 50`, 1},
				{"little bandwidth to the server", "bandwidth", "upstream", `"rate": 0`, 0},
				{"little bandwidth back", "bandwidth", "downstream", `"rate": 0`, 1},
			} {
				t.Run(fault.name, func(t *testing.T) {
					r := store.Request{Namespace: "test", Identifier: fault.name, Limits: limits(t, strategy.Spec{Rate: "1000/366d"}), Cost: 1}
					look := r
					look.Cost = 0
					redistest.Eventually(t, "all is well before", func() error {
						if err := decide(t.Context(), s, look).Err; err != nil {
							return err
						}
						return looksEnded(s) // it takes the connection that the decision needs
					})
					f.do(t, fault.harm, fault.stream, fault.attributes)
					start := time.Now()
					res := decide(t.Context(), s, r)
					took := time.Since(start)
					if res.Err == nil || took > patient {
						t.Errorf("%+v after %v, want an error after about 200 ms", res, took)
					}
					if fault.used == 1 { // it may still be on its way to the server
						redistest.Eventually(t, "the script has run", func() error {
							if f.used(t, r) == 0 {
								return errors.New("not yet")
							}
							return nil
						})
					}
					f.heal(t)
					redistest.Eventually(t, "all is well again", func() error { return decide(t.Context(), s, look).Err })
					if used := f.used(t, r); used != fault.used && (fault.used >= 0 || used > 1) {
						t.Errorf("%d units are used, want %d", used, fault.used)
					}
				})
			}
			redistest.Eventually(t, "no connection is left over", func() error {
				clients, err := f.direct.ClientList(t.Context()).Result()
				if err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(clients, "name=ratelimitd"); n > DefaultPoolSize {
					return fmt.Errorf("%d connections:\n%s", n, clients)
				}
				return nil
			})
		})
	}
}

// TestHalfOpenConnection lets the server close a connection without the daemon noticing. What
// the daemon sends then is lost, and there is no answer.
func TestHalfOpenConnection(t *testing.T) {
	f := startFaulty(t)
	s := openWith(t, Options{URLs: []string{f.url()}, Timeout: 200 * time.Millisecond})
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/366d"}), Cost: 1}
	redistest.Eventually(t, "a decision", func() error { return decide(t.Context(), s, r).Err })
	before := f.used(t, r)
	f.do(t, "slow_close", "downstream", `"delay": 10000`)
	if n, err := f.direct.ClientKillByFilter(t.Context(), "TYPE", "normal").Result(); err != nil || n == 0 {
		t.Fatalf("%d connections are closed, %v", n, err)
	}
	start := time.Now()
	if res := decide(t.Context(), s, r); res.Err == nil || time.Since(start) > patient {
		t.Errorf("%+v after %v, want an error after about 200 ms", res, time.Since(start))
	}
	if used := f.used(t, r); used != before {
		t.Errorf("%d units are used, want %d", used, before)
	}
	// The other connections of the pool are closed when they are used, without help.
	redistest.Eventually(t, "all is well again", func() error { return decide(t.Context(), s, r).Err })
	f.proxy.Toxics.ResetToxics(t.Context()) // ends its delays, too
}

// TestBlackHole loses everything that is sent to Redis, with a breaker before the store.
// Callers wait for the timeout until the breaker opens. After that, only probes do.
func TestBlackHole(t *testing.T) {
	f := startFaulty(t)
	const timeout = 200 * time.Millisecond
	b := breaker.New(openWith(t, Options{URLs: []string{f.url()}, Timeout: timeout}), timeout)
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "100000000/366d"}), Cost: 1}
	redistest.Eventually(t, "a decision", func() error { return decide(t.Context(), b, r).Err })
	f.do(t, "timeout", "downstream", `"timeout": 0`)
	timed := func() (time.Duration, error) {
		start := time.Now()
		res := decide(t.Context(), b, r)
		return time.Since(start), res.Err
	}
	p99 := func(took []time.Duration) time.Duration {
		slices.Sort(took)
		return took[len(took)*99/100]
	}

	var mu sync.Mutex // protects the following
	var closing []time.Duration
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for {
				took, err := timed()
				if errors.Is(err, breaker.ErrOpen) {
					return
				}
				mu.Lock()
				closing = append(closing, took)
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	var open []time.Duration
	probes, start := 0, time.Now()
	for time.Since(start) < 3*timeout || len(open) < 1000 {
		took, err := timed()
		open = append(open, took)
		if !errors.Is(err, breaker.ErrOpen) {
			probes++
		}
	}
	t.Logf("p99 until the circuit opens %v, of %d; then %v, of %d, %d of them probes", p99(closing), len(closing), p99(open), len(open), probes)
	if got := p99(closing); got > timeout+time.Second { // a loaded machine stalls that long
		t.Errorf("until the circuit opens the p99 is %v, with a timeout of %v", got, timeout)
	}
	if got := p99(open); got > 5*time.Millisecond {
		t.Errorf("while the circuit is open the p99 is %v", got)
	}
	f.heal(t)
	redistest.Eventually(t, "all is well again", func() error { return decide(t.Context(), b, r).Err })
}

// TestPipelineIsCut sends many decisions in one pipeline and cuts the replies off. That must be
// an error, and no decision may run twice. (A client of a single server also returns an
// error for decisions that were answered before the cut.)
func TestPipelineIsCut(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *faultyServer{"one server": startFaulty, "cluster": startFaultyCluster} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			s := openWith(t, Options{URLs: []string{f.url()}, Cluster: name == "cluster", Timeout: time.Second})
			r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/366d"}), Cost: 1}
			if res := decide(t.Context(), s, r); res.Err != nil {
				t.Fatal(res.Err)
			}
			requests := make([]store.Request, maxTurn)
			for i := range requests {
				requests[i] = r
			}
			results := make([]store.Result, len(requests))
			f.do(t, "limit_data", "downstream", `"bytes": 1000`)
			s.Decide(t.Context(), requests, results)
			f.heal(t)
			allowed := 0
			for _, res := range results {
				if res.Err == nil {
					allowed++
				}
			}
			if used := f.used(t, r); used != 1+maxTurn || allowed == maxTurn {
				t.Errorf("of %d decisions %d have an answer, and with the one before %d units are used; want an error, and %d units", maxTurn, allowed, used, 1+maxTurn)
			}
		})
	}
}

// TestCallersLeave lets callers leave while the pipeline is stuck, by deadline or by
// cancellation. They must return at once, and their results must not change after that.
func TestCallersLeave(t *testing.T) {
	f := startFaulty(t)
	s := openWith(t, Options{URLs: []string{f.url()}})
	requests := []store.Request{{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/366d"}), Cost: 1}}
	if res := decide(t.Context(), s, requests[0]); res.Err != nil {
		t.Fatal(res.Err)
	}
	f.do(t, "timeout", "downstream", `"timeout": 0`)
	var callers sync.WaitGroup
	for i := range 8 * maxSenders { // some have been sent, some have not
		callers.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			want := context.DeadlineExceeded
			if i%2 == 0 {
				cancel()
				want = context.Canceled
			}
			defer cancel()
			results := make([]store.Result, 1)
			start := time.Now()
			s.Decide(ctx, requests, results)
			if took := time.Since(start); !errors.Is(results[0].Err, want) || took > patient {
				t.Errorf("%v after %v, want %v", results[0].Err, took, want)
			}
			results[0] = store.Result{} // the race detector sees who else writes it
		})
	}
	callers.Wait()
	f.heal(t)
	redistest.Eventually(t, "all is well again", func() error { return decide(t.Context(), s, requests[0]).Err })
}

// TestBatchesStarveNobody lets one caller decide one request at a time, while others decide a
// thousand each.
func TestBatchesStarveNobody(t *testing.T) {
	s := open(t, redistest.Start(t))
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/366d"}), Cost: 1}
	stop := make(chan struct{})
	var batches sync.WaitGroup
	for range maxSenders - 1 {
		batches.Go(func() {
			requests, results := make([]store.Request, 1000), make([]store.Result, 1000)
			for i := range requests {
				requests[i] = store.Request{Namespace: "batch", Identifier: fmt.Sprint(i), Limits: r.Limits, Cost: 1}
			}
			for {
				select {
				case <-stop:
					return
				default:
					s.Decide(t.Context(), requests, results)
				}
			}
		})
	}
	var slowest time.Duration
	for range 50 {
		start := time.Now()
		if res := decide(t.Context(), s, r); res.Err != nil {
			t.Error(res.Err)
		}
		slowest = max(slowest, time.Since(start))
	}
	close(stop)
	batches.Wait()
	t.Logf("the slowest of 50 took %v", slowest)
	if slowest > 2*time.Second {
		t.Errorf("beside batches of a thousand, a decision took %v", slowest)
	}
}

// TestCallersTakeTurns starts many more large batches than there are senders, and then a caller
// with one request. It must wait only for one turn of each batch, and not until the
// batches are done.
func TestCallersTakeTurns(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	ls := limits(t, strategy.Spec{Rate: "1000/366d"})
	unary := store.Request{Namespace: "test", Identifier: "alice", Limits: ls, Cost: 1}
	if res := decide(t.Context(), s, unary); res.Err != nil {
		t.Fatal(res.Err)
	}
	batch := make([]store.Request, 1000)
	for i := range batch {
		batch[i] = store.Request{Namespace: "batch", Identifier: fmt.Sprint(i % 10), Limits: ls, Cost: 1}
	}
	// await waits until that many senders wait for Redis, and that many callers for a sender.
	await := func(senders, callers int) {
		t.Helper()
		redistest.Eventually(t, fmt.Sprintf("%d senders and %d callers wait", senders, callers), func() error {
			s.pipes.mu.Lock()
			defer s.pipes.mu.Unlock()
			if l := s.pipes.lanes[""]; l.senders != senders || len(l.waiting) != callers {
				return fmt.Errorf("%d and %d do", l.senders, len(l.waiting))
			}
			return nil
		})
	}
	await(0, 0)
	server.Pause(t)
	var batchesDone atomic.Int64
	var callers sync.WaitGroup
	const batches = 5 * maxSenders
	for i := range batches {
		callers.Go(func() {
			results := make([]store.Result, len(batch))
			s.Decide(t.Context(), batch, results)
			batchesDone.Add(1)
			for i, res := range results {
				if res.Err != nil {
					t.Errorf("request %d of a batch: %v", i, res.Err)
					return
				}
				if i >= 10 && res.Allowed && res.Statuses[0].Remaining >= results[i-10].Statuses[0].Remaining {
					t.Errorf("request %d of a batch came before the one that it follows", i)
					return
				}
			}
		})
		await(min(i+1, maxSenders), max(0, i+1-maxSenders))
	}
	var before int64
	callers.Go(func() {
		if res := decide(t.Context(), s, unary); res.Err != nil {
			t.Error(res.Err)
		}
		before = batchesDone.Load()
	})
	await(maxSenders, batches-maxSenders+1)
	server.Resume(t)
	callers.Wait()
	if before != 0 {
		t.Errorf("%d of %d batches of a thousand were answered before a caller with one request that came last", before, batches)
	}
}

// TestShortDeadlines lets callers leave before Redis can answer. That must not close a
// connection.
func TestShortDeadlines(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000000/h"}), Cost: 1}
	if res := decide(t.Context(), s, r); res.Err != nil {
		t.Fatal(res.Err)
	}
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			for range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Microsecond)
				res := decide(ctx, s, r)
				if res.Err != nil && !errors.Is(res.Err, context.DeadlineExceeded) {
					t.Errorf("%v, want none or that there was no time", res.Err)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	info, err := server.Client(t).Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(info, "total_connections_received:")
	if n, _ := strconv.Atoi(strings.Fields(after)[0]); n > 20 {
		t.Errorf("Redis got %d connections, want no more than the pool has", n)
	}
}

// TestLargestBatch decides as many limits as one call can have.
func TestLargestBatch(t *testing.T) {
	server := redistest.Start(t)
	s, err := New(Options{URLs: []string{server.URL}, Timeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var specs []strategy.Spec
	for i := range strategy.MaxLimits {
		specs = append(specs, strategy.Spec{Rate: "1/h", Name: strconv.Itoa(i)})
	}
	requests, results := make([]store.Request, 1000), make([]store.Result, 1000)
	for i := range requests {
		requests[i] = store.Request{Namespace: "test", Identifier: strconv.Itoa(i), Limits: limits(t, specs...), Cost: 1}
	}
	if got := s.budget(requests); got != patient+16_000*perLimit {
		t.Errorf("it may take %v", got)
	}
	s.Decide(t.Context(), requests, results)
	for i, res := range results {
		if res.Err != nil || !res.Allowed {
			t.Fatalf("request %d: %+v", i, res)
		}
	}
}

// TestPasswordIsAsked connects without the password that Redis requires.
func TestPasswordIsAsked(t *testing.T) {
	server := redistest.Start(t)
	if err := server.Client(t).ConfigSet(t.Context(), "requirepass", "secret").Err(); err != nil {
		t.Fatal(err)
	}
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1/h"}), Cost: 1}
	for password, want := range map[string]string{"": "NOAUTH", "wrong": "check --redis-user and --redis-password", "secret": ""} {
		s, err := New(Options{URLs: []string{server.URL}, Password: password, Timeout: patient})
		if err != nil {
			t.Fatal(err)
		}
		res := decide(t.Context(), s, r)
		if got := fmt.Sprint(res.Err); (want == "") != (res.Err == nil) || !strings.Contains(got, want) && want != "" {
			t.Errorf("with password %q: %v, want %s", password, res.Err, want)
		}
		_ = s.Close()
	}
}

// TestPasswordFile changes the password, in Redis and in the file, while the store is used.
func TestPasswordFile(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	require := func(password string) { // and close the connections that had the old one
		t.Helper()
		pipe := client.Pipeline()
		pipe.ConfigSet(t.Context(), "requirepass", password)
		pipe.Do(t.Context(), "AUTH", password)
		pipe.ClientKillByFilter(t.Context(), "TYPE", "normal", "SKIPME", "yes")
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	require("first")
	write("wrong")
	s := openWith(t, Options{URLs: []string{server.URL}, PasswordFile: file})
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/h"}), Cost: 1}
	if res := decide(t.Context(), s, r); res.Err == nil || !strings.Contains(res.Err.Error(), "WRONGPASS") {
		t.Errorf("with a wrong password: %+v", res)
	}
	write("first")
	redistest.Eventually(t, "the right password is read", func() error { return decide(t.Context(), s, r).Err })
	require("second")
	write("second")
	redistest.Eventually(t, "the next password is read", func() error { return decide(t.Context(), s, r).Err })

	write("")
	for _, o := range []Options{{PasswordFile: file}, {PasswordFile: file + ".not"}, {PasswordFile: file, Password: "a"}} {
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), "password file") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestConnectingTakesItsTime has a server that is far away. To set up a connection takes longer
// than a decision may take, but a decision on an open connection does not.
func TestConnectingTakesItsTime(t *testing.T) {
	f := startFaulty(t)
	f.do(t, "latency", "downstream", `"latency": 30`)
	s, err := New(Options{URLs: []string{f.url()}, Timeout: 60 * time.Millisecond, DialTimeout: patient})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/h"}), Cost: 1}
	redistest.Eventually(t, "a decision", func() error { return decide(t.Context(), s, r).Err })
}
