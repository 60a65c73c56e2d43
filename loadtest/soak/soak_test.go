package soak

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

var (
	duration = flag.Duration("duration", 15*time.Second, "how long to soak")
	result   = flag.String("result", "", "the file to write the result to, as Markdown")
)

const (
	// most is what a daemon may have more at the end than at its start, of file descriptors and of
	// goroutines: connections to its store, which it keeps.
	most = 40
	// mostMB is what a daemon may have at any time. growth is what it may have more in the last
	// quarter than in the second.
	mostMB   = 200
	growthMB = 24

	permits = 40 // of each limit whose count must be exact
)

// A group is daemons that share counters.
type group struct {
	daemons []*daemon
	kills   *atomic.Int64 // how often the store has forgotten all; nil if it never does

	rounds, disturbed, allowed, failed atomic.Int64 // of the exact counts
}

// A soak is a run.
type soak struct {
	all    []*daemon
	groups []*group

	calls, connections, reloads, steps, redisKills, memcachedKills atomic.Int64
}

// TestSoak runs everything at once for as long as it is told.
func TestSoak(t *testing.T) {
	program := build(t)
	server := redistest.Start(t, "--appendonly", "yes")
	ahead := server.SetClock(t)
	server.Kill()
	server.Restart(t) // with that clock
	cached := memcachedtest.Start(t)

	var s soak
	redis := []string{"--store=redis", "--redis-url=" + server.URL, "--store-timeout=200ms"}
	one, two := serve(t, program, "redis, one", redis...), serve(t, program, "redis, two", redis...)
	mem := serve(t, program, "memory", "--memory-snapshot="+t.TempDir()+"/counters", "--memory-snapshot-interval=1s")
	mc := serve(t, program, "memcached", "--store=memcached", "--memcached-addr="+cached.Addr, "--store-timeout=200ms")
	s.all = []*daemon{one, two, mem, mc}
	s.groups = []*group{{daemons: []*daemon{one, two}}, {daemons: []*daemon{mem}}, {daemons: []*daemon{mc}, kills: &s.memcachedKills}}
	for _, d := range s.all {
		if _, err := d.client.ShouldAllow(t.Context(), s.request("first", 0)); err != nil {
			t.Fatal(err)
		}
		s.sample(t, d)
	}

	ctx, cancel := context.WithTimeout(t.Context(), *duration)
	defer cancel()
	part := *duration / 40 // of what happens seldom
	var running sync.WaitGroup
	every := func(pause time.Duration, do func()) {
		running.Go(func() {
			for tick := time.NewTicker(pause); ; {
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
					do()
				}
			}
		})
	}
	for _, d := range s.all {
		every(20*time.Millisecond, func() { s.ask(ctx, d) })
		every(100*time.Millisecond, func() { s.connect(ctx, d) })
	}
	for i, g := range s.groups {
		running.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				g.count(ctx, t, fmt.Sprint("exact ", i, " ", round))
			}
		})
	}
	every(min(5*time.Second, 2*part), func() { s.reload(t) })
	every(min(10*time.Second, 5*part), func() { server.Kill(); server.Restart(t); s.redisKills.Add(1) })
	every(min(11*time.Second, 5*part), func() { cached.Restart(t); s.memcachedKills.Add(1) })
	every(min(7*time.Second, 4*part), func() { ahead(time.Duration(rand.IntN(1200)-600) * time.Second); s.steps.Add(1) })
	every(min(13*time.Second, 6*part), func() {
		mem.restart(t)
		s.sample(t, mem) // the start of this process
	})
	for _, d := range s.all {
		if d != mem { // whose samples are of several processes
			every(min(time.Second, part), func() { s.sample(t, d) })
		}
	}
	running.Wait()
	s.settle(t)
	s.report(t)
}

// sample notes what a daemon takes now.
func (s *soak) sample(t *testing.T, d *daemon) {
	now, err := d.sample()
	if err != nil {
		t.Errorf("%s: %v", d.name, err)
		return
	}
	if now.rss > mostMB<<20 {
		t.Errorf("%s has %.0f MB", d.name, now.rss/(1<<20))
	}
	d.seen = append(d.seen, now)
}

