package memcached

import (
	"context"

	"github.com/bradfitz/gomemcache/memcache"
)

// maxJoinedKeys is how many keys are read together, unless one caller wants more.
const maxJoinedKeys = 256

// A read is what one caller wants of a server.
type read struct {
	keys []string
	done chan struct{} // closed when the following are set

	items map[string]*memcache.Item // may have those of others; nobody changes it
	err   error
}

// size returns how many keys r has.
func (r *read) size() int { return len(r.keys) }

// newRead returns a read that nobody makes yet.
func newRead(keys []string) *read { return &read{keys: keys, done: make(chan struct{})} }

// await returns what r, which waits in q, has found. It stops waiting when ctx ends.
func (r *read) await(ctx context.Context, q *queue[*read]) (map[string]*memcache.Item, error) {
	select {
	case <-r.done:
		return r.items, r.err
	case <-ctx.Done():
		q.leave(r)
		return nil, ctx.Err()
	}
}
