package memcached

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestOneProcessNeedsTwoAttempts lets many callers write one item at the same time.
func TestOneProcessNeedsTwoAttempts(t *testing.T) {
	s := open(t, Options{MaxAttempts: 2}, memcachedtest.Start(t))
	r := request(t, strategy.Spec{Rate: "1000000/366d"})
	const callers, each = 32, 50
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				if res := decide(t.Context(), s, r); res.Err != nil {
					t.Error(res.Err)
				}
			}
		})
	}
	wg.Wait()
	if n := left(t, s, r); n != 1_000_000-callers*each {
		t.Errorf("%d left after %d units", n, callers*each)
	}
}

// hold takes the turn to write alice's item. It returns a function that waits until n callers
// wait for the turn, and a function that leaves the turn to them.
func hold(t *testing.T, s *Store) (await func(n int), leave func()) {
	t.Helper()
	r := request(t, strategy.Spec{Rate: "1/h"})
	e := s.edit(&r)
	if !s.turns.take(e) {
		t.Fatal("the turn is taken")
	}
	await = func(n int) {
		for waiting := -1; waiting != n; runtime.Gosched() {
			s.turns.mu.Lock()
			waiting = len(s.turns.waiting[e.key])
			s.turns.mu.Unlock()
		}
	}
	return await, func() {
		if waiting := s.turns.leave(e.key); waiting != nil {
			s.carry(e.key, e.server, waiting)
		}
		if len(s.turns.waiting) > 0 {
			t.Errorf("nobody has a turn, and these are kept: %v", s.turns.waiting)
		}
	}
}

// TestWhoWaitsIsCarried lets many callers wait for one item, which changes meanwhile. One read
// and one write must decide all of them, with the new contents of the item.
func TestWhoWaitsIsCarried(t *testing.T) {
	server := memcachedtest.Start(t)
	s, other := open(t, Options{}, server), open(t, Options{}, server)
	r := request(t, strategy.Spec{Rate: "30/366d"})
	await, leave := hold(t, s)
	const callers = 40
	remaining := make(chan uint64, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			res := decide(t.Context(), s, r)
			if res.Err != nil {
				t.Error(res.Err)
			}
			if res.Allowed {
				remaining <- res.Statuses[0].Remaining
			}
		})
	}
	await(callers)
	decide(t.Context(), other, r)
	wires := tap(s)
	s.servers[0].closeIdle() // they have no tap
	leave()
	wg.Wait()
	close(remaining)
	if sent := wires.sent(); sent["gets"] != 1 || sent["cas"]+sent["add"] != 1 {
		t.Errorf("%d callers cost %v, want one read and one write", callers, sent)
	}
	want := uint64(29)
	for n := range remaining { // one gets each of them
		want--
		if n > 28 {
			t.Errorf("%d left after others' use", n)
		}
	}
	if want != 0 || left(t, other, r) != 0 {
		t.Errorf("%d got through, and %d are left; want 29 and 0", 29-want, left(t, other, r))
	}
	wantMetrics(t, s, 0, 0)
}

// TestWhoWaitsMayLeave lets callers leave while they wait, and while they are carried. The
// store must not touch their results after that, and must decide the others.
func TestWhoWaitsMayLeave(t *testing.T) {
	s := open(t, Options{}, memcachedtest.Start(t))
	r := request(t, strategy.Spec{Rate: "1000000/366d"})
	var consumed, unknown atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			requests, results := []store.Request{r}, make([]store.Result, 1)
			for i := range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%2 == 0 {
					go cancel()
				}
				s.Decide(ctx, requests, results)
				cancel()
				switch {
				case results[0].Err == nil:
					consumed.Add(1)
				case i%2 == 0 && errors.Is(results[0].Err, context.Canceled):
					unknown.Add(1)
				default:
					t.Error(results[0].Err)
				}
				requests[0], results[0] = r, store.Result{} // the race detector sees who else uses them
			}
		})
	}
	wg.Wait()
	used := 1_000_000 - int64(left(t, s, r))
	if used < consumed.Load() || used > consumed.Load()+unknown.Load() {
		t.Errorf("%d are used, of %d decisions and %d that may have happened", used, consumed.Load(), unknown.Load())
	}
}

// TestTimeRunsOutInTurn lets a caller wait for a turn that does not come.
func TestTimeRunsOutInTurn(t *testing.T) {
	s := open(t, Options{Timeout: 50 * time.Millisecond}, memcachedtest.Start(t))
	r := request(t, strategy.Spec{Rate: "100/366d"})
	_, leave := hold(t, s)
	if res := decide(t.Context(), s, r); !errors.Is(res.Err, context.DeadlineExceeded) || !errors.Is(res.Err, store.ErrCounters) {
		t.Errorf("%+v, want the deadline, and that it is for the counters", res)
	}
	dry := r
	dry.DryRun = true
	if res := decide(t.Context(), s, dry); res.Err != nil {
		t.Errorf("what writes nothing waits for a turn: %v", res.Err)
	}
	leave()
	if n := left(t, s, r); n != 100 {
		t.Errorf("%d left: a caller that has left is charged", n)
	}
}
