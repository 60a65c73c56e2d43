package redis

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestServerGoesAndComesBack pauses, kills and restarts a server under load. Callers must get an
// error by their deadline, and later decisions must work without help.
func TestServerGoesAndComesBack(t *testing.T) {
	server := redistest.Start(t)
	const timeout = 100 * time.Millisecond
	s := openWith(t, Options{URLs: []string{server.URL}, Timeout: timeout})
	load := startLoad(t, s, 8)
	load.await(t, "decisions are made", func() error { return load.allEvery(10) })
	for _, fault := range []struct {
		name      string
		harm, end func()
	}{
		{"paused", func() { server.Pause(t) }, func() { server.Resume(t) }},
		{"killed", server.Kill, func() { server.Restart(t) }},
		{"stopped", func() { server.Stop(t) }, func() { server.Restart(t) }},
	} {
		fault.harm()
		load.await(t, fault.name+": decisions fail", func() error { return load.failing() })
		fault.end()
		ended := time.Now()
		load.await(t, fault.name+": decisions go on", func() error { return load.fine() })
		t.Logf("%s: decisions go on %v after it ended", fault.name, time.Since(ended).Round(time.Millisecond))
	}
	load.stop()
	t.Logf("%d decisions, of which %d failed; the slowest took %v", load.decisions.Load(), load.failed.Load(), load.slowest)
	if load.slowest > timeout+time.Second {
		t.Errorf("a decision took %v, with a timeout of %v", load.slowest, timeout)
	}
	clients, err := server.Client(t).ClientList(t.Context()).Result()
	if n := strings.Count(clients, "name=ratelimitd"); err != nil || n > DefaultPoolSize {
		t.Errorf("%d connections are open, %v:\n%s", n, err, clients)
	}
}

// A load has callers with their own counters. Each consumes a unit every millisecond, or as soon
// as the last decision is done. No counter denies.
type load struct {
	requests  []store.Request
	keys      []string
	decisions atomic.Int64
	failed    atomic.Int64

	mu       sync.Mutex // protects the following, of each request
	allowed  []int
	failures []int
	errs     []error // of the last decision
	times    []time.Time
	slowest  time.Duration // of all decisions

	quit    chan struct{}
	callers sync.WaitGroup
}

func startLoad(t *testing.T, s store.Store, counters int) *load {
	l := &load{allowed: make([]int, counters), failures: make([]int, counters), errs: make([]error, counters), quit: make(chan struct{})}
	for i := range counters {
		r := store.Request{
			Namespace: "load", Identifier: t.Name() + strconv.Itoa(i), Cost: 1,
			Limits: limits(t, strategy.Spec{Rate: "100000000/366d", Strategy: strategy.FixedWindow}),
		}
		l.requests = append(l.requests, r)
		l.keys = append(l.keys, counterKey(r.Namespace, r.Identifier, &r.Limits[0]))
	}
	for i := range l.requests {
		l.callers.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-l.quit:
					return
				case <-tick.C:
				}
				start := time.Now()
				res := decide(t.Context(), s, l.requests[i])
				l.note(i, res, time.Since(start))
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) note(i int, res store.Result, took time.Duration) {
	l.decisions.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, took)
	if l.errs[i] = res.Err; res.Err != nil {
		l.failed.Add(1)
		l.failures[i]++
		return
	}
	l.allowed[i]++
	l.times = append(l.times, time.Now())
}

func (l *load) stop() {
	select {
	case <-l.quit:
	default:
		close(l.quit)
	}
	l.callers.Wait()
}

func (l *load) await(t *testing.T, what string, done func() error) {
	t.Helper()
	redistest.Eventually(t, what, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		return done()
	})
}

// allEvery returns nil once n units have been consumed from every counter.
func (l *load) allEvery(n int) error {
	for i, allowed := range l.allowed {
		if allowed < n {
			return fmt.Errorf("counter %d: %d decisions, the last with %w", i, allowed, l.errs[i])
		}
	}
	return nil
}

func (l *load) failing() error {
	if l.fine() == nil {
		return errors.New("all is well")
	}
	return nil
}

func (l *load) fine() error { return errors.Join(l.errs...) }

// inSecondBefore returns how many units were consumed in the second before a time.
func (l *load) inSecondBefore(end time.Time) (n int) {
	for _, at := range l.times {
		if at.Before(end) && at.After(end.Add(-time.Second)) {
			n++
		}
	}
	return n
}

// outlives kills a master, waits until decisions go on without it, and starts it again. It checks
// that no more was lost than asynchronous replication can lose. It ends the load.
func (l *load) outlives(t *testing.T, s store.Store, master *redistest.Server) {
	t.Helper()
	killed := time.Now()
	master.Kill()
	l.await(t, "decisions fail", func() error { return l.failing() })
	l.await(t, "decisions go on", func() error { return l.fine() })
	recovered := time.Since(killed)
	l.stop()
	lost := l.lost(t, s)
	t.Logf("%d decisions, of which %d failed; the last failed %v after the kill; lost with the master: %d of the last second's %d",
		l.decisions.Load(), l.failed.Load(), recovered.Round(time.Millisecond), lost, l.inSecondBefore(killed))
	if lost > l.inSecondBefore(killed) {
		t.Errorf("lost %d units, more than were consumed in the second before the kill", lost)
	}
	master.Restart(t)
}

// lost returns how many units were allowed that are not in the counters. (The counters may also
// have more units, from decisions whose reply was lost.)
func (l *load) lost(t *testing.T, s store.Store) (lost int) {
	t.Helper()
	for i, r := range l.requests {
		r.Cost = 0
		res := decide(t.Context(), s, r)
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		lost += max(0, l.allowed[i]-int(res.Statuses[0].Limit-res.Statuses[0].Remaining))
	}
	return lost
}
