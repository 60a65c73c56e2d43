package memcached

import (
	"sync"
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
