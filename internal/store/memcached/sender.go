package memcached

import (
	"errors"
	"slices"

	"github.com/bradfitz/gomemcache/memcache"
)

// startRead starts to read the items with keys from a server.
func (x *exchanges) startRead(on *server, keys []string) *read {
	r := newRead(keys)
	start(x, on, &on.reads, r)
	return r
}

// startWrite starts to write an item to a server.
func (x *exchanges) startWrite(on *server, it *memcache.Item, add bool) *write {
	w := newWrite(it, add)
	start(x, on, &on.writes, w)
	return w
}

// start has one be sent to a server, along with what else waits in q.
func start[T sendable[T]](x *exchanges, on *server, q *queue[T], one T) {
	if q.add(one) {
		x.running.Go(func() { run(x, on, q) })
	}
}

// run is a sender of q: it sends what waits there to a server, until nothing does.
func run[T sendable[T]](x *exchanges, on *server, q *queue[T]) {
	late := func() {
		if q.isLate() {
			x.running.Go(func() { run(x, on, q) })
		}
	}
	for {
		on.slots <- struct{}{} // each exchange has an end, so that there is one soon
		joined := q.next(late)
		if joined == nil {
			<-on.slots
			return
		}
		joined[0].send(x, on, joined)
	}
}

// send makes joined reads, for which there is a slot.
func (*read) send(x *exchanges, on *server, joined []*read) {
	items, err := x.readTogether(on, joined)
	apart := len(joined) > 1 && errors.Is(err, errReply) // an item of one of them should not cost the others theirs
	for _, r := range joined {
		if apart {
			on.slots <- struct{}{}
			items, err = x.readTogether(on, []*read{r})
		}
		r.items, r.err = items, err
		close(r.done)
	}
}

// send makes joined writes, for which there is a slot.
func (*write) send(x *exchanges, on *server, joined []*write) {
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
