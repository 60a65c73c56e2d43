package memcached

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// firstPause is about what a write takes from its read on: the longest
	// wait before a second attempt. Each further attempt may wait twice as
	// long, up to longestPause.
	firstPause   = time.Millisecond
	longestPause = 16 * time.Millisecond
)

// An edit is a change to one item, made by reading it, and writing it if it is
// still what was read.
type edit struct {
	key      string
	server   *server
	requests []int // indices of those whose counters these are
	// change changes what was read, and reports whether there is anything to
	// write. After a conflict it is called again, on what was read then.
	change func(it *item, now strategy.Instant) (changed bool)

	found *memcache.Item // what was read; nil if there is none
	next  *memcache.Item // what to write
	err   error          // why the edit failed

	// Of an edit that waits to be carried:
	carried chan struct{} // closed once it has been
	mu      sync.Mutex    // protects the following, err, and what change sets
	left    bool          // whether its caller waits no more
}

var (
	errConflict = fmt.Errorf("%w: another write came between", store.ErrCounters)
	errSilent   = errors.New("no answer yet")
)

// run makes edits, of different items: all reads at once, then all writes, and
// so again with those that met conflicts.
func (s *Store) run(ctx context.Context, edits []*edit) {
	s.read(ctx, edits)
	changed := s.apply(edits)
	// Several could keep others waiting for as long as the slowest of them
	// takes: they take no turns.
	if len(edits) > 1 || len(changed) == 0 {
		s.finish(ctx, changed)
		return
	}
	e := edits[0]
	if !s.turns.take(e) {
		e.await(ctx)
		return
	}
	defer func() {
		if waiting := s.turns.leave(e.key); waiting != nil {
			s.running.Go(func() { s.carry(e.key, e.server, waiting) })
		}
	}()
	s.finish(ctx, changed)
}

// finish writes what edits have changed, and reads, changes and writes again
// what met a conflict.
func (s *Store) finish(ctx context.Context, edits []*edit) {
	for attempt := 1; ; attempt++ {
		if edits = s.write(ctx, edits); len(edits) == 0 {
			return
		}
		s.conflicts.Add(uint64(len(edits)))
		var err error
		if attempt < s.maxAttempts {
			if err = pause(ctx, attempt); err == nil {
				s.read(ctx, edits)
				edits = s.apply(edits)
				continue
			}
		}
		s.exhausted.Add(uint64(len(edits)))
		for _, e := range edits {
			e.err = fmt.Errorf("%w, at each of %d attempts to write %q", e.err, attempt, e.key)
			if err != nil {
				e.err = fmt.Errorf("%w: %w", e.err, err)
			}
		}
		return
	}
}

// pause waits before the attempt that follows attempt: for a random time, so
// that those who met do not meet again.
func pause(ctx context.Context, attempt int) error {
	most := longestPause
	if shift := attempt - 1; shift < 8 {
		most = min(most, firstPause<<shift)
	}
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read reads the items of edits, in one round trip to each server.
func (s *Store) read(ctx context.Context, edits []*edit) {
	type reading struct {
		edits []*edit
		keys  []string
		items map[string]*memcache.Item
	}
	var readings []*reading
	var calls []call
	of := make(map[*server]*reading, 1)
	for _, e := range edits {
		r := of[e.server]
		if r == nil {
			r = new(reading)
			of[e.server] = r
			readings = append(readings, r)
			calls = append(calls, call{e.server, func() (err error) {
				r.items, err = e.server.get(r.keys)
				return err
			}})
		}
		r.edits, r.keys = append(r.edits, e), append(r.keys, e.key)
	}
	for i, err := range s.send(ctx, calls) {
		for _, e := range readings[i].edits {
			if e.err = err; err == nil { // or else the items may be still being read
				e.found = readings[i].items[e.key]
			}
		}
	}
}

// apply applies the edits whose items could be read, and returns those that
// have something to write.
func (s *Store) apply(edits []*edit) (changed []*edit) {
	now := s.now()
	for _, e := range edits {
		if e.err != nil {
			continue
		}
		var value []byte
		if e.found != nil {
			value = e.found.Value
		}
		if it := parseItem(value, now); e.change(it, now) {
			e.next = &memcache.Item{Key: e.key, Value: it.encode(), Expiration: it.expiration(now)}
			changed = append(changed, e)
		}
	}
	return changed
}

// write writes what edits have changed, and returns those that met a conflict.
func (s *Store) write(ctx context.Context, edits []*edit) (conflicting []*edit) {
	calls := make([]call, len(edits))
	for i, e := range edits {
		next, put := e.next, e.server.client.Add
		if e.found != nil {
			next.CasID, put = e.found.CasID, e.server.client.CompareAndSwap
		}
		calls[i] = call{e.server, func() error { return writeError(put(next), next) }}
	}
	for i, err := range s.send(ctx, calls) {
		e := edits[i]
		if e.err = err; errors.Is(err, errConflict) {
			conflicting = append(conflicting, e)
		}
	}
	return conflicting
}

// writeError returns what err, of writing it, means.
func writeError(err error, it *memcache.Item) error {
	switch {
	case errors.Is(err, memcache.ErrNotStored), errors.Is(err, memcache.ErrCASConflict), errors.Is(err, memcache.ErrCacheMiss):
		return errConflict
	case err != nil && strings.Contains(err.Error(), "too large"):
		return fmt.Errorf("the counters of %q take %d bytes, more than the server takes in one item: have sliding_window_log limits of lower counts, or run memcached with a greater -I: %w: %w", it.Key, len(it.Value), store.ErrCounters, err)
	default:
		return err
	}
}

// A call is an exchange with a server. What do sets is the caller's once it
// has returned.
type call struct {
	server *server
	do     func() error
}

// send makes calls, all at once, and returns their errors. It does not wait
// for them beyond ctx; those that wait for a connection by then are not made.
func (s *Store) send(ctx context.Context, calls []call) []error {
	type answer struct {
		call int
		err  error
	}
	answers := make(chan answer, len(calls))
	for i, c := range calls {
		s.running.Go(func() {
			select {
			case c.server.slots <- struct{}{}:
				err := c.do()
				<-c.server.slots
				answers <- answer{i, err}
			case <-ctx.Done():
			}
		})
	}
	errs := make([]error, len(calls))
	for i := range errs {
		errs[i] = errSilent
	}
	for silent := len(calls); silent > 0; silent-- {
		select {
		case a := <-answers:
			errs[a.call] = a.err
			continue
		case <-ctx.Done():
		}
		for i := range errs {
			if errors.Is(errs[i], errSilent) {
				errs[i] = ctx.Err()
			}
		}
		break
	}
	for i, err := range errs {
		if err != nil {
			errs[i] = fmt.Errorf("memcached %s: %w", calls[i].server.addr, err)
		}
	}
	return errs
}
