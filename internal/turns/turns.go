// Package turns shares the processors between calls that take long and all others. A large
// batch takes milliseconds. With many at a time, whatever takes microseconds would wait for
// all of them. So large ones take turns, and leave half of the processors to the rest.
package turns

import (
	"container/list"
	"context"
	"net/netip"
	"runtime"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Turns are those of one daemon. Where many clients wait, each gets a turn before any gets
// the next, so that whoever sends many large batches delays above all himself. New makes
// them. They are safe for concurrent use.
//
// Whoever waits holds its message meanwhile: bounding these bounds the queue.
type Turns struct {
	mu      sync.Mutex // protects the following
	free    int        // how many may begin
	waiting int
	clients map[netip.Prefix]*client // those that wait
	order   list.List                // of them: the first is next
}

// A client is one that waits, with all of its calls.
type client struct {
	address netip.Prefix
	waiters list.List // of *waiter, in order of arrival
	place   *list.Element
}

// A waiter is a call that waits.
type waiter struct {
	turn  chan struct{} // closed when it has its turn
	place *list.Element // nil: it has it
}

// New returns Turns, of which half of the processors can be taken at a time, and at least one.
func New() *Turns { return NewOf(max(1, runtime.GOMAXPROCS(0)/2)) }

// NewOf returns Turns, of which so many can be taken at a time.
func NewOf(most int) *Turns {
	return &Turns{free: most, clients: map[netip.Prefix]*client{}}
}

// A Turn is one that was taken. A nil Turn is that of a call which needs none. It is not safe
// for concurrent use.
type Turn struct {
	of   *Turns
	from netip.Prefix
	held bool
}

// Yield lets others run after each 256 parts of what takes long, i being the number of the part
// at hand. Nobody else would run on this processor until all is done, or for 10 ms. Batches that
// need no turn are smaller: for one of 100 it costs a tenth to a fifth of its time to be interrupted.
func Yield(i int) {
	if i%256 == 255 {
		runtime.Gosched()
	}
}

type turnKey struct{}

// Take waits for a turn of a client. It must end. The error is that of ctx. Nil Turns have one
// for everybody at any time.
func (t *Turns) Take(ctx context.Context, from netip.Prefix) (*Turn, error) {
	if t == nil {
		return nil, nil
	}
	if err := t.wait(ctx, from); err != nil {
		return nil, err
	}
	return &Turn{of: t, from: from, held: true}, nil
}

// End ends a turn. More than once does no harm.
func (t *Turn) End() {
	if t == nil || !t.held {
		return
	}
	t.held = false
	t.of.end()
}

// NewContext returns a context with a turn, if there is one.
func NewContext(ctx context.Context, t *Turn) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, turnKey{}, t)
}

// Aside does so with the turn of a context, if it has one.
func Aside(ctx context.Context) (back func()) {
	t, _ := ctx.Value(turnKey{}).(*Turn)
	return t.Aside(ctx)
}

// Aside ends a turn for as long as its call waits for something else than a processor. The
// call of back waits for the next one.
func (t *Turn) Aside(ctx context.Context) (back func()) {
	if t == nil || !t.held {
		return func() {}
	}
	t.End()
	// Without an error it has a turn again. With one the call is over, and has little to do.
	return func() { t.held = t.of.wait(ctx, t.from) == nil }
}

// wait returns when a client has a turn, or with the error of ctx.
func (t *Turns) wait(ctx context.Context, from netip.Prefix) error {
	t.mu.Lock()
	if t.free > 0 {
		t.free--
		t.mu.Unlock()
		return nil
	}
	w := &waiter{turn: make(chan struct{})}
	c := t.clients[from]
	if c == nil {
		c = &client{address: from}
		c.place = t.order.PushBack(c)
		t.clients[from] = c
	}
	w.place = c.waiters.PushBack(w)
	t.waiting++
	t.mu.Unlock()
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	had := w.place == nil
	if !had {
		t.leaveLocked(c, w)
	}
	t.mu.Unlock()
	if had {
		t.end()
	}
	return ctx.Err()
}

// end gives a turn to the next, if anybody waits.
func (t *Turns) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := t.order.Front()
	if first == nil {
		t.free++
		return
	}
	c := first.Value.(*client)
	w := c.waiters.Front().Value.(*waiter)
	t.order.MoveToBack(first)
	t.leaveLocked(c, w)
	close(w.turn)
}

// leaveLocked has w wait no more. The mutex must be held.
func (t *Turns) leaveLocked(c *client, w *waiter) {
	c.waiters.Remove(w.place)
	w.place = nil
	t.waiting--
	if c.waiters.Len() == 0 {
		t.order.Remove(c.place)
		delete(t.clients, c.address)
	}
}

// Waiting returns how many wait for a turn.
func (t *Turns) Waiting() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting
}

var waitingDesc = prometheus.NewDesc("ratelimitd_turns_waiting",
	"Large messages, bodies and batches that wait for their turn at a processor.", nil, nil)

// Describe implements prometheus.Collector.
func (t *Turns) Describe(descs chan<- *prometheus.Desc) { descs <- waitingDesc }

// Collect implements prometheus.Collector.
func (t *Turns) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(t.Waiting()))
}
