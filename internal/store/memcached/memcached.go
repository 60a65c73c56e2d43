// Package memcached keeps counters in memcached, with compare and swap. It reads an
// identifier's counters, decides the request in this process, and writes the
// counters if nobody else has written them since. Otherwise it starts again. Daemons
// that share the servers share the counters.
//
// All counters of an identifier are in one item, so that a request consumes from all
// of its limits or from none. A request that consumes nothing, such as a denied one
// or a dry run, writes nothing.
//
// The wall clock of the process decides, so daemons that share counters should have
// synchronized clocks. A daemon whose clock is ahead lets windows end early by that
// much, and moves shared counters to its own time.
//
// Counters that memcached drops start again, unused. It drops items when it restarts
// and when its memory is full. When servers are added or removed, some keys move to
// another server.
package memcached

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Store is a store.Store in memcached. New makes it.
type Store struct {
	editor
	servers []*server
	prefix  string        // of all keys
	slack   time.Duration // how long counters are kept after they are unused

	log     *slog.Logger
	values  lograte.Gate  // of what is logged of corrupt items
	corrupt atomic.Uint64 // for the metrics

	closing context.CancelFunc // closes all connections
}

var _ store.Store = (*Store)(nil)

// New returns a store. It connects when it is first used. The error says which option
// is wrong.
func New(o Options) (*Store, error) {
	if err := o.Check(); err != nil {
		return nil, fmt.Errorf("memcached store: %w", err)
	}
	o = o.withDefaults()
	ctx, closing := context.WithCancel(context.Background())
	s := &Store{prefix: o.KeyPrefix, log: o.Logger, closing: closing, editor: editor{
		goroutines: goroutines{panics: o.Panics}, turns: turns{waiting: map[string][]*edit{}},
		timeout: o.Timeout, maxAttempts: o.MaxAttempts, now: o.Now,
	}}
	for _, addr := range o.Addrs {
		s.servers = append(s.servers, newServer(ctx, addr, o, &s.goroutines))
	}
	return s, nil
}

// Decide reads the counters of all requests in one round trip to each server, and then
// writes those that changed. It writes the counters of an identifier once, however
// many of the requests are about it.
//
// Decide returns at once when ctx or the store's timeout ends, or a little before the
// deadline of ctx. It cannot take back
// what it has sent to a server by then. The connection stays busy until the answer
// comes, at most for the timeout, or for twice the timeout if it was not open yet. A
// write that is under way may still happen.
func (s *Store) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	by := caller{ctx, store.Deadline(ctx, s.timeout)}
	var edits []*edit
	var byKey map[string]*edit // nil if there is one request
	if len(requests) > 1 {
		byKey = make(map[string]*edit, len(requests))
	}
	for i := range requests {
		r := &requests[i]
		if !r.Counts() {
			results[i].All(r, func(_ *store.Request, res *store.Result) { res.Err = nil })
			new(item).decide(r, &results[i], s.now(), s.slack)
			continue
		}
		e := s.edit(r)
		if same := byKey[e.key]; same != nil {
			same.requests = append(same.requests, i)
			continue
		}
		if byKey != nil {
			byKey[e.key] = e
		}
		edits = append(edits, e)
		e.requests = []int{i}
		e.change = func(it *item, now strategy.Instant) (changed bool) {
			for _, i := range e.requests {
				if it.decide(&requests[i], &results[i], now, s.slack) {
					changed = true
				}
			}
			return changed
		}
	}
	s.run(by, edits)
	for _, e := range edits {
		err := e.result()
		if errors.Is(err, errCorrupt) {
			s.noteCorrupt(err)
		}
		for _, i := range e.requests {
			results[i].All(&requests[i], func(_ *store.Request, res *store.Result) { res.Err = err })
		}
	}
}

// noteCorrupt counts and logs a corrupt item.
func (s *Store) noteCorrupt(err error) {
	s.corrupt.Add(1)
	if n := s.values.Pass(time.Now()); n > 0 {
		s.log.Error("memcached: an item holds what this program did not write; find out who did, or give this program its own memcached", "error", err, "times", n)
	}
}

// DecidesTogether reports whether r is of one identifier: each has an item of its own.
func (s *Store) DecidesTogether(r *store.Request) bool { return r.Alone() }

// Reset removes the counters of r from their item. It takes one round trip to read the
// item, and, if a counter is there, one to write the rest.
func (s *Store) Reset(ctx context.Context, r *store.Request) error {
	if !r.Counts() {
		return nil
	}
	e := s.edit(r)
	e.change = func(it *item, _ strategy.Instant) (changed bool) {
		// One that has expired is written too: somebody may have decided by it a moment
		// ago, and be about to write.
		changed = it.expired
		for i := range r.Limits {
			if it.remove(&r.Limits[i]) {
				changed = true
			}
		}
		return changed
	}
	s.run(caller{ctx, time.Now().Add(s.timeout)}, []*edit{e})
	if errors.Is(e.err, errCorrupt) { // it is removed, as it should be
		return nil
	}
	return e.err
}

// edit returns an edit of the item with the counters of r.
func (s *Store) edit(r *store.Request) *edit {
	var buf [2 * maxKeyBytes]byte
	key := string(appendKey(buf[:0], s.prefix, r.Namespace, r.Identifier))
	return &edit{key: key, server: pick(s.servers, key)}
}

// ServerOf returns the address of the server that has the counters of r.
func (s *Store) ServerOf(_ context.Context, r *store.Request) string {
	if len(s.servers) == 1 {
		return s.servers[0].addr
	}
	return s.edit(r).server.addr
}

// Health returns an error if decisions that consume do not work at more than half of the
// servers. Otherwise most identifiers are still counted.
func (s *Store) Health(ctx context.Context) error {
	requests := s.healthSample()
	results := make([]store.Result, len(requests))
	s.Decide(ctx, requests, results)
	var errs []error
	for i := range results {
		if err := results[i].Err; err != nil {
			errs = append(errs, err)
		}
	}
	if 2*len(errs) <= len(requests) {
		return nil
	}
	return errors.Join(errs...)
}

// healthSample returns a request for each server.
func (s *Store) healthSample() []store.Request {
	requests := make([]store.Request, 0, len(s.servers))
	seen := make(map[string]bool, len(s.servers))
	for i := 0; len(requests) < len(s.servers) && i < 100*len(s.servers); i++ { // which finds all but by a miracle
		r := store.HealthSample(i)
		if on := s.edit(&r).server.addr; !seen[on] {
			seen[on] = true
			requests = append(requests, r)
		}
	}
	return requests
}

// Close closes all connections.
func (s *Store) Close() error {
	s.closing()
	s.running.Wait()
	for _, server := range s.servers {
		server.closeIdle() // they may be closed already
	}
	return nil
}
