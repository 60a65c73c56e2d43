package redis

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxSenders is how many pipelines a lane has under way at most. More make
	// the pipelines shorter; fewer let one slow pipeline hold up the rest.
	maxSenders = 4
	// maxPipeline is how many questions a pipeline has before what else waits
	// is left to the next.
	maxPipeline = 256
	// maxTurn is how many questions of one caller go together, while others
	// wait: half a millisecond of Redis.
	maxTurn = 64
	// maxTogether is how many keys a command has, if it asks several questions:
	// Redis does nothing else until it is done with them.
	maxTogether = 16
)

var errClosed = errors.New("the store is closed")

// A pipeliner has concurrent callers share round trips: what gathers while one
// pipeline is under way is sent as the next. It waits for nothing: a command
// that comes while there is no pipeline under way is sent at once. And they share
// commands, but in a cluster, where a command's keys have to be in one slot.
//
// A command is sent once. If the connection fails, whether it ran or not is
// unknown, and it is an error.
type pipeliner struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // the client, if it is that of a cluster
	script  script
	timeout time.Duration
	mapped  atomic.Bool // whether the nodes of the cluster are known

	pipelines, questions atomic.Uint64 // sent, for the metrics

	senders sync.WaitGroup // with mu held, until closed
	mu      sync.Mutex     // protects the following
	lanes   map[string]*lane
	closed  bool
}

// A lane is the way to one server. Each server has its own, so that one which
// does not answer holds up nothing but what is for it.
type lane struct {
	waiting []*shipment
	senders int
}

// A shipment is questions of one caller for one lane, in order. It is the
// sender's until done is closed: a caller that leaves before leaves it alone.
// Many questions are sent in several turns, each when the last is done.
type shipment struct {
	ctx       context.Context // the caller's
	deadline  time.Time       // of the caller, or the store's for it
	questions []question
	replies   []reply // of each of questions
	sent      int     // how many of questions have had their turn
	turnEnd   int     // which of questions the turn ends before
	done      chan struct{}

	oneQuestion [1]question // what most have: room for questions
	oneReply    [1]reply    // and replies
}

func newShipment(ctx context.Context, deadline time.Time) *shipment {
	s := &shipment{ctx: ctx, deadline: deadline, done: make(chan struct{})}
	s.questions, s.replies = s.oneQuestion[:0], s.oneReply[:0]
	return s
}

// add adds q and returns its index.
func (s *shipment) add(q question) int {
	s.questions, s.replies = append(s.questions, q), append(s.replies, reply{})
	return len(s.questions) - 1
}

// turn returns the questions whose turn it is, and room for the replies.
func (s *shipment) turn() ([]question, []reply) {
	return s.questions[s.sent:s.turnEnd], s.replies[s.sent:s.turnEnd]
}

func newPipeliner(client redis.UniversalClient, script script, timeout time.Duration) *pipeliner {
	p := &pipeliner{client: client, script: script, timeout: timeout, lanes: map[string]*lane{}}
	p.cluster, _ = client.(*redis.ClusterClient)
	return p
}

// laneOf returns the name of the lane for key.
func (p *pipeliner) laneOf(ctx context.Context, key string) string {
	if p.cluster == nil {
		return ""
	}
	if !p.mapped.Load() {
		return "" // asking would wait for the cluster to answer
	}
	node, err := p.cluster.MasterForKey(ctx, key)
	if err != nil {
		return ""
	}
	return node.Options().Addr
}

// send sends what is in s down a lane, and returns before it is done.
func (p *pipeliner) send(name string, s *shipment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		s.fail(errClosed)
		return
	}
	l := p.lanes[name]
	if l == nil {
		l = new(lane)
		p.lanes[name] = l
	}
	l.waiting = append(l.waiting, s)
	if l.senders < maxSenders {
		l.senders++
		p.senders.Go(func() { p.run(name, l) })
	}
}

// run sends what waits in l until nothing does.
func (p *pipeliner) run(name string, l *lane) {
	var load []*shipment
	for {
		if load = p.next(name, l, load[:0]); len(load) == 0 {
			return
		}
		p.exec(load)
		p.requeue(l, load)
		clear(load)
	}
}

// requeue puts behind the others what has not been sent whole. (The sender
// goes on, and so what it puts there is seen to.)
func (p *pipeliner) requeue(l *lane, load []*shipment) {
	load = slices.DeleteFunc(load, func(s *shipment) bool { return s.sent == len(s.questions) })
	if len(load) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l.waiting = append(l.waiting, load...)
}

