// Package admission shares a remote store among those who ask it. A store that is asked
// for more than it can do answers everybody late, which is as good as not at all: then
// the failure policy answers, and with that one heavy caller sets the limits of all
// others free. So only so much is at the store at a time. The rest waits for its turn,
// each namespace in a queue of its own, and what would wait too long is told so at once.
package admission

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

const (
	// DefaultCapacity keeps Redis busy, and takes it about 10 ms.
	DefaultCapacity = 1024
	// DefaultTimeout is how long a request waits for its turn at most.
	DefaultTimeout = 50 * time.Millisecond

	// maxPiece is how many counters one piece of work has at most: what waits behind it
	// waits that long at least. Redis takes 2 to 3 ms. A slow store gets pieces of a
	// quarter of what is at it at a time.
	maxPiece = 256
	// minCapacity is what is at a store at a time however slow it is.
	minCapacity = 64
	// maxWaiting bounds what waits in one namespace, in capacities. It is more than can
	// be done in time.
	maxWaiting = 8
	// maxWaitingInAll bounds what waits in all, likewise. A waiter takes about 400 bytes.
	maxWaitingInAll = 64
	// perCounter is how much longer than the timeout a call may wait for each of its
	// counters: it is as much as package redis grants. A batch can have 16,000.
	perCounter = 20 * time.Microsecond
	// maxRetryAfter bounds the advice when to try again.
	maxRetryAfter = 10 * time.Second
)

// errStuck is the error of what waited while the store failed to decide anything. That is
// no overload.
var errStuck = errors.New("the store failed to decide anything while this waited for its turn")

// Options say how to make a Store. The zero Options are the defaults.
type Options struct {
	// Capacity is how many counters are at the store at a time, at most. 0 is
	// DefaultCapacity. There are fewer at a store that takes long for them.
	Capacity int
	// Timeout is how long a request waits for its turn. 0 is DefaultTimeout. A request
	// whose own deadline is sooner does not wait beyond that.
	Timeout time.Duration
	// CallerOf returns who makes a call, and how many shares it has of the store; or 0
	// shares if nobody knows. nil: nobody is known.
	CallerOf func(ctx context.Context) (name string, shares int)
}

// A Store is a store.Store in front of another. While there is room at that, it only
// counts. Otherwise the work waits: first each party has its share, which is a caller
// that is known, or a namespace that is configured, or all other namespaces together;
// and within the share each namespace has the same. Large batches are cut into pieces,
// which wait for a turn each. What cannot have its turn in time has a *store.Overload as
// its error, as soon as that is clear.
//
// What comes in time it decides in order. It trades some of the time of a very large
// batch for that of all others.
type Store struct {
	store.Store
	o Options

	mu       sync.Mutex // protects the following
	inFlight int        // at the store, in counters
	capacity int        // how many may be there
	cut      time.Time  // when capacity was last lowered
	waiting  party      // the root of all
	pace     pace
	decided  uint64 // pieces of which the store decided a request
	failed   uint64 // pieces of which it decided none
	favoured map[string]bool

	waits, full, late atomic.Uint64 // for the metrics
}

var _ store.Store = (*Store)(nil)

