package redis

import (
	"context"
	"net"
	"sync"
	"time"
)

// A lone is a caller that sends its own question, as nothing else is under way. That saves two
// changes of goroutine, which on an idle machine take more time than all else. It must still be
// able to leave: then what it waits for is the connection it reads from, which the client does
// not tell. The connection finds its lone by the deadline that the client sets.
type lone struct {
	deadline time.Time // no other user of the client has the same

	mu   sync.Mutex // protects the following
	conn net.Conn   // that it reads from; nil if none
	left bool
}

// reads notes that c is what l reads from, and sets the deadline of c.
func (l *lone) reads(c net.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = c
	if l.left {
		return c.SetReadDeadline(time.Unix(1, 0))
	}
	return c.SetReadDeadline(l.deadline)
}

// leave ends the wait of l.
func (l *lone) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = true
	if l.conn != nil {
		_ = l.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// done must be called when the client has returned: the connection may be another's then.
func (l *lone) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = nil
}

// until is a context that ends at an instant, for what looks at its deadline alone. It needs no
// timer.
type until struct {
	context.Context
	deadline time.Time
}

// Deadline implements context.Context.
func (u until) Deadline() (time.Time, bool) { return u.deadline, true }
