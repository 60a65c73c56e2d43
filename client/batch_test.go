package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
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
	d := clienttest.Start(t, "--connection-age=300ms", "--connection-grace=10s")
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

// patience is how long a test waits for what must happen, on however slow a machine.
const patience = time.Minute

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// TestRestartUnderLoad kills, stops and pauses a daemon under load: the failure policy answers
// while it is away, and calls are allowed again when it is back. No call waits for ever.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	d := clienttest.Start(t)
	o := d.Options()
	o.Timeout = time.Second
	limiter := newClient(t, o).Limiter("shop", client.Rate("1_000_000_000/h"))
	ctx, stop := context.WithCancel(t.Context())
	var allowed, failed atomic.Int64
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	for range 64 {
		callers.Go(func() {
			for ctx.Err() == nil {
				switch r := limiter.Allow(t.Context(), "alice"); {
				case r.Err == nil && r.Allowed:
					allowed.Add(1)
				case r.Err != nil && !r.Allowed && r.Reason == client.ReasonFailure:
					failed.Add(1)
					time.Sleep(time.Millisecond) // as the connection is refused at once
				default:
					t.Errorf("%+v", r)
				}
			}
		})
	}
	more := func(what string, n *atomic.Int64) {
		t.Helper()
		before := n.Load()
		eventually(t, what, func() bool { return n.Load() >= before+100 })
	}
	more("answers after the start", &allowed)
	for range 2 {
		d.Kill()
		more("failures after a kill", &failed)
		d.Restart(t)
		more("answers after a kill", &allowed)
		d.Stop()
		more("failures after a stop", &failed)
		d.Restart(t)
		more("answers after a stop", &allowed)
	}
	if err := d.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	more("failures of a daemon that is paused", &failed)
	if err := d.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	more("answers after a pause", &allowed)
}

// TestTriesAgainSoon has a client connect to what ends each connection. It must try so often
// that a daemon that is back is found within a second. By gRPC's own pauses, the tenth time
// comes after two minutes.
func TestTriesAgainSoon(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var tries atomic.Int64
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tries.Add(1)
			conn.Close()
		}
	}()
	newClient(t, client.Options{Addresses: []string{l.Addr().String()}}).Limiter("shop", client.Rate("1/h")).Allow(t.Context(), "alice")
	eventually(t, "ten connections", func() bool { return tries.Load() >= 10 })
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
	try := 0
	eventually(t, "both are connected, each with 4 of everybody", func() bool {
		try++
		return allowed(fmt.Sprint("alice", try)) == 8
	})
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
	limiter := newClient(t, client.Options{Addresses: []string{listener.Addr().String()}, Timeout: patience}).Limiter("shop", client.Rate("1/h"))
	for range 5 {
		if r := limiter.Allow(t.Context(), "alice"); !r.Allowed || r.Err != nil {
			t.Errorf("%+v", r)
		}
	}
	if n := daemon.calls.Load(); n != 5 {
		t.Errorf("%d calls went alone", n)
	}
}

// A recorder keeps what is sent on a connection.
type recorder struct {
	net.Conn
	mu   sync.Mutex
	sent []byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.sent = append(r.sent, p...)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// frames returns how many frames of each type of HTTP/2 were sent, but for those that
// acknowledge others.
func (r *recorder) frames() (n [256]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rest := r.sent[len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):]; len(rest) >= 9; {
		if rest[4]&1 == 0 || rest[3] != 6 {
			n[rest[3]]++
		}
		rest = rest[min(len(rest), 9+int(rest[0])<<16+int(rest[1])<<8+int(rest[2])):]
	}
	return n
}

// TestNoProbes holds that the client sends nothing beside its calls. gRPC measures the
// bandwidth with pings otherwise.
func TestNoProbes(t *testing.T) {
	t.Parallel()
	o := clienttest.Start(t).Options()
	var sent *recorder
	o.Dial = []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		sent = &recorder{Conn: conn}
		return sent, err
	})}
	limiter := newClient(t, o).Limiter("shop", client.Rate("1_000/h"))
	const calls = 20
	for range calls {
		if r := limiter.Allow(t.Context(), "alice"); !r.Allowed {
			t.Fatalf("%+v", r)
		}
	}
	if n := sent.frames(); n[0] < calls || n[6] > 0 {
		t.Errorf("%d frames of data and %d pings in %d calls", n[0], n[6], calls)
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
