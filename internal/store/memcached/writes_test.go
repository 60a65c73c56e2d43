package memcached

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestEachWriteHasItsReply sends writes of which some fail together: each gets its own reply.
// After a value that is too large, those that follow are written, and the connection is not
// used again.
func TestEachWriteHasItsReply(t *testing.T) {
	s := open(t, Options{Timeout: time.Minute}, memcachedtest.Start(t))
	on := s.servers[0]
	item := func(key string, bytes int) *memcache.Item {
		return &memcache.Item{Key: key, Value: make([]byte, bytes), Expiration: 60}
	}
	put := func(writes ...*write) []error {
		results := make([]error, len(writes))
		if err := on.put(writes, results); err != nil {
			t.Fatal(err)
		}
		return results
	}
	results := put(
		&write{item: item("a", 100), add: true},
		&write{item: item("a", 200), add: true},
		&write{item: item("missing", 1)},
		&write{item: item("b", 0), add: true},
	)
	for i, want := range []error{nil, memcache.ErrNotStored, memcache.ErrCacheMiss, nil} {
		if !errors.Is(results[i], want) {
			t.Errorf("write %d: %v, want %v", i, results[i], want)
		}
	}
	if len(on.pipes) != 1 {
		t.Errorf("%d connections are kept, want 1", len(on.pipes))
	}
	read, err := on.get([]string{"a", "b"})
	if err != nil || len(read["a"].Value) != 100 {
		t.Fatalf("%v, %v", read, err)
	}
	changed := item("a", 300)
	changed.CasID = read["a"].CasID
	results = put(
		&write{item: changed},
		&write{item: item("large", 2<<20), add: true},
		&write{item: changed},
		&write{item: item("c", 5), add: true},
	)
	if results[0] != nil || !errors.Is(on.writeError(results[1], changed), errTooLarge) || !errors.Is(results[2], memcache.ErrCASConflict) || results[3] != nil {
		t.Errorf("%v", results)
	}
	if len(on.pipes) != 0 {
		t.Error("a connection is kept on which a write failed")
	}
	if read, err = on.get([]string{"a", "c", "large"}); err != nil || len(read) != 2 || len(read["a"].Value) != 300 || len(read["c"].Value) != 5 {
		t.Errorf("%v, %v", read, err)
	}
}

// TestCallersShareExchanges has many callers at a time. Those that find maxSenders exchanges
// under way go together, and each gets its own answer.
func TestCallersShareExchanges(t *testing.T) {
	s := open(t, Options{MaxConns: 1, Timeout: time.Minute}, memcachedtest.Start(t))
	on, wires := s.servers[0], tap(s)
	on.slots <- struct{}{} // no exchange begins yet
	const callers = 100
	var asking sync.WaitGroup
	for i := range callers {
		asking.Go(func() {
			r := request(t, strategy.Spec{Rate: "5/h"})
			r.Identifier += string(rune('a'+i%26)) + string(rune('a'+i/26))
			if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != 4 {
				t.Errorf("caller %d: %+v", i, res)
			}
		})
	}
	for waiting := 0; waiting < callers; time.Sleep(time.Millisecond) {
		on.reads.mu.Lock()
		waiting = len(on.reads.waiting)
		on.reads.mu.Unlock()
	}
	<-on.slots
	asking.Wait()
	if sent := wires.sent(); sent["gets"] != 1 || sent["add"] != callers {
		t.Errorf("%v: want one gets, and an add for each caller", sent)
	}
	s.running.Wait()
	if on.reads.senders != 0 || on.writes.senders != 0 {
		t.Errorf("%d and %d senders are counted when none is left", on.reads.senders, on.writes.senders)
	}
}
