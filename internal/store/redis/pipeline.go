package redis

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

const (
	// maxPipeline is how many questions a pipeline has before the rest waits for the
	// next pipeline.
	maxPipeline = 256
	// maxTurn is how many questions of one caller are sent together while others
	// wait. Redis takes about half a millisecond for them.
	maxTurn = 64
	// maxTogether is how many keys a command with several questions has at most.
	// Redis does nothing else while it runs a command.
	maxTogether = 16
)

// A pipeliner lets concurrent callers share round trips. What arrives while a
// pipeline is under way is sent together in the next one. It does not wait to
// collect more: what arrives while no pipeline is under way is sent at once.
// Questions also share commands, if one server is known to own all keys. Otherwise all
// keys of a command are of one identifier.
//
// A caller with one question, while nothing else is under way, sends it itself: see lone.
//
// It sends a command only once. If the connection fails, nobody knows whether the
// command ran, and the caller gets an error.
type pipeliner struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // the client, if the server is a cluster; otherwise nil
	script  script
	owner   *ownership
	timeout time.Duration
	panics  *crash.Log  // may be nil
	mapped  atomic.Bool // whether the nodes of the cluster are known

	lone  *atomic.Pointer[lone] // the dialer's
	whole atomic.Bool           // whether to send the whole script always: the server refuses EVALSHA

	pipelines, questions atomic.Uint64 // how many were sent; for the metrics

	senders sync.WaitGroup // Go is called with mu held, and not after closed is set
	mu      sync.Mutex     // protects the following
	lanes   map[string]*lane
	closed  bool
}

// A lane is the queue for one server. Each server has its own, so that a server which
// does not answer holds up only its own questions.
type lane struct {
	waiting []*shipment
	senders int
	alone   time.Time // from when on a caller may send its own question

	connected atomic.Bool // whether a pipeline has been answered: there is a connection
}

func newPipeliner(client redis.UniversalClient, lone *atomic.Pointer[lone], script script, owner *ownership, timeout time.Duration) *pipeliner {
	p := &pipeliner{client: client, lone: lone, script: script, owner: owner, timeout: timeout, lanes: map[string]*lane{}}
	p.cluster, _ = client.(*redis.ClusterClient)
	return p
}

// laneOf returns the name of the lane for key.
func (p *pipeliner) laneOf(ctx context.Context, key string) string {
	if p.cluster == nil {
		return ""
	}
	if !p.mapped.Load() {
		return "" // do not wait here until the cluster answers
	}
	node, err := p.cluster.MasterForKey(ctx, key)
	if err != nil {
		return ""
	}
	return node.Options().Addr
}

// send puts s into a lane, and does not wait until it is done.
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

// run is a sender of l. It sends what waits in l until nothing waits.
func (p *pipeliner) run(name string, l *lane) {
	var load []*shipment
	for {
		if load = p.next(name, l, load[:0]); len(load) == 0 {
			return
		}
		if p.execSafely(load, false) == nil {
			l.connected.Store(true)
		}
		p.requeue(l, load)
		clear(load)
	}
}

// execSafely is exec. If that panics, what it did not finish fails. Nobody knows
// whether it ran.
func (p *pipeliner) execSafely(load []*shipment, alone bool) (err error) {
	defer p.panics.Recover("a pipeline to Redis", func(panicked error) {
		err = panicked
		for _, s := range load {
			select {
			case <-s.done:
			default:
				s.sent = 0
				s.fail(fmt.Errorf("%w: %w", store.ErrCounters, panicked)) // it says nothing of the server
			}
		}
	})
	return p.exec(load, alone)
}

// requeue puts the shipments that have questions left at the end of the queue. The
// sender that calls it goes on, so they do not stay there.
func (p *pipeliner) requeue(l *lane, load []*shipment) {
	load = slices.DeleteFunc(load, func(s *shipment) bool { return s.sent == len(s.questions) })
	if len(load) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l.waiting = append(l.waiting, load...)
}

// next moves the shipments to send together from l to load. If nothing waits, it
// returns an empty load, and the sender must end.
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

// exec sends load as one pipeline, without the shipments that nobody waits for any
// more. The pipeline may take as long as connecting and the store's timeout
// together, or longer if a caller's deadline is later. It goes on when its callers
// leave: ending it would close the connection, and a connection that takes longer
// to set up than a caller waits would never be made. But with alone, the caller is here
// itself, and leaves at its own deadline. exec returns why there were no replies.
func (p *pipeliner) exec(load []*shipment, alone bool) error {
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
		return errNothing
	}
	ctx, cancel := context.Context(until{context.Background(), load[0].deadline}), func() {}
	if !alone {
		ctx, cancel = context.WithDeadline(context.Background(), deadline)
	}
	defer cancel()
	replies, err := p.ask(ctx, asked)
	if isReply(err) {
		err = nil
	}
	for _, s := range load {
		_, room := s.turn()
		if len(room) == 0 {
			continue // it has failed already
		}
		replies = replies[copy(room, replies):]
		s.sent += len(room)
		switch {
		case s.sent == len(s.questions):
			s.finish()
		case err != nil: // the rest would meet the same error
			s.fail(err)
		}
	}
	return err
}

// ask sends questions in one pipeline. It returns their replies, and the first error.
func (p *pipeliner) ask(ctx context.Context, questions []question) ([]reply, error) {
	type part struct {
		command *redis.StringCmd
		end     int // the index after its last question
	}
	pipe := p.client.Pipeline()
	var parts []part
	shares, whole := p.shares(), p.whole.Load()
	for start := 0; start < len(questions); {
		end := start + 1
		for keys := len(questions[start].keys); shares && end < len(questions); end++ {
			if keys += len(questions[end].keys); keys > maxTogether {
				break
			}
		}
		command := p.script.command(ctx, questions[start:end], whole, !shares && p.cluster == nil)
		parts = append(parts, part{command, end})
		if questions[start].together && !shares { // since it was asked, the server has changed
			command.SetErr(errApart)
		} else {
			_ = pipe.Process(ctx, once{command}) // only queues it
		}
		start = end
	}
	p.pipelines.Add(1)
	p.questions.Add(uint64(len(questions)))
	_, err := pipe.Exec(ctx)
	p.learn(ctx, err)

	all, start := make([]reply, len(questions)), 0
	for _, part := range parts {
		if failed := part.command.Err(); failed != nil {
			p.note(failed, part.command, shares)
		}
		replies(part.command, err, questions[start:part.end], all[start:part.end])
		start = part.end
	}
	return all, err
}

// shares reports whether a script may have the keys of several identifiers.
func (p *pipeliner) shares() bool { return p.cluster == nil && p.owner.all.Load() }

// note notes what the failure of a command says of the server. It makes that of a command
// with too many keys one after which its questions are asked again.
func (p *pipeliner) note(failed error, command *redis.StringCmd, shared bool) {
	switch {
	case shared && isApart(failed):
		p.owner.refused(failed)
		command.SetErr(errApart)
	case refusesHash(failed):
		p.whole.Store(true)
	}
}

// learn makes the client of a cluster ask again which node has which keys, if a
// pipeline failed. A node that is gone cannot redirect the client.
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

// waiting returns how many shipments wait.
func (p *pipeliner) waiting() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lanes {
		n += len(l.waiting)
	}
	return n
}

// close makes send fail from now on, and waits until all senders have ended.
func (p *pipeliner) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.senders.Wait()
}
