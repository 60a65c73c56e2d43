package memcached

import (
	"context"
	"strconv"
)

// An ask is what one caller wants of a server: to read items, or to write one.
type ask struct {
	keys  []string // of the items to read; nil for a write
	write write

	done  chan struct{} // closed when the following are set
	found []found       // for each of keys
	err   error
}

// A write is an item to be written: if it is as it was read, or if there is none yet.
type write struct {
	key        string
	value      []byte
	expiration int32 // as in the protocol
	add        bool  // whether there is none yet
	cas        uint64
}

// found is what was read of one item.
type found struct {
	value []byte
	cas   uint64 // changes with each write
	there bool   // whether there is an item
}

// newRead returns an ask for items.
func newRead(keys []string) *ask {
	return &ask{keys: keys, found: make([]found, len(keys)), done: make(chan struct{})}
}

// newWrite returns an ask to make w.
func newWrite(w write) *ask { return &ask{write: w, done: make(chan struct{})} }

// isRead reports whether a is to read.
func (a *ask) isRead() bool { return a.keys != nil }

// size returns about how many bytes are sent for a, or come back.
func (a *ask) size() int {
	if a.isRead() {
		return len(a.keys) * maxKeyBytes
	}
	return len(a.write.key) + len(a.write.value)
}


// await waits until a, which was sent to on, is done, and returns its error. It stops waiting when
// ctx ends. If a was not sent by then, it is not made.
func (a *ask) await(ctx context.Context, on *server) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		on.queue.leave(a)
		return ctx.Err()
	}
}

// append appends the command for w to b.
func (w *write) append(b []byte) []byte {
	command := "cas "
	if w.add {
		command = "add "
	}
	b = append(append(b, command...), w.key...)
	b = append(b, " 0 "...)
	b = strconv.AppendInt(b, int64(w.expiration), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(len(w.value)), 10)
	if !w.add {
		b = append(b, ' ')
		b = strconv.AppendUint(b, w.cas, 10)
	}
	b = append(b, "\r\n"...)
	return append(append(b, w.value...), "\r\n"...)
}
