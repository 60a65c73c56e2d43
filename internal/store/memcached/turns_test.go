package memcached

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := turns{taken: map[string]*turn{}}
		var order []string
		wait := func(ctx context.Context, name string) {
			go func() {
				waited, err := ts.take(ctx, "a")
				if !waited || !errors.Is(err, ctx.Err()) {
					t.Errorf("%s waited %t, %v", name, waited, err)
				}
				if err == nil {
					order = append(order, name)
				}
			}()
			synctest.Wait()
		}
		for _, key := range []string{"a", "b"} {
			if waited, err := ts.take(t.Context(), key); waited || err != nil {
				t.Errorf("a free turn: waited %t, %v", waited, err)
			}
		}
		ts.leave("b")
		ctx, cancel := context.WithCancel(t.Context())
		wait(t.Context(), "first")
		wait(ctx, "who goes away")
		wait(t.Context(), "second")
		cancel()
		synctest.Wait()
		for range 2 {
			ts.leave("a")
			synctest.Wait()
		}
		if len(order) != 2 || order[0] != "first" || order[1] != "second" {
			t.Errorf("the turn went to %q", order)
		}
		ts.leave("a")
		if len(ts.taken) > 0 {
			t.Errorf("nobody has a turn, and these are kept: %v", ts.taken)
		}
	})
}

// TestTurnsUnderCancellation has callers go away as the turn reaches them.
func TestTurnsUnderCancellation(t *testing.T) {
	ts := turns{taken: map[string]*turn{}}
	var holders int // protected by the turn
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				ctx, cancel := context.WithCancel(t.Context())
				go cancel()
				if _, err := ts.take(ctx, "a"); err == nil {
					holders++
					holders--
					ts.leave("a")
				}
			}
		})
	}
	wg.Wait()
	if holders != 0 || len(ts.taken) > 0 {
		t.Errorf("%d hold the turn, kept: %v", holders, ts.taken)
	}
}

// TestOneProcessNeedsTwoAttempts has many callers want one item at once.
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

// TestWhoWaitedReadsAgain has the item change while a caller waits for its
// turn.
func TestWhoWaitedReadsAgain(t *testing.T) {
	server := memcachedtest.Start(t)
	s, other := open(t, Options{}, server), open(t, Options{}, server)
	r := request(t, strategy.Spec{Rate: "100/366d"})
	if _, err := s.turns.take(t.Context(), "rl:test:alice"); err != nil {
		t.Fatal(err)
	}
	done := make(chan store.Result)
	go func() { done <- decide(t.Context(), s, r) }()
	for waiting := 0; waiting == 0; runtime.Gosched() {
		s.turns.mu.Lock()
		waiting = s.turns.taken["rl:test:alice"].waiting
		s.turns.mu.Unlock()
	}
	decide(t.Context(), other, r)
	s.turns.leave("rl:test:alice")
	if res := <-done; res.Err != nil || res.Statuses[0].Remaining != 98 {
		t.Errorf("%+v, want 98 left", res)
	}
	wantMetrics(t, s, 0, 0)
}

// TestTimeRunsOutInTurn has a caller wait for a turn that does not come.
func TestTimeRunsOutInTurn(t *testing.T) {
	s := open(t, Options{Timeout: 50 * time.Millisecond}, memcachedtest.Start(t))
	r := request(t, strategy.Spec{Rate: "100/366d"})
	if _, err := s.turns.take(t.Context(), "rl:test:alice"); err != nil {
		t.Fatal(err)
	}
	if res := decide(t.Context(), s, r); !errors.Is(res.Err, context.DeadlineExceeded) {
		t.Errorf("%+v, want the deadline", res)
	}
	r.DryRun = true
	if res := decide(t.Context(), s, r); res.Err != nil {
		t.Errorf("what writes nothing waits for a turn: %v", res.Err)
	}
}
