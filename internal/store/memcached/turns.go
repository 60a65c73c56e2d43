package memcached

import (
	"context"
	"fmt"
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// turns let one goroutine of this process at a time write an item. Edits of that item
// which come meanwhile wait. Then one goroutine carries all of them: it makes them
// together, with one read and one write. So almost all conflicts are with other
// processes. (An edit that takes its turn may have read the item before the last
// write.)
type turns struct {
	mu      sync.Mutex         // protects the following
	waiting map[string][]*edit // by the key of an item that is being written
}

// take takes the turn to write e's item, and reports whether it could. If not, another
// goroutine will carry e.
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

// leave returns the edits that wait for the item with key. The caller must carry them.
// If no edit waits, leave ends the turn.
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

// carry makes the waiting edits of an item together. Then it does the same with those
// that came meanwhile, until no edit waits. Each round may take as long as the
// store's timeout, even if a caller stops waiting before that, because the other
// callers still wait.
func (s *Store) carry(key string, on *server, waiting []*edit) {
	for ; waiting != nil; waiting = s.turns.leave(key) {
		err := s.carryOnce(key, on, waiting)
		for _, e := range waiting {
			e.answer(err)
		}
	}
}

// carryOnce makes edits of an item together. If one of them panics, none is made.
func (s *Store) carryOnce(key string, on *server, waiting []*edit) (err error) {
	defer s.panics.Recover("decisions carried to memcached", func(e error) { err = fmt.Errorf("%w: %w", store.ErrCounters, e) })
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	all := []*edit{{key: key, server: on, change: func(it *item, now strategy.Instant) (changed bool) {
		for _, e := range waiting {
			changed = e.changeCarried(it, now) || changed
		}
		return changed
	}}}
	s.read(ctx, all)
	s.finish(ctx, s.apply(all))
	return all[0].result()
}

// changeCarried calls change, unless the caller has stopped waiting.
func (e *edit) changeCarried(it *item, now strategy.Instant) (changed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.left && e.change(it, now)
}

// answer tells the caller the result of e, if it still waits.
func (e *edit) answer(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.left {
		e.err = err
	}
	close(e.carried)
}

// await waits until another goroutine has carried e. If ctx ends first, that goroutine
// does not touch what belongs to the caller any more. Then nobody knows whether e
// was made.
func (e *edit) await(ctx context.Context) {
	e.corrupt = false // the other goroutine reads the item again
	select {
	case <-e.carried:
		return
	case <-ctx.Done():
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.carried: // it was carried just now
	default:
		e.left = true
		e.err = fmt.Errorf("memcached %s: %w: %w, after waiting for other writers of %s", e.server.addr, store.ErrCounters, ctx.Err(), quote.Cut(e.key))
	}
}