// request returns a request of some kind about one of many identifiers.
func (s *soak) request(namespace string, i int) *ratelimitv1.ShouldAllowRequest {
	strategies := len(ratelimitv1.Strategy_name) - 1
	cost := uint64(rand.IntN(4))
	return &ratelimitv1.ShouldAllowRequest{
		Namespace: namespace, Identifier: fmt.Sprint("user:", rand.IntN(20_000)), Cost: &cost, DryRun: rand.IntN(10) == 0,
		Mode:   ratelimitv1.Mode(rand.IntN(len(ratelimitv1.Mode_name))),
		Limits: []*ratelimitv1.Limit{{Rate: "10/s", Strategy: ratelimitv1.Strategy(1 + i%strategies)}, {Rate: "100/min", Name: "minute"}},
	}
}

// ask asks in one of the ways. While a store or the daemon is away, errors are in order.
func (s *soak) ask(ctx context.Context, d *daemon) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n := int(s.calls.Add(1))
	switch n % 6 {
	case 0:
		batch := &ratelimitv1.ShouldAllowBatchRequest{}
		for i := range 50 {
			batch.Requests = append(batch.Requests, s.request("mixed", n+i))
		}
		_, _ = d.client.ShouldAllowBatch(ctx, batch)
	case 1:
		if stream, err := d.client.ShouldAllowStream(ctx); err == nil {
			_ = stream.Send(&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{s.request("mixed", n)}})
			_, _ = stream.Recv()
			_ = stream.CloseSend()
		}
	case 2:
		body := strings.NewReader(fmt.Sprintf(`{"namespace": "soak", "identifier": "user:%d", "policy": "default"}`, n%1000))
		if r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.http+"/v1/should-allow", body); err == nil {
			if answer, err := http.DefaultClient.Do(r); err == nil {
				_ = answer.Body.Close()
			}
		}
	case 3:
		reserved, err := d.client.Reserve(ctx, &ratelimitv1.ReserveRequest{Request: &ratelimitv1.ShouldAllowRequest{
			Namespace: "reserved", Identifier: fmt.Sprint(n % 100), Limits: []*ratelimitv1.Limit{{Rate: "1000/min"}},
		}})
		if err == nil && rand.IntN(2) == 0 {
			_, _ = d.client.Commit(ctx, &ratelimitv1.CommitRequest{Reservation: reserved.GetReservation(), Actual: 2})
		}
	case 4:
		_, _ = d.client.Reset(ctx, &ratelimitv1.ResetRequest{Namespace: "mixed", Identifier: fmt.Sprint("user:", n%1000), Limits: []*ratelimitv1.Limit{{Rate: "100/min", Name: "minute"}}})
	default:
		_, _ = d.client.ShouldAllow(ctx, s.request("mixed", n))
	}
}

// connect connects, asks perhaps, and goes away, in order or not.
func (s *soak) connect(ctx context.Context, d *daemon) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n := s.connections.Add(1)
	if n%3 == 0 {
		conn, err := grpc.NewClient(d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return
		}
		_, _ = ratelimitv1.NewRateLimitServiceClient(conn).ShouldAllow(ctx, s.request("mixed", int(n)))
		_ = conn.Close()
		return
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", []string{d.grpc, d.http}[n%2])
	if err != nil {
		return
	}
	_, _ = c.Write([]byte("GET /healthz HT"))
	if tcp, ok := c.(*net.TCPConn); ok && n%4 == 1 {
		_ = tcp.SetLinger(0) // a reset
	}
	_ = c.Close()
}

// reload changes the configuration of all daemons.
func (s *soak) reload(t *testing.T) {
	n := int(s.reloads.Add(1))
	for _, d := range s.all {
		d.configure(t, 100+n%7)
		if n%2 == 0 && d.name != "memory" { // that may be between two processes
			_ = d.cmd.Process.Signal(syscall.SIGHUP)
		}
	}
}

