package memcached

import (
	"slices"
	"sync"
	"time"
)

const (
	// maxSenders is how many exchanges of a kind a server has at a time. What comes meanwhile
	// waits and joins others: most of what it costs is the exchange.
	maxSenders = 4
	// joinTime is how long after one exchange the next begins at the earliest, unless none is
	// under way. So exchanges with a server that is near follow one another, and have more
	// each, and one with a server that is far, or that is slow to answer, holds up others for
	// so long only.
	joinTime = time.Millisecond
)

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
	senders int         // goroutines that send
	latest  time.Time   // when the latest exchange began
	late    *time.Timer // calls what next was given joinTime after that; nil before the first
}

// add adds x. If it returns true, the caller has to start a sender.
func (q *queue[T]) add(x T) (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, x)
	return q.wants()
}

// wants adds a sender, and returns true, if there should be one more. It is called with q.mu
// held.
func (q *queue[T]) wants() bool {
	if len(q.waiting) == 0 || q.senders == maxSenders || q.senders > 0 && time.Since(q.latest) < joinTime {
		return false
	}
	q.senders++
	return true
}

// next returns what to send together: of all sizes at most q.most, or one that is larger. If
// nothing waits, or what does waits for another, the sender has to end. If there is still one
// joinTime later, late is called.
func (q *queue[T]) next(late func()) (joined []T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.senders--
	if !q.wants() {
		if q.senders == 0 && q.late != nil {
			q.late.Stop()
		}
		return nil
	}
	q.latest = time.Now()
	if q.late == nil {
		q.late = time.AfterFunc(joinTime, late)
	} else {
		q.late.Reset(joinTime)
	}
	n, size := 1, q.waiting[0].size()
	for n < len(q.waiting) && size+q.waiting[n].size() <= q.most {
		size += q.waiting[n].size()
		n++
	}
	joined, q.waiting = q.waiting[:n:n], q.waiting[n:]
	return joined
}

// isLate reports whether the caller has to start a sender, for what has waited for joinTime.
func (q *queue[T]) isLate() (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wants()
}

// leave forgets x, if it still waits.
func (q *queue[T]) leave(x T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(other T) bool { return other == x })
}
