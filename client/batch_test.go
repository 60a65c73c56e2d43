package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/clienttest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

func newClient(t testing.TB, o client.Options) *client.Client {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestStreamOfAge has the daemon end streams under load as they become old: no call may be
// lost, and none counted twice.
func TestStreamOfAge(t *testing.T) {
	t.Parallel()
	d := clienttest.Start(t, "--connection-age=100ms", "--connection-grace=10s")
	limiter := newClient(t, d.Options()).Limiter("shop", client.Rate("1_000_000/h"))
	var asked atomic.Int64
	var callers sync.WaitGroup
	end := time.Now().Add(time.Second)
	for range 16 {
		callers.Go(func() {
			for time.Now().Before(end) {
				if r := limiter.Allow(t.Context(), "alice"); !r.Allowed || r.Err != nil {
					t.Errorf("call %d: %+v", asked.Load(), r)
					return
				}
				asked.Add(1)
			}
		})
	}
	callers.Wait()
	r := limiter.Check(t.Context(), "alice", 0)
	if counted := 1_000_000 - int64(r.Statuses[0].Remaining); counted != asked.Load() || counted == 0 {
		t.Errorf("%d calls were counted as %d", asked.Load(), counted)
	}
}

// patient is how long a test waits for what takes a second at most on a machine that is not busy.
const patient = 20 * time.Second

// TestRestartUnderLoad kills, pauses and restarts a daemon under load: each call is answered,
// and calls are allowed again.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	d := clienttest.Start(t)
	o := d.Options()
	o.Timeout = 50 * time.Millisecond
	limiter := newClient(t, o).Limiter("shop", client.Rate("1_000_000_000/h"))
	ctx, stop := context.WithCancel(t.Context())
	var slowest, answered atomic.Int64
	var callers sync.WaitGroup
	for range 64 {
		callers.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				r := limiter.Allow(t.Context(), "alice")
				for took := int64(time.Since(began)); took > slowest.Load(); {
					slowest.Store(took)
				}
				if r.Err == nil {
					answered.Add(1)
				} else {
					time.Sleep(time.Millisecond) // as the connection is refused at once
				}
			}
		})
	}
	serves := func(after string) {
		t.Helper()
		began, before := time.Now(), answered.Load()
		for answered.Load() < before+100 {
			if time.Since(began) > patient {
				t.Fatalf("after %s: %d answers in %v", after, answered.Load()-before, patient)
			}
			time.Sleep(time.Millisecond)
		}
		t.Logf("after %s: 100 answers in %v", after, time.Since(began))
	}
	serves("the start")
	for range 2 {
		d.Kill()
		time.Sleep(300 * time.Millisecond) // under load, without a daemon
		d.Restart(t)
		serves("a kill")
		d.Stop()
		d.Restart(t)
		serves("a restart")
	}
	stop()
	callers.Wait()
	if took := time.Duration(slowest.Load()); took > patient { // 50 ms, on a machine that is not busy
		t.Errorf("a call took %v", took)
	}
}

// TestSeveralDaemons has calls go to all daemons, and to the one that is left.
func TestSeveralDaemons(t *testing.T) {
	t.Parallel()
	one, other := clienttest.Start(t), clienttest.Start(t)
	o := one.Options()
	o.Addresses, o.Unary = append(o.Addresses, other.GRPC), true
	limiter := newClient(t, o).Limiter("shop", client.Rate("4/h"))
	allowed := func(identifier string) int {
		n := 0
		for range 10 {
			if r := limiter.Allow(t.Context(), identifier); r.Allowed {
				n++
			}
		}
		return n
	}
	n, end := 0, time.Now().Add(5*time.Second)
	for try := 0; n != 8 && time.Now().Before(end); try++ { // until both are connected
		n = allowed(fmt.Sprint("alice", try))
	}
	if n != 8 {
		t.Errorf("two daemons, each with 4 of everybody: %d were allowed", n)
	}
	one.Kill()
	if r := limiter.Allow(t.Context(), "bob"); r.Err != nil {
		r = limiter.Allow(t.Context(), "bob") // the first may have been on its way
		if r.Err != nil {
			t.Errorf("one daemon is left: %+v", r)
		}
	}
}

// An oldDaemon has no streams.
type oldDaemon struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
	calls atomic.Int64
}

func (d *oldDaemon) ShouldAllow(context.Context, *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
	d.calls.Add(1)
	return &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT}, nil
}

