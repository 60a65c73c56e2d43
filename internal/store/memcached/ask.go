package memcached

import (
	"context"
	"strconv"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// maxJoinedBytes is how much is asked in one exchange, by the sizes of the asks, unless one
// alone has more.
const maxJoinedBytes = 64 << 10

// A caller waits until its deadline, or until ctx ends.
type caller struct {
	ctx      context.Context
	deadline time.Time
}

// await waits until done is closed. An error says why the caller has left before that.
func (c caller) await(done <-chan struct{}) error { return store.Await(c.ctx, c.deadline, done) }

// An ask is what one caller wants of a server: to read items, or to write one.
type ask struct {
	keys  []string // of the items to read; none for a write
	write write

	done  chan struct{} // closed when the following are set
	found []found       // for each of keys
	err   error

	oneKey   [1]string // room for keys: most have one
	oneFound [1]found
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

// newRead returns an ask to read the item with key.
func newRead(key string) *ask {
	a := &ask{done: make(chan struct{})}
	a.keys, a.found = a.oneKey[:0], a.oneFound[:0]
	a.add(key)
	return a
}

// add adds an item to those that a reads, and returns its index in a.found.
func (a *ask) add(key string) int {
	a.keys, a.found = append(a.keys, key), append(a.found, found{})
	return len(a.keys) - 1
}

// newWrite returns an ask to make w.
func newWrite(w write) *ask { return &ask{write: w, done: make(chan struct{})} }

// isRead reports whether a is to read.
func (a *ask) isRead() bool { return len(a.keys) > 0 }

// size returns about how many bytes are sent for a, or come back.
func (a *ask) size() int {
	if a.isRead() {
		return len(a.keys) * maxKeyBytes
	}
	return len(a.write.key) + len(a.write.value)
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