// count asks for twice as much as a limit permits. If all calls are decided, exactly what it
// permits passes. Of those that fail, each may have taken a permit.
func (g *group) count(ctx context.Context, t *testing.T, identifier string) {
	before := g.forgotten()
	var allowed, failed atomic.Int64
	var callers sync.WaitGroup
	for c := range 4 {
		callers.Go(func() {
			d := g.daemons[c%len(g.daemons)]
			for range 2 * permits / 4 {
				asked, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				answer, err := d.client.ShouldAllow(asked, &ratelimitv1.ShouldAllowRequest{Namespace: "exact", Identifier: identifier, Limits: []*ratelimitv1.Limit{{Rate: fmt.Sprintf("%d/366d", permits)}}})
				cancel()
				switch {
				case err != nil || answer.GetReason() == ratelimitv1.Reason_STORE_FAILURE:
					failed.Add(1)
				case answer.GetAllowed():
					allowed.Add(1)
				}
				select { // at a moderate pace, so that disturbances come in between
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	callers.Wait()
	g.rounds.Add(1)
	g.allowed.Add(allowed.Load())
	g.failed.Add(failed.Load())
	lives := 1 + g.forgotten() - before
	if failed.Load() > 0 || lives > 1 {
		g.disturbed.Add(1)
	}
	if n := allowed.Load(); n > permits*lives || n < permits-failed.Load() {
		t.Errorf("%s: %d of %d passed, with %d failed calls and a store that has forgotten all %d times", identifier, n, permits, failed.Load(), lives-1)
	}
}

func (g *group) forgotten() int64 {
	if g.kills == nil {
		return 0
	}
	return g.kills.Load()
}

// settle waits until the daemons have no more than at their start, once nobody asks them.
func (s *soak) settle(t *testing.T) {
	http.DefaultClient.CloseIdleConnections()
	for _, d := range s.all {
		_ = d.conn.Close()
		first := d.seen[0]
		redistest.Eventually(t, d.name+" settles", func() error {
			now, err := d.sample()
			if err == nil && (now.descriptors > first.descriptors+most || now.goroutines > first.goroutines+most) {
				err = fmt.Errorf("%v descriptors and %v goroutines, at first %v and %v", now.descriptors, now.goroutines, first.descriptors, first.goroutines)
			}
			return err
		})
		s.sample(t, d)
		n := len(d.seen)
		if second, last := peak(d.seen[n/4:n/2+1]), peak(d.seen[3*n/4:]); last > second+growthMB<<20 {
			t.Errorf("%s grows: %.0f MB in the second quarter and %.0f MB in the last", d.name, second/(1<<20), last/(1<<20))
		}
	}
}

// peak returns the largest resident memory of samples.
func peak(of []sample) (rss float64) {
	for _, s := range of {
		rss = max(rss, s.rss)
	}
	return rss
}

// report writes what has happened.
func (s *soak) report(t *testing.T) {
	var text strings.Builder
	fmt.Fprintf(&text, "Calls: %d, of which each sixth is a batch of 50. Connections beside: %d. Reloads of all four daemons: %d. Redis killed: %d times. Steps of its clock, by up to 10 minutes to either side: %d. memcached restarted: %d times. The daemon with the memory store restarted: %d times.\n\n",
		s.calls.Load(), s.connections.Load(), s.reloads.Load(), s.redisKills.Load(), s.steps.Load(), s.memcachedKills.Load(), s.all[2].restarts.Load())
	text.WriteString("| daemon | RSS at the start | in the second quarter, at most | in the last | file descriptors at the start, at most, at the end | goroutines | decisions of the last process |\n|---|---|---|---|---|---|---|\n")
	for _, d := range s.all {
		n := len(d.seen)
		first, last, top := d.seen[0], d.seen[n-1], sample{}
		for _, x := range d.seen {
			top.descriptors, top.goroutines = max(top.descriptors, x.descriptors), max(top.goroutines, x.goroutines)
		}
		fmt.Fprintf(&text, "| %s | %.0f MB | %.0f MB | %.0f MB | %.0f, %.0f, %.0f | %.0f, %.0f, %.0f | %.0f |\n", d.name, first.rss/(1<<20), peak(d.seen[n/4:n/2+1])/(1<<20), peak(d.seen[3*n/4:])/(1<<20),
			first.descriptors, top.descriptors, last.descriptors, first.goroutines, top.goroutines, last.goroutines, d.decisions())
	}
	text.WriteString("\n| exact counts | limits | of which in a disturbance | passed | failed calls |\n|---|---|---|---|---|\n")
	for i, name := range []string{"two daemons on one Redis", "memory", "memcached"} {
		g := s.groups[i]
		fmt.Fprintf(&text, "| %s | %d | %d | %d | %d |\n", name, g.rounds.Load(), g.disturbed.Load(), g.allowed.Load(), g.failed.Load())
		if g.rounds.Load() == 0 {
			t.Errorf("%s: nothing was counted", name)
		}
	}
	t.Logf("after %v:\n%s", *duration, &text)
	if *result == "" {
		return
	}
	head := fmt.Sprintf("# Results: soak\n\nWritten by `make soak SOAKTIME=%v SOAKRESULT=loadtest/results/soak.md` on %s. What must hold is in `loadtest/soak`; all of it did: %v.\n\n",
		*duration, time.Now().UTC().Format(time.DateOnly), !t.Failed())
	if err := os.WriteFile(*result, []byte(head+text.String()), 0o600); err != nil {
		t.Error(err)
	}
}
