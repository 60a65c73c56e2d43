package memcached

import (
	"context"
	"sync"
)

// Turns have those of this process who would write one item do so one after
// the other: conflicts are left to be had with other processes alone, and a
// caller needs but a second attempt, however many want the item.
type turns struct {
	mu    sync.Mutex // protects the following
	taken map[string]*turn
}

// A turn is somebody's, until it is handed on.
type turn struct {
	waiting int
	next    chan struct{} // holds one while the turn is handed on
}

// take takes the turn to write the item with key, and reports whether that
// took waiting. If ctx ends first, the turn is not taken.
func (t *turns) take(ctx context.Context, key string) (waited bool, err error) {
	t.mu.Lock()
	it, taken := t.taken[key]
	if !taken {
		t.taken[key] = &turn{next: make(chan struct{}, 1)}
		t.mu.Unlock()
		return false, nil
	}
	it.waiting++
	t.mu.Unlock()

	select {
	case <-it.next:
		return true, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-it.next: // too late: to whom it may concern
		t.handOn(key, it)
	default:
		it.waiting--
	}
	return true, ctx.Err()
}

// leave hands the turn on.
func (t *turns) leave(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handOn(key, t.taken[key])
}

// handOn hands it to one who waits, or drops it. mu is held.
func (t *turns) handOn(key string, it *turn) {
	if it.waiting == 0 {
		delete(t.taken, key)
		return
	}
	it.waiting--
	it.next <- struct{}{}
}
