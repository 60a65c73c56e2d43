package memcached

import (
	"slices"
	"sync"
)

// maxSenders is how many exchanges of a kind a server has at a time. What comes meanwhile
// waits and joins others: most of what it costs is the exchange.
const maxSenders = 4

// A sendable is what a queue has.
type sendable[T any] interface {
	comparable
	size() int                                 // in whatever bounds what is sent together
	send(x *exchanges, on *server, joined []T) // sends many at once; the receiver is any of them
}

// A queue has what waits to be sent to a server, many together.
type queue[T sendable[T]] struct {
	most int // of what is sent together, the greatest sum of sizes

	mu      sync.Mutex // protects the following
	waiting []T
	senders int // goroutines that send
}

// add adds x. If it returns true, the caller has to start a sender.
func (q *queue[T]) add(x T) (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, x)
	if q.senders == maxSenders {
		return false
	}
	q.senders++
	return true
}

// next returns what to send together: of all sizes at most q.most, or one that is larger. If
// nothing waits, the sender has to end.
func (q *queue[T]) next() (joined []T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.senders--
		return nil
	}
	n, size := 1, q.waiting[0].size()
	for n < len(q.waiting) && size+q.waiting[n].size() <= q.most {
		size += q.waiting[n].size()
		n++
	}
	joined, q.waiting = q.waiting[:n:n], q.waiting[n:]
	return joined
}

// leave forgets x, if it still waits.
func (q *queue[T]) leave(x T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(other T) bool { return other == x })
}
