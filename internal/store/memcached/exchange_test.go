package memcached

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestEachAskHasItsReply makes writes of which some fail, and reads, together: each gets its own
// reply. After a value that is too large, those that follow are written, and the connection is not
// used again.
func TestEachAskHasItsReply(t *testing.T) {
	s := open(t, Options{Timeout: time.Minute}, memcachedtest.Start(t))
	on := s.servers[0]
	item := func(key string, bytes int) *ask {
		return newWrite(write{key: key, value: make([]byte, bytes), expiration: 60, add: true})
	}
	reads, again := newRead("a"), newRead("b")
	reads.add("missing")
	reads.add("b")
	again.add("b")
	first := []*ask{reads, item("a", 100), item("a", 200), newWrite(write{key: "missing"}), again, item("b", 0)}
	on.ask(first)
	for i, want := range []error{nil, nil, errConflict, errConflict, nil, nil} {
		if !errors.Is(first[i].err, want) {
			t.Errorf("%d: %v, want %v", i, first[i].err, want)
		}
	}
	if a, b := reads.found[0], reads.found[2]; len(a.value) != 100 || a.cas == 0 || reads.found[1].there || !b.there || len(b.value) != 0 {
		t.Errorf("%+v", reads.found)
	}
	if b := again.found; b[0].cas != reads.found[2].cas || b[1].cas != b[0].cas {
		t.Errorf("%+v", b)
	}
	if len(on.idle) != 1 {
		t.Errorf("%d connections are kept, want 1", len(on.idle))
	}
	changed := func() *ask {
		a := item("a", 300)
		a.write.add, a.write.cas = false, reads.found[0].cas
		return a
	}
	second := []*ask{changed(), item("large", 2<<20), changed(), item("c", 5)}
	on.ask(second)
	if second[0].err != nil || !errors.Is(on.writeError(second[1].err, &second[1].write), errTooLarge) || !errors.Is(second[2].err, errConflict) || second[3].err != nil {
		t.Errorf("%v, %v, %v, %v", second[0].err, second[1].err, second[2].err, second[3].err)
	}
	if len(on.idle) != 0 {
		t.Error("a connection is kept on which a write failed")
	}
	if len(read(t, s, "a")) != 300 || len(read(t, s, "c")) != 5 || read(t, s, "large") != nil {
		t.Error("not all that was written is there, or more than that")
	}
}

// TestCallersShareExchanges has many callers at a time. Those that come while an exchange is under
// way go together, and each gets its own answer.
func TestCallersShareExchanges(t *testing.T) {
	s := open(t, Options{MaxConns: 1, Timeout: time.Minute}, memcachedtest.Start(t))
	on, wires := s.servers[0], tap(s)
	dial, dialed, free := on.dial, make(chan struct{}), make(chan struct{})
	on.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		close(dialed)
		<-free
		return dial(ctx, network, addr)
	}
	const callers = 100
	var asking sync.WaitGroup
	for i := range callers {
		asking.Go(func() {
			r := request(t, strategy.Spec{Rate: "5/h"})
			r.Identifier += fmt.Sprint(i)
			if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != 4 {
				t.Errorf("caller %d: %+v", i, res)
			}
		})
		if i == 0 {
			<-dialed
		}
	}
	for waiting := 0; waiting < callers-1; time.Sleep(time.Millisecond) {
		on.queue.mu.Lock()
		waiting = len(on.queue.waiting)
		on.queue.mu.Unlock()
	}
	close(free)
	asking.Wait()
	if sent := wires.sent(); sent["gets"] != 2 || sent["add"] != callers {
		t.Errorf("%v: want two gets, and an add for each caller", sent)
	}
	s.running.Wait()
	if on.queue.senders != 0 {
		t.Errorf("%d senders are counted when none is left", on.queue.senders)
	}
}

// TestSlowExchangeHoldsUpNobody has an exchange that does not end: what comes meanwhile goes on its
// own after joinTime, though nobody else comes.
func TestSlowExchangeHoldsUpNobody(t *testing.T) {
	s := open(t, Options{Timeout: time.Minute}, memcachedtest.Start(t))
	on := s.servers[0]
	dial, first, end := on.dial, make(chan struct{}), make(chan struct{})
	on.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case <-first:
		default:
			close(first)
			<-end
		}
		return dial(ctx, network, addr)
	}
	slow := on.send(newRead("a"))
	<-first
	if err := on.await(waits(t), on.send(newRead("b"))); err != nil {
		t.Error(err)
	}
	close(end)
	if err := on.await(waits(t), slow); err != nil {
		t.Error(err)
	}
}
