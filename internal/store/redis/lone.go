package redis

import (
	"context"
	"errors"
	"sync"
	"time"
)

// afterLoss is how long no caller sends its own question after one has left before the
// reply: that ends the connection, and connections must not be made all the time.
const afterLoss = time.Second

// A lone is a caller that sends its own question, as nothing else is under way. That saves two
// changes of goroutine, which on an idle machine take more time than all else. It must still be
// able to leave: then what it waits for is the connection it reads from, which the client does
// not tell. The connection finds its lone by the deadline that the client sets.
type lone struct {
	deadline time.Time // no other user of the client has the same

	mu   sync.Mutex // protects the following
	conn *conn      // that it reads from; nil if none
	left bool
}

// reads notes that c is what l reads from, and sets the deadline of c.
func (l *lone) reads(c *conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn = c
	if l.left {
		return c.Conn.SetReadDeadline(time.Unix(1, 0))
	}
	return c.Conn.SetReadDeadline(l.deadline)
}

// leave ends the wait of l.
func (l *lone) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = true
	if l.conn != nil {
		_ = l.conn.Conn.SetReadDeadline(time.Unix(1, 0))
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

// sendOwn has the caller of s send it, and reports whether it did: s is done then. It does so
// if s is one question, nothing else is under way in the lane, and a connection is there.
func (p *pipeliner) sendOwn(name string, s *shipment) bool {
	if p.cluster != nil || len(s.questions) != 1 {
		return false
	}
	l := p.enterAlone(name)
	if l == nil {
		return false
	}
	caller := &lone{deadline: s.deadline}
	p.lone.Store(caller)
	stop := context.AfterFunc(s.ctx, caller.leave)
	s.turnEnd = 1
	err := p.execSafely([]*shipment{s}, true)
	stop()
	caller.done()
	p.lone.Store(nil)
	if err != nil {
		s.cut = s.left(time.Now())
	}
	p.exitAlone(name, l, err != nil && !errors.Is(err, errNothing))
	return true
}

// enterAlone makes the calling goroutine a sender of the lane and returns it, if the lane has no
// other and nothing waits.
func (p *pipeliner) enterAlone(name string) *lane {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.lanes[name]
	if p.closed || l == nil || l.senders > 0 || len(l.waiting) > 0 || !l.connected.Load() || time.Now().Before(l.alone) {
		return nil
	}
	l.senders++
	p.senders.Add(1)
	return l
}

// exitAlone ends that. What has come to wait is for a sender, in the place of the caller.
func (p *pipeliner) exitAlone(name string, l *lane, lost bool) {
	defer p.senders.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	if lost {
		l.alone = time.Now().Add(afterLoss)
	}
	if len(l.waiting) > 0 {
		p.senders.Go(func() { p.run(name, l) })
		return
	}
	l.senders--
}
