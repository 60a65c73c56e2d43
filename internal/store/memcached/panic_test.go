package memcached

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestPanicInExchange plants a panic in the exchanges with the server: more of them than there are
// connections.
func TestPanicInExchange(t *testing.T) {
	panics := crash.NewLog(slog.New(slog.DiscardHandler))
	var count atomic.Uint64
	panics.CountIn(&count)
	s := open(t, Options{Panics: panics, MaxConns: 2}, memcachedtest.Start(t))
	on := s.servers[0]
	dial := on.dial
	on.dial = func(context.Context, string, string) (net.Conn, error) { panic("planted") }
	r := request(t, strategy.Spec{Rate: "10/h"})
	for range 5 {
		if res := decide(t.Context(), s, r); !errors.Is(res.Err, crash.Err) || !errors.Is(res.Err, store.ErrCounters) {
			t.Errorf("%+v", res)
		}
	}
	on.dial = dial
	if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != 9 {
		t.Errorf("afterwards: %+v", res)
	}
	if n := count.Load(); n != 5 {
		t.Errorf("%d panics are counted, want 5", n)
	}
}

// TestPanicWhileCarried plants a panic in an edit that another goroutine carries.
func TestPanicWhileCarried(t *testing.T) {
	s := open(t, Options{}, memcachedtest.Start(t))
	r := request(t, strategy.Spec{Rate: "10/h"})
	first := s.edit(&r)
	if !s.turns.take(first) {
		t.Fatal("nobody else has the turn")
	}
	var waiting sync.WaitGroup
	edits := make([]*edit, 3)
	for i := range edits {
		edits[i] = s.edit(&r)
		edits[i].change = func(*item, strategy.Instant) bool {
			if i == 1 {
				panic("planted")
			}
			return false
		}
		if s.turns.take(edits[i]) {
			t.Fatal("the turn is free")
		}
		waiting.Go(func() { edits[i].await(waits(t)) })
	}
	s.carry(first.key, first.server, s.turns.leave(first.key))
	waiting.Wait()
	for i, e := range edits {
		if !errors.Is(e.err, crash.Err) || !errors.Is(e.err, store.ErrCounters) {
			t.Errorf("edit %d: %v", i, e.err)
		}
	}
	if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
		t.Errorf("afterwards: %+v", res)
	}
}
