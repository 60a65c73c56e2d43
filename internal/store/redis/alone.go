package redis

import (
	"context"
	"errors"
	"time"
)

// afterLoss is how long no caller sends its own question after one has left before the
// reply: that ends the connection, and connections must not be made all the time.
const afterLoss = time.Second

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
