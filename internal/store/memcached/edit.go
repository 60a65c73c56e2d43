package memcached

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/sleep"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// firstPause is the longest wait before the second attempt. It is about the time
	// from a read to its write. Each further attempt may wait twice as long, up to
	// longestPause.
	firstPause   = time.Millisecond
	longestPause = 16 * time.Millisecond
)

// An edit is a change of one item. It reads the item, changes it, and writes it if
// nobody else has written it since.
type edit struct {
	key      string
	server   *server
	requests []int // the indices of the requests whose counters are in the item
	// change changes the item that was read, and reports whether there is anything to
	// write. After a conflict it is called again, with the item read again.
	change func(it *item, now strategy.Instant) (changed bool)

	found   *memcache.Item // what was read; nil if there is no item
	corrupt bool           // whether that could not be read: the item is then removed
	next    *memcache.Item // what to write
	err     error          // why the edit failed

	// These are for an edit that waits for its turn: see turns.
	carried chan struct{} // closed when another goroutine has made the edit
	mu      sync.Mutex    // protects left, err, and what change sets
	left    bool          // whether the caller has stopped waiting
}

var (
	errConflict = fmt.Errorf("%w: somebody else wrote them in between", store.ErrCounters)
	errTooLarge = errors.New("that is more than the server allows for one item; run memcached with a greater -I, or lower the counts of sliding_window_log limits")
	errCorrupt  = fmt.Errorf("%w: their item was corrupt, and they start again", store.ErrCounters)
)

// run makes edits of different items: first all reads together, then all writes
// together. It repeats both for the edits that met a conflict.
func (s *Store) run(ctx context.Context, edits []*edit) {
	s.read(ctx, edits)
	changed := s.apply(edits)
	// Several edits take no turns: each could keep others waiting until the slowest
	// of them is done.
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

// finish writes the edits. It reads, changes and writes again those that met a
// conflict, until the attempts run out.
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
			e.err = fmt.Errorf("%w, at each of %d attempts to write %s", e.err, attempt, quote.Cut(e.key))
			if err != nil {
				e.err = fmt.Errorf("%w: %w", e.err, err)
			}
		}
		return
	}
}

// pause waits after attempt and before the next. It waits for a random time, so that
// writers which met in a conflict do not meet again.
func pause(ctx context.Context, attempt int) error {
	most := longestPause
	if shift := attempt - 1; shift < 8 {
		most = min(most, firstPause<<shift)
	}
	if !sleep.For(ctx, rand.N(most)) {
		return ctx.Err()
	}
	return nil
}

// read reads the items of edits. What several callers read at the same time goes to a
// server together.
func (s *Store) read(ctx context.Context, edits []*edit) {
	type reading struct {
		on    *server
		edits []*edit
		keys  []string
		read  *read
	}
	readings := make([]*reading, 0, 1)
	for _, e := range edits {
		n := slices.IndexFunc(readings, func(r *reading) bool { return r.on == e.server })
		if n < 0 {
			n = len(readings)
			readings = append(readings, &reading{on: e.server})
		}
		r := readings[n]
		r.edits, r.keys = append(r.edits, e), append(r.keys, e.key)
	}
	for _, r := range readings {
		r.read = s.startRead(r.on, r.keys)
	}
	for _, r := range readings {
		items, err := r.read.await(ctx, r.on)
		err = r.on.named(err)
		for _, e := range r.edits {
			e.found, e.err = items[e.key], err
		}
	}
}

// result returns why e failed, or nil.
func (e *edit) result() error {
	if e.err == nil && e.corrupt {
		return fmt.Errorf("memcached %s: %w: %s", e.server.addr, errCorrupt, quote.Cut(e.key))
	}
	return e.err
}

// apply changes the items that could be read, and returns the edits that have
// something to write. An item that is corrupt is emptied instead.
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
		it := parseItem(value, now)
		it.max = e.server.maxItem()
		changes := !it.corrupt && e.change(it, now)
		if e.corrupt = it.corrupt; e.corrupt {
			it, changes = new(item), true
		}
		s.evicted.Add(it.evicted)
		s.full.Add(it.refused)
		if changes {
			e.next = &memcache.Item{Key: e.key, Value: it.encode(), Expiration: it.expiration(now)}
			changed = append(changed, e)
		}
	}
	return changed
}

// write writes the items of edits, and returns the edits that met a conflict.
func (s *Store) write(ctx context.Context, edits []*edit) (conflicting []*edit) {
	writes := make([]*write, len(edits))
	for i, e := range edits {
		if e.found != nil {
			e.next.CasID = e.found.CasID
		}
		writes[i] = s.startWrite(e.server, e.next, e.found == nil)
	}
	for i, e := range edits {
		e.err = e.server.named(writes[i].await(ctx, e.server))
		if errors.Is(e.err, errConflict) || errors.Is(e.err, errTooLarge) {
			conflicting = append(conflicting, e)
		}
	}
	return conflicting
}

// named returns err with the address of s, or nil.
func (s *server) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("memcached %s: %w", s.addr, quote.Error(err))
}

// writeError returns what err means. err is the result of writing the item it.
func (s *server) writeError(err error, it *memcache.Item) error {
	switch {
	case errors.Is(err, memcache.ErrNotStored), errors.Is(err, memcache.ErrCASConflict), errors.Is(err, memcache.ErrCacheMiss):
		return errConflict
	case err != nil && strings.Contains(err.Error(), "too large"):
		s.tooLarge(len(it.Value))
		return fmt.Errorf("the counters of %s take %d bytes: %w: %w: %w", quote.Cut(it.Key), len(it.Value), errTooLarge, store.ErrCounters, quote.Error(err))
	default:
		return err
	}
}

// do makes an exchange with a server, for which there is a slot, and frees the slot. The
// error of one that panics says nothing of the server.
func (s *Store) do(on *server, exchange func() error) (err error) {
	defer func() { <-on.slots }()
	defer s.panics.Recover("a call of memcached", func(e error) { err = fmt.Errorf("%w: %w", store.ErrCounters, e) })
	return exchange()
}

// send makes one exchange with a server. It stops waiting when ctx ends. One that has no
// connection by then is not made.
func (s *Store) send(ctx context.Context, on *server, exchange func() error) error {
	answer := make(chan error, 1)
	s.running.Go(func() {
		select {
		case on.slots <- struct{}{}:
			answer <- s.do(on, exchange)
		case <-ctx.Done():
		}
	})
	select {
	case err := <-answer:
		return on.named(err)
	case <-ctx.Done():
		return on.named(ctx.Err())
	}
}
