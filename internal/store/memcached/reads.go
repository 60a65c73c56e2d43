package memcached

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/bradfitz/gomemcache/memcache"
)

const (
	// maxReaders is how many exchanges read from a server at a time. A further read waits
	// and joins others: most of what a read costs is the exchange, not its keys.
	maxReaders = 4
	// maxJoined is how many keys are read together, unless one caller wants more.
	maxJoined = 256
)

// A read is what one caller wants of a server.
type read struct {
	keys []string
	done chan struct{} // closed when the following are set

	items map[string]*memcache.Item // may have those of others; nobody changes it
	err   error
}

// reads are the reads of a server that wait to be made.
type reads struct {
	mu      sync.Mutex // protects the following
	waiting []*read
	readers int // goroutines that make reads
}

// read starts to read the items with keys from a server.
func (s *Store) startRead(on *server, keys []string) *read {
	r := &read{keys: keys, done: make(chan struct{})}
	on.reads.mu.Lock()
	defer on.reads.mu.Unlock()
	on.reads.waiting = append(on.reads.waiting, r)
	if on.reads.readers < maxReaders {
		on.reads.readers++
		s.running.Go(func() { s.makeReads(on) })
	}
	return r
}

// await returns what r found. It stops waiting when ctx ends.
func (r *read) await(ctx context.Context, on *server) (map[string]*memcache.Item, error) {
	select {
	case <-r.done:
		return r.items, r.err
	case <-ctx.Done():
		on.reads.leave(r)
		return nil, ctx.Err()
	}
}

// makeReads makes the reads that wait for a server, many at a time, until none waits.
func (s *Store) makeReads(on *server) {
	for {
		on.slots <- struct{}{} // each exchange has an end, so that there is one soon
		joined := on.reads.next()
		if joined == nil {
			<-on.slots
			return
		}
		items, err := s.readTogether(on, joined)
		if len(joined) > 1 && errors.Is(err, errReply) { // an item of one of them should not cost the others theirs
			for _, r := range joined {
				on.slots <- struct{}{}
				r.items, r.err = s.readTogether(on, []*read{r})
				close(r.done)
			}
			continue
		}
		for _, r := range joined {
			r.items, r.err = items, err
			close(r.done)
		}
	}
}

// readTogether makes reads in one exchange, for which there is a slot.
func (s *Store) readTogether(on *server, joined []*read) (items map[string]*memcache.Item, err error) {
	keys := joined[0].keys
	for _, r := range joined[1:] {
		keys = append(keys[:len(keys):len(keys)], r.keys...)
	}
	err = s.do(call{on, func() (err error) {
		items, err = on.get(keys)
		return err
	}})
	return items, err
}

// next returns reads to make together. If there are none, the reader has to end.
func (q *reads) next() (joined []*read) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.readers--
		return nil
	}
	n, keys := 0, 0
	for n < len(q.waiting) && (n == 0 || keys+len(q.waiting[n].keys) <= maxJoined) {
		keys += len(q.waiting[n].keys)
		n++
	}
	joined, q.waiting = q.waiting[:n:n], q.waiting[n:]
	return joined
}

// leave forgets r, if it still waits: nobody wants it any more.
func (q *reads) leave(r *read) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(other *read) bool { return other == r })
}
