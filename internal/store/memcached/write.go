package memcached

import (
	"context"
	"strconv"

	"github.com/bradfitz/gomemcache/memcache"
)

// A write is an item to be written: if it is as it was read, or if there is none yet.
type write struct {
	item *memcache.Item
	add  bool          // whether there is none yet
	done chan struct{} // closed when err is set
	err  error
}

// size returns about how many bytes w takes.
func (w *write) size() int { return len(w.item.Key) + len(w.item.Value) }

// newWrite returns a write that nobody makes yet.
func newWrite(it *memcache.Item, add bool) *write {
	return &write{item: it, add: add, done: make(chan struct{})}
}

// await returns the result of w, which waits in q. It stops waiting when ctx ends. If w was not
// sent by then, it is not made.
func (w *write) await(ctx context.Context, q *queue[*write]) error {
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		q.leave(w)
		return ctx.Err()
	}
}

// append appends the command for w to b.
func (w *write) append(b []byte) []byte {
	command := "cas "
	if w.add {
		command = "add "
	}
	b = append(append(b, command...), w.item.Key...)
	b = append(b, " 0 "...)
	b = strconv.AppendInt(b, int64(w.item.Expiration), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(w.item.Value)), 10)
	if !w.add {
		b = append(b, ' ')
		b = strconv.AppendUint(b, w.item.CasID, 10)
	}
	b = append(b, "\r\n"...)
	return append(append(b, w.item.Value...), "\r\n"...)
}