// New returns a Store in front of s, which it owns.
func New(s store.Store, o Options) *Store {
	if o.Capacity == 0 {
		o.Capacity = DefaultCapacity
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	return &Store{Store: s, o: o, capacity: o.Capacity}
}

// Favour gives each of namespaces a share for itself, and takes that away from all
// others.
func (s *Store) Favour(namespaces []string) {
	favoured := make(map[string]bool, len(namespaces))
	for _, n := range namespaces {
		favoured[n] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.favoured = favoured
}

// Decide has the store decide requests when it is their turn.
func (s *Store) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	if len(requests) > 1 {
		defer turns.Aside(ctx)() // others have the processor while these wait for the store
	}
	cost := 0
	for i := range requests {
		cost += costOf(&requests[i])
	}
	if cost <= maxPiece {
		waited, err := s.enter(ctx, requests, cost, time.Time{})
		if err != nil {
			s.refuse(ctx, requests, results, err)
			return
		}
		s.decide(ctx, requests, results, piece{cost, waited})
		return
	}
	deadline := time.Now().Add(s.o.Timeout + time.Duration(cost)*perCounter)
	var failed error // why the last piece was not decided
	for len(requests) > 0 {
		n, cost := s.cutPiece(requests)
		waited, err := false, store.CallerGone(ctx)
		if err == nil && failed != nil && !time.Now().Before(deadline) {
			err = failed
		}
		if err == nil {
			waited, err = s.enter(ctx, requests, cost, deadline)
		}
		if err != nil {
			s.refuse(ctx, requests, results, err) // the rest would come later still
			return
		}
		s.decide(ctx, requests[:n:n], results[:n:n], piece{cost, waited})
		failed = results[n-1].Err
		requests, results = requests[n:], results[n:]
	}
}

// costOf returns how many counters r has, with its With.
func costOf(r *store.Request) (counters int) {
	for i := range r.Limits {
		if !r.Limits[i].Rate.IsUnlimited() {
			counters++
		}
	}
	for i := range r.With {
		counters += costOf(&r.With[i])
	}
	return counters
}

// A piece is work that is at the store.
type piece struct {
	cost   int  // in counters
	waited bool // for its turn
}

// cutPiece returns how many of requests, one at least, make a piece, and its cost.
func (s *Store) cutPiece(requests []store.Request) (n, cost int) {
	s.mu.Lock()
	most := min(maxPiece, s.capacity/4)
	s.mu.Unlock()
	for ; n < len(requests); n++ {
		c := costOf(&requests[n])
		if n > 0 && cost+c > most {
			break
		}
		cost += c
	}
	return n, cost
}

// decide has the store decide a piece that has entered.
func (s *Store) decide(ctx context.Context, requests []store.Request, results []store.Result, p piece) {
	var start time.Time
	if p.waited {
		start = time.Now()
	}
	defer func() { s.exit(results, p, start) }()
	s.Store.Decide(ctx, requests, results)
}

// refuse sets the error of all requests that have counters. The store decides the rest.
func (s *Store) refuse(ctx context.Context, requests []store.Request, results []store.Result, err error) {
	var free []int
	for i := range requests {
		if costOf(&requests[i]) == 0 {
			free = append(free, i)
			continue
		}
		results[i].All(&requests[i], func(_ *store.Request, res *store.Result) { res.Err = err })
	}
	store.DecideSome(ctx, s.Store, requests, results, free)
}

// enter returns when a piece of requests may go to the store, or why it may not; and
// whether it waited. All of it counts as the namespace of its first request. The piece
// must be there by deadline, if that is not zero.
func (s *Store) enter(ctx context.Context, requests []store.Request, cost int, deadline time.Time) (waited bool, err error) {
	s.mu.Lock()
	if cost == 0 || s.waiting.backlog == 0 && s.fitsLocked(cost) {
		s.inFlight += cost
		s.mu.Unlock()
		return false, nil
	}
	s.mu.Unlock()
	return true, s.wait(ctx, requests[0].Namespace, cost, deadline)
}

// fitsLocked reports whether there is room at the store. One piece always fits.
func (s *Store) fitsLocked(cost int) bool {
	return s.inFlight == 0 || s.inFlight+cost <= s.capacity
}

// exit makes room for what waits. start is when a piece that had waited left.
func (s *Store) exit(results []store.Result, p piece, start time.Time) {
	decided := false
	for i := 0; i < len(results) && !decided; i++ {
		decided = results[i].Err == nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight -= p.cost
	if decided {
		s.decided++
	} else if p.cost > 0 {
		s.failed++
	}
	if s.waiting.backlog == 0 && !p.waited {
		return
	}
	now := time.Now()
	if p.waited {
		s.adaptLocked(now, p.cost, now.Sub(start), decided)
	}
	if s.waiting.backlog > 0 && decided && p.cost > 0 {
		s.pace.note(now, p.cost)
	}
	s.serveLocked()
}

// adaptLocked lowers the capacity when a piece took so long that the next ones may not
// be done in time, and raises it when there is time left. The mutex must be held.
func (s *Store) adaptLocked(now time.Time, cost int, took time.Duration, decided bool) {
	switch {
	case took > s.o.Timeout/2:
		if now.Sub(s.cut) > took { // what was there before the last cut says nothing of it
			s.capacity, s.cut = max(s.capacity*3/4, min(minCapacity, s.o.Capacity)), now
		}
	case took < s.o.Timeout/4 && decided:
		s.capacity = min(s.capacity+cost/8+1, s.o.Capacity)
	}
}

// serveLocked gives those their turn for whom there is room. The mutex must be held.
func (s *Store) serveLocked() {
	for w := s.waiting.first(); w != nil && s.fitsLocked(w.cost); w = s.waiting.first() {
		s.inFlight += w.cost
		w.serve()
	}
}

// A share says whose share of the store a piece takes.
type share struct {
	name   name
	weight float64
}

// shareLocked returns the share of a namespace in a call. The mutex must be held.
func (s *Store) shareLocked(ctx context.Context, of string) share {
	if s.o.CallerOf != nil {
		if text, shares := s.o.CallerOf(ctx); shares > 0 {
			return share{name{caller, text}, float64(shares)}
		}
	}
	if s.favoured[of] {
		return share{name{namespace, of}, 1}
	}
	return share{name{kind: others}, 1}
}

// wait is enter for a piece that does not fit yet.
func (s *Store) wait(ctx context.Context, of string, cost int, deadline time.Time) error {
	now := time.Now()
	patience := s.o.Timeout
	if !deadline.IsZero() {
		patience = min(patience, deadline.Sub(now))
	}
	if d, ok := ctx.Deadline(); ok {
		patience = min(patience, d.Sub(now))
	}
	w, err := s.queue(ctx, of, cost, now, patience)
	if w == nil {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.turn:
		return w.refusal
	case <-ctx.Done():
		return s.giveUp(w, ctx.Err())
	case <-timer.C:
		return s.giveUp(w, nil)
	}
}

// queue has a piece wait. Without a waiter and without an error, there is room by now.
// The error is of a piece for which waiting has no point.
func (s *Store) queue(ctx context.Context, of string, cost int, now time.Time, patience time.Duration) (*waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting.backlog == 0 {
		if s.fitsLocked(cost) {
			s.inFlight += cost
			return nil, nil
		}
		s.pace.begin(now)
	}
	share := s.shareLocked(ctx, of)
	own, ahead := s.aheadLocked(share, of)
	switch {
	case patience <= 0, own >= maxPiece && s.pace.of(s.inFlight+ahead) > patience: // with less, there would be nothing to measure
		s.late.Add(1)
		return nil, s.overloadLocked(ahead + cost)
	case own+cost > maxWaiting*s.o.Capacity:
		s.full.Add(1)
		return nil, s.overloadLocked(ahead + cost)
	}
	w := &waiter{cost: cost, turn: make(chan struct{}), decided: s.decided, failed: s.failed}
	s.waiting.join(share.name, share.weight).join(name{namespace, of}, 1).push(w)
	s.waits.Add(1)
	for s.waiting.backlog > maxWaitingInAll*s.o.Capacity {
		s.full.Add(1)
		s.waiting.last().end(s.overloadLocked(s.waiting.backlog))
	}
	return w, nil
}

// aheadLocked returns how much of a namespace waits; and how much is served at most
// before what it adds to that. The mutex must be held.
func (s *Store) aheadLocked(sh share, of string) (own, ahead int) {
	p := s.waiting.byName[sh.name]
	if p == nil {
		return 0, 0
	}
	if leaf := p.byName[name{namespace, of}]; leaf != nil {
		own = leaf.backlog
	}
	return own, min(own*len(p.members)*len(s.waiting.members), s.waiting.backlog)
}

// giveUp has w wait no more. err is that of its caller, if that is gone.
func (s *Store) giveUp(w *waiter, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !w.waits(): // it has had its turn meanwhile
		if err == nil || w.refusal != nil {
			return w.refusal
		}
		s.inFlight -= w.cost
		s.serveLocked()
		return err
	case err == nil && s.decided == w.decided && s.failed > w.failed:
		err = errStuck
	case err == nil:
		s.late.Add(1)
		err = s.overloadLocked(w.leaf.backlog)
	}
	w.end(err)
	s.serveLocked() // what is next may be smaller
	return err
}

// overloadLocked returns the error of a piece that is not done, with so much before it.
// The mutex must be held.
func (s *Store) overloadLocked(ahead int) *store.Overload {
	after := max(s.pace.of(s.inFlight+ahead), s.o.Timeout)
	return &store.Overload{RetryAfter: min(after, maxRetryAfter)}
}
