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
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// ErrOpen is the error of requests about which the store was not asked.
var ErrOpen = errors.New("the server has kept failing and is not asked until it had time to recover")

const (
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
// A call fails at a server if none of its requests could be decided there. What
// fails for its counters alone says nothing; nor does what its caller cut short
// before the server had a fair time to answer: see circuit.fair.
type Breaker struct {
	Store
	timeout time.Duration

	mu       sync.Mutex // protects the following
	circuits map[string]*circuit
}

// New returns a Breaker in front of s, which it owns and which waits for its servers
// for at most timeout. All circuits are closed.
func New(s Store, timeout time.Duration) *Breaker {
	return &Breaker{Store: s, timeout: timeout, circuits: map[string]*circuit{}}
}

func (b *Breaker) circuitOf(server string) *circuit {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuits[server]
	if c == nil {
		if len(b.circuits) >= maxCircuits {
			clear(b.circuits)
		}
		c = new(circuit)
		b.circuits[server] = c
	}
	return c
}

// Open returns how many servers are not asked.
func (b *Breaker) Open() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for server, c := range b.circuits {
		switch open, failed := c.state(); {
		case !open:
		case now.Sub(failed) > forgetAfter:
			delete(b.circuits, server)
		default:
			n++
		}
	}
	return n
}

// A part is what one call has for one server.
type part struct {
	server  string
	circuit *circuit
	asked   bool // or else the circuit is open
	probe   bool // whether it is to find out if the server is back
	decided bool // whether a request was
	failed  bool // whether another was not
	cut     bool // whether that is because its caller, or the timeout, did not wait longer
}

// Decide has the store decide, but fails with ErrOpen what is for a server
// whose circuit is open.
func (b *Breaker) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	var fewParts [4]part // spare a call with few requests allocations
	var fewOf [4]int
	parts, of := b.split(ctx, requests, fewParts[:0], fewOf[:0])
	start := time.Now()
	for i := range parts {
		p := &parts[i]
		p.asked, p.probe = p.circuit.begin(start)
	}
	ended := false
	defer func() {
		if !ended { // it panics
			b.end(ctx, parts, start)
		}
	}()
	within := ctx
	if d := b.probeTime(parts); d > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	b.decide(within, requests, results, func(i int) bool { return of[i] >= 0 && !parts[of[i]].asked })
	for i := range results {
		if of[i] >= 0 {
			parts[of[i]].note(results[i].Err)
		}
	}
	ended = true
	b.end(ctx, parts, start)
}

// probeTime returns for how long a call waits that does nothing but probe, or 0 if it is
// another. A server that is back does not need the whole timeout, which may be seconds.
func (b *Breaker) probeTime(parts []part) (d time.Duration) {
	for i := range parts {
		switch p := &parts[i]; {
		case !p.asked:
		case !p.probe:
			return 0
		default:
			d = max(d, p.circuit.probeTime())
		}
	}
	if d >= b.timeout {
		return 0
	}
	return d
}

// end tells the circuits that let the call through how their servers did.
func (b *Breaker) end(ctx context.Context, parts []part, start time.Time) {
	now := time.Now()
	for i := range parts {
		if p := &parts[i]; p.asked {
			p.circuit.end(p.verdict(ctx, now.Sub(start), b.timeout), p.probe, start, now)
		}
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
		p.cut = p.cut || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	}
}

// verdict returns how the server did in a call that took so long.
func (p *part) verdict(ctx context.Context, took, timeout time.Duration) verdict {
	switch {
	case p.decided:
		return answered
	case !p.failed:
		return nothing
	case (p.cut || store.CallerGone(ctx) != nil) && took < min(timeout, p.circuit.fair()):
		return nothing
	default:
		return failed
	}
}
