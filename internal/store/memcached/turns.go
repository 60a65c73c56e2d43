package memcached

import (
	"context"
	"fmt"
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// Turns have one caller of this process at a time write an item. Those who
// would write it meanwhile wait, and are then carried together: by one read and
// one write, however many they are. So conflicts are all but left to be had with
// other processes: a caller who takes a turn may have read before the last one.
type turns struct {
	mu      sync.Mutex         // protects the following
	waiting map[string][]*edit // of each item that is being written
}

// take takes the turn to write e's item and reports whether it could. If not,
// e will be carried.
func (t *turns) take(e *edit) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	waiting, taken := t.waiting[e.key]
	if !taken {
		t.waiting[e.key] = nil
		return true
	}
	e.carried = make(chan struct{})
	t.waiting[e.key] = append(waiting, e)
	return false
}

// leave returns the edits that wait for the item with key, for the caller to
// carry. If there are none, the turn is anybody's.
func (t *turns) leave(key string) (waiting []*edit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if waiting = t.waiting[key]; waiting == nil {
		delete(t.waiting, key)
	} else {
		t.waiting[key] = nil
	}
	return waiting
}

// carry makes the edits that wait for an item, as one, and then those that have
// come to wait, until there are none. It has the store's timeout for each
// round, however soon a caller leaves: the others need not fail for it.
func (s *Store) carry(key string, on *server, waiting []*edit) {
	for ; waiting != nil; waiting = s.turns.leave(key) {
		ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
		all := []*edit{{key: key, server: on, change: func(it *item, now strategy.Instant) (changed bool) {
			for _, e := range waiting {
				changed = e.changeCarried(it, now) || changed
			}
			return changed
		}}}
		s.read(ctx, all)
		s.finish(ctx, s.apply(all))
		cancel()
		for _, e := range waiting {
			e.answer(all[0].err)
		}
	}
}

// changeCarried is change, unless the caller has left.
func (e *edit) changeCarried(it *item, now strategy.Instant) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.left && e.change(it, now)
}

// answer tells the caller, if it is there, what became of e.
func (e *edit) answer(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.left {
		e.err = err
	}
	close(e.carried)
}

// await waits until e has been carried. If ctx ends first, nothing of the
// caller's is touched any more: whether e happens is unknown.
func (e *edit) await(ctx context.Context) {
	select {
	case <-e.carried:
		return
	case <-ctx.Done():
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.carried: // just now
	default:
		e.left = true
		e.err = fmt.Errorf("memcached %s: %w: %w, after waiting for other writers of %q", e.server.addr, store.ErrCounters, ctx.Err(), e.key)
	}
}
