package memcached

import (
	"slices"
	"sync"
	"time"
)

const (
	// joinTime is how long after one exchange the next begins at the earliest, while one is
	// under way. So exchanges follow one another and have more each, which takes less time of
	// both sides, and one that the server is slow to answer holds up others for so long only.
	joinTime = time.Millisecond
	// nearTime is how long an exchange takes at the least with a server that is near. One that
	// is far is asked at once: to wait for the exchange under way would take long.
	nearTime = joinTime / 2
)

// A queue has what waits to be asked of a server, many together.
type queue struct {
	maxSenders int
	late       *time.Timer // ends joinTime after the latest exchange began, while one is under way

	mu      sync.Mutex // protects the following
	waiting []*ask
	senders int           // goroutines that send
	latest  time.Time     // when the latest exchange began
	least   time.Duration // that an exchange took lately: it grows by a small part of what others take longer
}

// add adds a. If it returns true, the caller has to start a sender.
func (q *queue) add(a *ask) (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, a)
	return q.wants()
}

// isLate reports whether the caller has to start a sender, as what waits has waited for joinTime.
func (q *queue) isLate() (start bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wants()
}

// wants adds a sender, and returns true, if there should be one more. It is called with q.mu
// held.
func (q *queue) wants() bool {
	if len(q.waiting) == 0 || q.senders == q.maxSenders || q.senders > 0 && q.least < nearTime && time.Since(q.latest) < joinTime {
		return false
	}
	q.senders++
	return true
}

// took notes how long an exchange took.
func (q *queue) took(d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.least = min(d, q.least+(d-q.least)/64)
}

// next returns what a sender asks next. If nothing waits, or what does waits for a later exchange,
// the sender has to end.
func (q *queue) next() (joined []*ask) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.senders--
	if !q.wants() {
		if q.senders == 0 {
			q.late.Stop()
		}
		return nil
	}
	q.latest = time.Now()
	q.late.Reset(joinTime)
	n, size := 1, q.waiting[0].size()
	for n < len(q.waiting) && size+q.waiting[n].size() <= maxJoinedBytes {
		size += q.waiting[n].size()
		n++
	}
	joined, q.waiting = q.waiting[:n:n], q.waiting[n:]
	return joined
}

// leave forgets a, if it still waits.
func (q *queue) leave(a *ask) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = slices.DeleteFunc(q.waiting, func(other *ask) bool { return other == a })
}