// TestWithoutStreams has calls go alone where streams are refused.
func TestWithoutStreams(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	daemon := &oldDaemon{}
	server := grpc.NewServer()
	ratelimitv1.RegisterRateLimitServiceServer(server, daemon)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	limiter := newClient(t, client.Options{Addresses: []string{listener.Addr().String()}, Timeout: 5 * time.Second}).Limiter("shop", client.Rate("1/h"))
	for range 5 {
		if r := limiter.Allow(t.Context(), "alice"); !r.Allowed || r.Err != nil {
			t.Errorf("%+v", r)
		}
	}
	if n := daemon.calls.Load(); n != 5 {
		t.Errorf("%d calls went alone", n)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	d := clienttest.Start(t)
	c := newClient(t, d.Options())
	limiter := c.Limiter("shop", client.Rate("1/h"))
	limiter.Allow(t.Context(), "alice")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if r := limiter.Allow(t.Context(), "alice"); r.Allowed || r.Err == nil {
		t.Errorf("after Close: %+v", r)
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]client.Options{
		"Options.Timeout -1s: must be above 0, such as 50ms":                                 {Timeout: -time.Second},
		"Options.OnFailure 7: must be client.Allow or client.Deny":                           {OnFailure: 7},
		`Options.Addresses: "a:b:c": write host:port, such as ratelimitd:8081`:               {Addresses: []string{"a", "a:b:c"}},
		"Options.Token: it has a character that no token has; give one token without spaces": {Token: "a b"},
	} {
		if _, err := client.New(o); err == nil || err.Error() != "ratelimitd: "+want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestHooks holds what OnResult is told.
func TestHooks(t *testing.T) {
	t.Parallel()
	d := clienttest.Start(t)
	o := d.Options()
	var told []string
	o.OnResult = func(e client.Event) { told = append(told, e.Operation+" "+e.Identifier+" "+e.Result.Reason.String()) }
	limiter := newClient(t, o).Limiter("shop", client.Rate("1/h"))
	limiter.Allow(t.Context(), "alice")
	limiter.Allow(t.Context(), "alice")
	limiter.Allow(t.Context(), client.Exempt)
	limiter.Reserve(t.Context(), "bob", 1).Commit(t.Context(), 1)
	if err := limiter.Reset(t.Context(), "alice"); err != nil {
		t.Fatal(err)
	}
	want := []string{"allow alice WITHIN_LIMIT", "allow alice OVER_LIMIT", "allow \x00exempt EXEMPT", "reserve bob WITHIN_LIMIT", "commit bob WITHIN_LIMIT", "reset alice REASON_UNSPECIFIED"}
	if len(told) != len(want) {
		t.Fatalf("told %q", told)
	}
	for i := range want {
		if told[i] != want[i] {
			t.Errorf("told %q, want %q", told[i], want[i])
		}
	}
}

// TestLogOfFailures holds that the log is told of failures, once.
func TestLogOfFailures(t *testing.T) {
	lines := make(chan string, 100)
	c := newClient(t, client.Options{Addresses: []string{"127.0.0.1:1"}, Logger: slog.New(slog.NewTextHandler(writer(lines), nil))})
	for range 5 {
		if r := c.Limiter("shop", client.Rate("1/h")).Allow(t.Context(), "alice"); !r.Allowed || status.Code(r.Err) != codes.Unavailable && status.Code(r.Err) != codes.DeadlineExceeded {
			t.Errorf("%+v", r)
		}
	}
	if n := len(lines); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

type writer chan string

func (w writer) Write(line []byte) (int, error) {
	w <- string(line)
	return len(line), nil
}

// BenchmarkRememberedDenial times a denial that costs no call.
func BenchmarkRememberedDenial(b *testing.B) {
	d := clienttest.Start(b)
	o := d.Options()
	o.MaxDenials = 0
	limiter := newClient(b, o).Limiter("shop", client.Rate("0/h"))
	ctx := b.Context()
	b.ReportAllocs()
	calls := 0
	for b.Loop() {
		if r := limiter.Allow(ctx, "user:12345678"); r.Allowed {
			b.Fatal("it is allowed")
		} else if !r.Remembered {
			calls++
		}
	}
	b.ReportMetric(float64(calls), "calls")
}

// BenchmarkAllow times the calls of so many callers, in messages of many and alone.
func BenchmarkAllow(b *testing.B) {
	for name, unary := range map[string]bool{"batched": false, "alone": true} {
		b.Run(name, func(b *testing.B) {
			d := clienttest.Start(b)
			o := d.Options()
			o.Unary = unary
			limiter := newClient(b, o).Limiter("shop", client.Rate("1_000_000_000/h"))
			b.ReportAllocs()
			b.SetParallelism(128)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if r := limiter.Allow(b.Context(), "user:12345678"); r.Err != nil {
						b.Error(r.Err)
					}
				}
			})
		})
	}
}