// next moves what is to be sent together from l to load. If there is nothing,
// the sender is no longer one.
func (p *pipeliner) next(name string, l *lane, load []*shipment) []*shipment {
	p.mu.Lock()
	defer p.mu.Unlock()
	most := maxTurn
	if len(l.waiting) == 1 {
		most = maxPipeline
	}
	n := 0
	for questions := 0; n < len(l.waiting) && questions < maxPipeline; n++ {
		s := l.waiting[n]
		s.turnEnd = min(s.sent+most, len(s.questions))
		questions += s.turnEnd - s.sent
	}
	load = append(load, l.waiting[:n]...)
	rest := copy(l.waiting, l.waiting[n:])
	clear(l.waiting[rest:])
	l.waiting = l.waiting[:rest]
	if n == 0 {
		l.senders--
		if l.senders == 0 && name != "" { // the server may be gone for good
			delete(p.lanes, name)
		}
	}
	return load
}

// exec sends load, but for what nobody waits for any more, as one pipeline. It
// has as long as connecting and the store's timeout take, however soon its
// callers leave: to cut it short would cost the connection, and one that takes
// longer to set up than a decision may would never be had. It has longer if a
// caller has.
func (p *pipeliner) exec(load []*shipment) {
	now := time.Now()
	deadline := now.Add(p.timeout)
	var asked []question
	for _, s := range load {
		if err := s.left(now); err != nil {
			s.fail(err)
			continue
		}
		questions, _ := s.turn()
		asked = append(asked, questions...)
		if s.deadline.After(deadline) {
			deadline = s.deadline
		}
	}
	if len(asked) == 0 {
		return
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	replies, err := p.ask(ctx, asked)
	for _, s := range load {
		_, room := s.turn()
		if len(room) == 0 {
			continue // it failed already
		}
		replies = replies[copy(room, replies):]
		s.sent += len(room)
		switch {
		case s.sent == len(s.questions):
			s.finish()
		case err != nil && !isReply(err): // the rest would only wait for the same
			s.fail(err)
		}
	}
}

// ask asks questions, and returns their replies, and the first error.
func (p *pipeliner) ask(ctx context.Context, questions []question) ([]reply, error) {
	type part struct {
		command *redis.StringCmd
		end     int // which of questions it ends before
	}
	pipe := p.client.Pipeline()
	var parts []part
	for start := 0; start < len(questions); {
		end := start + 1
		for keys := len(questions[start].keys); p.cluster == nil && end < len(questions); end++ {
			if keys += len(questions[end].keys); keys > maxTogether {
				break
			}
		}
		command := p.script.command(ctx, questions[start:end])
		parts = append(parts, part{command, end})
		_ = pipe.Process(ctx, once{command}) // only queues it
		start = end
	}
	p.pipelines.Add(1)
	p.questions.Add(uint64(len(questions)))
	_, err := pipe.Exec(ctx)
	p.learn(ctx, err)

	all, start := make([]reply, len(questions)), 0
	for _, part := range parts {
		replies(part.command, err, questions[start:part.end], all[start:part.end])
		start = part.end
	}
	return all, err
}

// learn has a cluster's client ask anew which node has which keys if a
// pipeline failed: a node that is gone redirects nobody.
func (p *pipeliner) learn(ctx context.Context, err error) {
	if p.cluster == nil {
		return
	}
	if err != nil && !isReply(err) {
		p.cluster.ReloadState(ctx)
		return
	}
	p.mapped.Store(true)
}

// isReply reports whether err is what a server replied.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// waiting returns how many shipments wait.
func (p *pipeliner) waiting() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lanes {
		n += len(l.waiting)
	}
	return n
}

// close waits for what is under way.
func (p *pipeliner) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.senders.Wait()
}

// left returns why the caller of s does not wait for it any more, or nil.
func (s *shipment) left(now time.Time) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if !now.Before(s.deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// timers are stopped ones, to be used again: a context with a deadline would
// be a new one for each decision, and five more allocations.
var timers = sync.Pool{New: func() any { return time.NewTimer(0) }}

// wait waits for s to be done. The error says why it stopped before.
func (s *shipment) wait() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	timer := timers.Get().(*time.Timer)
	timer.Reset(time.Until(s.deadline))
	defer func() {
		timer.Stop()
		timers.Put(timer)
	}()
	select {
	case <-s.done:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-timer.C:
		return context.DeadlineExceeded
	}
}

// fail finishes s without having sent what is left of it.
func (s *shipment) fail(err error) {
	for i := s.sent; i < len(s.questions); i++ {
		s.replies[i].err = err
	}
	s.sent, s.turnEnd = len(s.questions), len(s.questions)
	s.finish()
}

func (s *shipment) finish() { close(s.done) }

// once makes a command one that the client never sends a second time after it
// may have run. Without it a ClusterClient sends all of a pipeline again when
// its connection fails, or when its first reply is an error such as TRYAGAIN.
type once struct{ *redis.StringCmd }

// NoRetry is what the client asks.
func (once) NoRetry() bool { return true }
