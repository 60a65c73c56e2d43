// Package breaker stops asking a server that keeps failing. Its callers get their
// answer at once, and the server gets room to recover. Each server of a store has
// a circuit of its own, so that a server that is gone costs the keys of the others
// nothing.
package breaker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// ErrOpen is the error of requests about which the store was not asked.
var ErrOpen = errors.New("the server has kept failing and is not asked until it had time to recover")

const (
	// A circuit opens when all calls that came back in the last interval failed,
	// tripAll or more; or when at least three in four of them did, tripMost or
	// more. A server that is gone is given up within an interval. A server that
	// only pauses for a moment is not, as long as there is some traffic.
	tripAll  = 5
	tripMost = 20
	interval = 500 * time.Millisecond
	bucket   = 100 * time.Millisecond // the interval moves on by so much at a time
	// An open circuit lets one call through after so long. It costs one caller
	// the store's timeout. A server that only paused, as many do for 50 ms or so,
	// is soon used again.
	probeAfter = 250 * time.Millisecond
	// forgetAfter is when an open circuit that no call has probed is dropped: the
	// server may have left the cluster for good.
	forgetAfter = 10 * time.Second
	// maxCircuits is more servers than a cluster has. When there are as many, all
	// are forgotten, because most have left.
	maxCircuits = 1000
)

// A Store is a store whose servers may fail each on its own.
type Store interface {
	store.Store

	// ServerOf names the server that r, which counts, would be asked of.
	ServerOf(ctx context.Context, r *store.Request) string
}

// A Breaker is a store.Store in front of another. While the circuit of a server
// is closed, it passes on what is for the server. When the server keeps
// failing the circuit opens: decisions then fail with ErrOpen, but for four
// calls a second, of which one that succeeds closes it.
//
// A call fails at a server if none of its requests could be decided there, and
// its caller is still there. What fails for its counters alone says nothing.
type Breaker struct {
	Store

	mu       sync.Mutex // protects the following
	circuits map[string]*circuit
}

// New returns a Breaker in front of s, which it owns. All circuits are closed.
func New(s Store) *Breaker { return &Breaker{Store: s, circuits: map[string]*circuit{}} }

// A circuit is that of one server.
type circuit struct {
	*gobreaker.CircuitBreaker[struct{}]
	failed atomic.Int64 // when a call last failed, in nanoseconds since the Unix epoch
}

func newCircuit() *circuit {
	return &circuit{CircuitBreaker: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Interval:     interval,
		BucketPeriod: bucket,
		Timeout:      probeAfter,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.TotalFailures >= tripAll && c.TotalSuccesses == 0 ||
				c.TotalFailures >= tripMost && c.TotalFailures >= 3*c.TotalSuccesses
		},
		IsExcluded: func(err error) bool { return err != nil && !errors.Is(err, errFailed) }, // a panic, too
	})}
}

func (b *Breaker) circuitOf(server string) *circuit {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuits[server]
	if c == nil {
		if len(b.circuits) >= maxCircuits {
			clear(b.circuits)
		}
		c = newCircuit()
		b.circuits[server] = c
	}
	return c
}

// Open returns how many servers are not asked.
func (b *Breaker) Open() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for server, c := range b.circuits {
		switch {
		case c.State() == gobreaker.StateClosed:
		case time.Now().UnixNano()-c.failed.Load() > int64(forgetAfter):
			delete(b.circuits, server)
		default:
			n++
		}
	}
	return n
}

var (
	// errFailed stands for a call that failed at a server.
	errFailed = errors.New("the server failed")
	// errSaysNothing stands for a call that says nothing of how the server is.
	errSaysNothing = errors.New("the call says nothing of the server")
)

// A part is what one call has for one server.
type part struct {
	server  string
	circuit *circuit
	asked   bool // or else the circuit is open
	decided bool // whether a request was
	failed  bool // whether another was not
}

// Decide has the store decide, but fails with ErrOpen what is for a server
// whose circuit is open.
func (b *Breaker) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	var fewParts [4]part // spare a call with few requests allocations
	var fewOf [4]int
	parts, of := b.split(ctx, requests, fewParts[:0], fewOf[:0])
	within(ctx, parts, func() {
		b.decide(ctx, requests, results, func(i int) bool { return of[i] >= 0 && !parts[of[i]].asked })
		for i := range results {
			if of[i] >= 0 {
				parts[of[i]].note(results[i].Err)
			}
		}
	})
}

// within calls decide once, and tells those circuits of parts that let the call
// through how their servers did.
func within(ctx context.Context, parts []part, decide func()) {
	if len(parts) == 0 {
		decide()
		return
	}
	p := &parts[0]
	_, _ = p.circuit.Execute(func() (struct{}, error) {
		p.asked = true
		within(ctx, parts[1:], decide)
		return struct{}{}, p.verdict(ctx)
	})
	if !p.asked {
		within(ctx, parts[1:], decide)
	}
}

// split appends to parts those that requests have, and to of which of them each
// request is of: -1 is none. What asks the store nothing is decided however it
// is.
func (b *Breaker) split(ctx context.Context, requests []store.Request, parts []part, of []int) ([]part, []int) {
	of = slices.Grow(of, len(requests))
	for i := range requests {
		n := -1
		if requests[i].Counts() {
			server := b.ServerOf(ctx, &requests[i])
			if n = slices.IndexFunc(parts, func(p part) bool { return p.server == server }); n < 0 {
				n = len(parts)
				parts = append(parts, part{server: server, circuit: b.circuitOf(server)})
			}
		}
		of = append(of, n)
	}
	return parts, of
}

// decide has the store decide the requests that are not refused.
func (b *Breaker) decide(ctx context.Context, requests []store.Request, results []store.Result, refused func(int) bool) {
	var few [4]int // spares a call with few requests an allocation
	rest := slices.Grow(few[:0], len(requests))
	for i := range requests {
		if refused(i) {
			results[i].All(&requests[i], func(_ *store.Request, res *store.Result) { res.Err = ErrOpen })
			continue
		}
		rest = append(rest, i)
	}
	store.DecideSome(ctx, b.Store, requests, results, rest)
}

// note takes notice of a result.
func (p *part) note(err error) {
	switch {
	case err == nil:
		p.decided = true
	case !errors.Is(err, store.ErrCounters):
		p.failed = true
	}
}

// verdict returns how the server did, for its circuit.
func (p *part) verdict(ctx context.Context) error {
	switch {
	case p.decided:
		return nil
	case !p.failed || store.CallerGone(ctx) != nil:
		return errSaysNothing
	default:
		p.circuit.failed.Store(time.Now().UnixNano())
		return errFailed
	}
}
