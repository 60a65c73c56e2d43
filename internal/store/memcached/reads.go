package memcached

import (
	"context"
	"errors"
	"slices"

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

// startRead starts to read the items with keys from a server.
func (s *Store) startRead(on *server, keys []string) *read {
	r := &read{keys: keys, done: make(chan struct{})}
	if on.reads.add(r) {
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
		joined := on.reads.next(maxJoinedKeys)
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
		keys = append(slices.Clip(keys), r.keys...)
	}
	err = s.do(on, func() (err error) {
		items, err = on.get(keys)
		return err
	})
	return items, err
}
