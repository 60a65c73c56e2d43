// Package logqueue lets a process log without waiting for whoever reads its log.
package logqueue

import (
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// maxBytes is how much may wait to be written: some thousand lines. What comes
// when there is no room is lost.
const maxBytes = 1 << 20

// A Queue is an io.Writer that takes each Write at once and writes it later, one
// by one, in order. If the writer behind it is stuck, lines wait, and when there
// is no more room they are lost. A line that cannot be written is lost too. New
// makes a Queue. It is safe for concurrent use.
type Queue struct {
	to     io.Writer
	notice func(lost uint64) []byte

	lost atomic.Uint64 // lines, since the start
	wake chan struct{} // has an element if there is something to do
	done chan struct{} // closed when everything is written

	mu      sync.Mutex // protects the following
	waiting [][]byte
	bytes   int    // of all that waits
	untold  uint64 // lines lost for which no notice was written
	before  int    // how many of waiting came before these
	closed  bool
}

// New returns a Queue that writes to an io.Writer. notice returns a line that says
// how many lines were lost. The Queue writes it once it can write again.
func New(to io.Writer, notice func(lost uint64) []byte) *Queue {
	q := &Queue{to: to, notice: notice, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go q.run()
	return q
}

// Write implements io.Writer. It never waits, and returns no error: a line that is
// lost is counted.
func (q *Queue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.bytes+len(line) > maxBytes {
		q.loseLocked()
		return len(line), nil
	}
	q.waiting = append(q.waiting, append([]byte(nil), line...))
	q.bytes += len(line)
	q.rouse()
	return len(line), nil
}

// Lost returns how many lines were lost.
func (q *Queue) Lost() uint64 { return q.lost.Load() }

// Close writes what waits, but for no longer than patience. What comes afterwards
// is lost. It reports whether everything was written. It may be called again.
func (q *Queue) Close(patience time.Duration) bool {
	q.mu.Lock()
	q.closed = true
	q.rouse()
	q.mu.Unlock()
	select {
	case <-q.done:
		return true
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-q.done:
		return true
	case <-timer.C: // whoever should read has stopped, and nothing ends the write
		return false
	}
}

func (q *Queue) rouse() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// loseLocked counts a line that is lost. The mutex must be held.
func (q *Queue) loseLocked() {
	q.lost.Add(1)
	if q.untold == 0 {
		q.before = len(q.waiting)
	}
	q.untold++
}

// run writes until the queue is closed and empty.
func (q *Queue) run() {
	defer close(q.done)
	for range q.wake {
		for q.tell() || q.writeNext() {
		}
		q.mu.Lock()
		over := q.closed && len(q.waiting) == 0
		q.mu.Unlock()
		if over {
			return
		}
	}
}

// tell writes how many lines were lost, once all lines are written that came before
// these. It reports whether it did.
func (q *Queue) tell() bool {
	q.mu.Lock()
	untold := q.untold
	if untold == 0 || q.before > 0 {
		q.mu.Unlock()
		return false
	}
	q.untold = 0
	q.mu.Unlock()
	if _, err := q.to.Write(q.notice(untold)); err == nil {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.untold, q.before = q.untold+untold, 0 // to be told after the next line
	return false
}

// writeNext writes the next line. It reports whether there was one. If the line
// cannot be written, the process goes on without it.
func (q *Queue) writeNext() bool {
	q.mu.Lock()
	if len(q.waiting) == 0 {
		q.mu.Unlock()
		return false
	}
	line := q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	q.bytes -= len(line)
	q.before = max(q.before-1, 0)
	q.mu.Unlock()
	if _, err := q.to.Write(line); err != nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.loseLocked()
	}
	return true
}
