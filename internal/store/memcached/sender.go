package memcached

import (
	"errors"
	"slices"

	"github.com/bradfitz/gomemcache/memcache"
)

// maxJoinedKeys is how many keys are read together, unless one caller wants more.
const maxJoinedKeys = 256

// startRead starts to read the items with keys from a server.
func (x *exchanges) startRead(on *server, keys []string) *read {
	r := newRead(keys)
	if on.reads.add(r) {
		x.running.Go(func() { x.makeReads(on) })
	}
	return r
}

// makeReads makes the reads that wait for a server, many at a time, until none waits.
func (x *exchanges) makeReads(on *server) {
	for {
		on.slots <- struct{}{} // each exchange has an end, so that there is one soon
		joined := on.reads.next(maxJoinedKeys)
		if joined == nil {
			<-on.slots
			return
		}
		items, err := x.readTogether(on, joined)
		if len(joined) > 1 && errors.Is(err, errReply) { // an item of one of them should not cost the others theirs
			for _, r := range joined {
				on.slots <- struct{}{}
				r.items, r.err = x.readTogether(on, []*read{r})
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
func (x *exchanges) readTogether(on *server, joined []*read) (items map[string]*memcache.Item, err error) {
	keys := joined[0].keys
	for _, r := range joined[1:] {
		keys = append(slices.Clip(keys), r.keys...)
	}
	err = x.do(on, func() (err error) {
		items, err = on.get(keys)
		return err
	})
	return items, err
}

// startWrite starts to write an item to a server.
func (x *exchanges) startWrite(on *server, it *memcache.Item, add bool) *write {
	w := newWrite(it, add)
	if on.writes.add(w) {
		x.running.Go(func() { x.makeWrites(on) })
	}
	return w
}

// makeWrites makes the writes that wait for a server, many at a time, until none waits.
func (x *exchanges) makeWrites(on *server) {
	for {
		on.slots <- struct{}{} // each exchange has an end, so that there is one soon
		joined := on.writes.next(maxJoinedBytes)
		if joined == nil {
			<-on.slots
			return
		}
		results := make([]error, len(joined))
		if err := x.do(on, func() error { return on.put(joined, results) }); err != nil {
			for i := range results {
				results[i] = err
			}
		}
		for i, w := range joined {
			w.err = on.writeError(results[i], w.item)
			close(w.done)
		}
	}
}
