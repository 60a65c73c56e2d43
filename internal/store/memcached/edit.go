package memcached

import (
	"fmt"
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// An edit is a change of one item. It reads the item, changes it, and writes it if
// nobody else has written it since.
type edit struct {
	key      string
	server   *server
	requests []int // the indices of the requests whose counters are in the item
	// change changes the item that was read, and reports whether there is anything to
	// write. After a conflict it is called again, with the item read again.
	change func(it *item, now strategy.Instant) (changed bool)

	asked   *ask  // to read, and then to write it
	at      int   // its index in what is read
	found   found // what was read
	corrupt bool  // whether that could not be read: the item is then removed
	next    write // what to write
	err     error // why the edit failed

	// These are for an edit that waits for its turn: see turns.
	carried chan struct{} // closed when another goroutine has made the edit
	mu      sync.Mutex    // protects left, err, and what change sets
	left    bool          // whether the caller has stopped waiting
}

// errCorrupt is the error of an edit whose item could not be read.
var errCorrupt = fmt.Errorf("%w: their item was corrupt, and they start again", store.ErrCounters)

// result returns why e failed, or nil.
func (e *edit) result() error {
	if e.err == nil && e.corrupt {
		return fmt.Errorf("memcached %s: %w: %s", e.server.addr, errCorrupt, quote.Cut(e.key))
	}
	return e.err
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

// await waits until another goroutine has carried e. If the caller leaves first, that goroutine
// does not touch what belongs to the caller any more. Then nobody knows whether e
// was made.
func (e *edit) await(by caller) {
	e.corrupt = false // the other goroutine reads the item again
	left := by.await(e.carried)
	if left == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.carried: // it was carried just now
	default:
		e.left = true
		e.err = fmt.Errorf("memcached %s: %w: %w, after waiting for other writers of %s", e.server.addr, store.ErrCounters, left, quote.Cut(e.key))
	}
}
