package admission

import (
	"container/heap"
	"container/list"
	"time"
)

// A waiter is a piece of work that waits for its turn.
type waiter struct {
	cost            int           // in counters
	turn            chan struct{} // closed when it has its turn, or is refused
	refusal         error         // why it is refused, or nil; read when turn is closed
	leaf            *party
	element         *list.Element // of leaf's waiters; nil: it does not wait any more
	decided, failed uint64        // of the Store when it began to wait
}

// A party is whose work waits: at first level a caller that is known, a namespace that
// is configured, or all the others together; below that the namespaces of each. Work
// is given its turn by start-time fair queueing: each party has a virtual time at which
// its next work is due, which moves on by the cost of its work over its weight. Who has
// asked for little is due before who has asked for much.
//
// A party is there as long as its work waits, so that there are never more parties
// than waiters. What it had before that is forgotten.
type party struct {
	parent  *party
	name    name
	weight  float64
	due     float64 // in its parent's virtual time
	backlog int     // what waits here and below, in counters

	clock    float64         // the virtual time of its members
	members  parties         // a heap: the first is due first
	byName   map[name]*party // members
	waiters  list.List       // of a party without members, in order of arrival
	position int             // in the parent's members
}

// A name is that of a party, among those of its parent.
type name struct {
	kind kind
	text string
}

// A kind is what a party is.
type kind uint8

const (
	others kind = iota // the namespaces that are neither configured nor a known caller's
	namespace
	caller
)

// parties are a heap.
type parties []*party

func (p parties) Len() int           { return len(p) }
func (p parties) Less(i, j int) bool { return p[i].due < p[j].due }
func (p parties) Swap(i, j int) {
	p[i], p[j] = p[j], p[i]
	p[i].position, p[j].position = i, j
}

// Push implements heap.Interface.
func (p *parties) Push(x any) {
	x.(*party).position = len(*p)
	*p = append(*p, x.(*party))
}

// Pop implements heap.Interface.
func (p *parties) Pop() any {
	last := (*p)[len(*p)-1]
	(*p)[len(*p)-1] = nil
	*p = (*p)[:len(*p)-1]
	return last
}

// join returns the member of p with the name n. It makes it, due now, if there is none.
func (p *party) join(n name, weight float64) *party {
	if m := p.byName[n]; m != nil {
		return m
	}
	m := &party{parent: p, name: n, weight: weight, due: p.clock}
	if p.byName == nil {
		p.byName = map[name]*party{}
	}
	p.byName[n] = m
	heap.Push(&p.members, m)
	return m
}

// push has w wait at p.
func (p *party) push(w *waiter) {
	w.leaf, w.element = p, p.waiters.PushBack(w)
	for ; p != nil; p = p.parent {
		p.backlog += w.cost
	}
}

// first returns the waiter below p whose turn is next, or nil.
func (p *party) first() *waiter {
	for len(p.members) > 0 {
		p = p.members[0]
	}
	if e := p.waiters.Front(); e != nil {
		return e.Value.(*waiter)
	}
	return nil
}

// serve gives w, which is the first, its turn.
func (w *waiter) serve() {
	for p := w.leaf; p.parent != nil; p = p.parent {
		p.parent.clock = p.due
		p.due += float64(w.cost) / p.weight
		heap.Fix(&p.parent.members, p.position)
	}
	w.end(nil)
}

// waits reports whether w waits.
func (w *waiter) waits() bool { return w.element != nil }

// end has w wait no more, because it has its turn or because of a refusal. Parties of
// which nothing waits any more are gone.
func (w *waiter) end(refusal error) {
	w.refusal = refusal
	close(w.turn)
	w.leaf.waiters.Remove(w.element)
	w.element = nil
	for p := w.leaf; p != nil; p = p.parent {
		p.backlog -= w.cost
		switch {
		case p.backlog > 0:
		case p.parent == nil:
			p.clock = 0
		default:
			heap.Remove(&p.parent.members, p.position)
			delete(p.parent.byName, p.name)
		}
	}
}

// last returns the newest waiter of the party below p that has most waiting for its
// weight. There must be one.
func (p *party) last() *waiter {
	for len(p.members) > 0 {
		most := p.members[0]
		for _, m := range p.members[1:] {
			if float64(m.backlog)*most.weight > float64(most.backlog)*m.weight {
				most = m
			}
		}
		p = most
	}
	return p.waiters.Back().Value.(*waiter)
}

// A pace is how fast the store is while work waits for it.
type pace struct {
	perCounter time.Duration // 0: not known yet
	since      time.Time     // when it was last measured, or when the queue began
	counters   int           // done since then
}

// measureEvery is how often: in a shorter time too little is done to say how fast.
const measureEvery = 10 * time.Millisecond

// begin notes that a queue begins at now.
func (p *pace) begin(now time.Time) { p.since, p.counters = now, 0 }

// note notes that the store has done some work, while more of it waits.
func (p *pace) note(now time.Time, counters int) {
	p.counters += counters
	elapsed := now.Sub(p.since)
	if elapsed < measureEvery {
		return
	}
	measured := elapsed / time.Duration(p.counters)
	if p.perCounter > 0 {
		measured = (3*p.perCounter + measured) / 4
	}
	p.perCounter = measured
	p.begin(now)
}

// of returns how long the store takes for some counters.
func (p *pace) of(counters int) time.Duration { return time.Duration(counters) * p.perCounter }
