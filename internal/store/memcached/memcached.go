// Package memcached is the store of counters in memcached, by compare and
// swap: an identifier's counters are read, the request is decided here, and
// they are written back if nobody else has meanwhile; or else it is all done
// again. Daemons that share the servers share the counters.
//
// All counters of an identifier are one item, so that a request consumes from
// all of its limits or from none. A request that consumes nothing, being
// denied or a dry run, writes nothing.
//
// The process's wall clock decides: daemons that share counters should keep
// theirs in step. One that is ahead lets windows end early by as much, and
// moves the others' counters on to its own time.
//
// What memcached drops (when it restarts, when its memory is full, when a
// server comes or goes and keys move) starts afresh, wholly unused.
package memcached

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// DefaultAddr is where a memcached listens if nobody says otherwise.
	DefaultAddr = "127.0.0.1:11211"
	// DefaultTimeout is many times a round trip within a data centre, and
	// still a delay that a caller can bear.
	DefaultTimeout = 50 * time.Millisecond
	// DefaultMaxConns is far more than are ever busy while a server keeps up.
	DefaultMaxConns = 64
	// DefaultMaxAttempts is more than DefaultTimeout leaves time for.
	DefaultMaxAttempts = 16
)

// Options say how to make a Store. The zero Options are the defaults.
type Options struct {
	// Addrs are the servers, as host:port. Several share the identifiers, by
	// consistent hashing of the addresses as they are written here: so all
	// daemons should be given the same, in any order. None is DefaultAddr.
	Addrs []string
	// Timeout bounds each call. 0 is DefaultTimeout.
	Timeout time.Duration
	// MaxConns bounds the connections to each server; they are kept open. Who
	// finds all of them busy waits. 0 is DefaultMaxConns.
	MaxConns int
	// MaxAttempts is how often a write is tried that meets conflicts, if the
	// timeout allows as many. 0 is DefaultMaxAttempts.
	MaxAttempts int
	// Now is the clock. nil is the wall clock.
	Now func() strategy.Instant
}

// A Store is a store.Store in memcached. New makes it.
type Store struct {
	servers     []*server
	timeout     time.Duration
	maxAttempts int
	now         func() strategy.Instant
	slack       time.Duration // which counters outlive their last use by

	turns                turns
	conflicts, exhausted atomic.Uint64 // for the metrics

	closing context.CancelFunc // closes all connections
	running sync.WaitGroup     // calls to servers, and who carries
}

var _ store.Store = (*Store)(nil)

// New returns a store that connects when it is first used. The error says
// which option is wrong.
func New(o Options) (*Store, error) {
	if err := o.Check(); err != nil {
		return nil, fmt.Errorf("memcached store: %w", err)
	}
	if len(o.Addrs) == 0 {
		o.Addrs = []string{DefaultAddr}
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = DefaultMaxAttempts
	}
	if o.Now == nil {
		o.Now = func() strategy.Instant { return strategy.InstantOf(time.Now()) }
	}
	ctx, closing := context.WithCancel(context.Background())
	s := &Store{timeout: o.Timeout, maxAttempts: o.MaxAttempts, now: o.Now, turns: turns{waiting: map[string][]*edit{}}, closing: closing}
	for _, addr := range o.Addrs {
		s.servers = append(s.servers, newServer(ctx, addr, o))
	}
	return s, nil
}

// Decide reads the counters of all requests in one round trip to each server,
// and then writes those that changed: an identifier's once, however many of
// the requests are its.
//
// When ctx ends, or the store's timeout, Decide returns at once. What it has
// asked a server by then can not be called back: its connection stays busy
// until the answer comes, or for the timeout at most (twice that where it had
// yet to be dialled), and a write under way may still happen.
func (s *Store) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()

	var edits []*edit
	byKey := make(map[string]*edit, 1)
	for i := range requests {
		r := &requests[i]
		if !r.Counts() {
			results[i].Err = nil
			new(item).decide(r, &results[i].Decision, s.now(), s.slack)
			continue
		}
		e := s.edit(r)
		if same := byKey[e.key]; same != nil {
			same.requests = append(same.requests, i)
			continue
		}
		byKey[e.key] = e
		edits = append(edits, e)
		e.requests = []int{i}
		e.change = func(it *item, now strategy.Instant) (changed bool) {
			for _, i := range e.requests {
				if it.decide(&requests[i], &results[i].Decision, now, s.slack) {
					changed = true
				}
			}
			return changed
		}
	}
	s.run(ctx, edits)
	for _, e := range edits {
		for _, i := range e.requests {
			results[i].Err = e.err
		}
	}
}

// Reset drops the counters of r from their item: one round trip to read it,
// and, if any is there, one to write what remains.
func (s *Store) Reset(ctx context.Context, r *store.Request) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if !r.Counts() {
		return nil
	}
	e := s.edit(r)
	e.change = func(it *item, _ strategy.Instant) (changed bool) {
		for i := range r.Limits {
			if it.remove(&r.Limits[i]) {
				changed = true
			}
		}
		return changed
	}
	s.run(ctx, []*edit{e})
	return e.err
}

// edit returns an edit of the item that holds the counters of r.
func (s *Store) edit(r *store.Request) *edit {
	key := string(appendKey(nil, r.Namespace, r.Identifier))
	return &edit{key: key, server: pick(s.servers, key)}
}

// ServerOf returns the address of the server that has the counters of r.
func (s *Store) ServerOf(_ context.Context, r *store.Request) string {
	if len(s.servers) == 1 {
		return s.servers[0].addr
	}
	return s.edit(r).server.addr
}

// Health reports which servers do not answer, if it is more than half of them:
// with fewer, most identifiers are still counted.
func (s *Store) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	calls := make([]call, len(s.servers))
	for i, server := range s.servers {
		calls[i] = call{server, server.client.Ping}
	}
	errs := slices.DeleteFunc(s.send(ctx, calls), func(err error) bool { return err == nil })
	if 2*len(errs) <= len(s.servers) {
		return nil
	}
	return errors.Join(errs...)
}

// Close closes all connections.
func (s *Store) Close() error {
	s.closing()
	s.running.Wait()
	for _, server := range s.servers {
		_ = server.client.Close() // of connections that may be closed already
	}
	return nil
}
