package memcached

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

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

// An editor makes edits.
type editor struct {
	goroutines
	turns       turns
	timeout     time.Duration // of a round
	maxAttempts int
	now         func() strategy.Instant

	conflicts, exhausted, evicted, full atomic.Uint64 // for the metrics
}

// run makes edits of different items: first all reads together, then all writes
// together. It repeats both for the edits that met a conflict.
func (d *editor) run(by caller, edits []*edit) {
	d.read(by, edits)
	changed := d.apply(edits)
	// Several edits take no turns: each could keep others waiting until the slowest
	// of them is done.
	if len(edits) > 1 || len(changed) == 0 {
		d.finish(by, changed)
		return
	}
	e := edits[0]
	if !d.turns.take(e) {
		e.await(by)
		return
	}
	defer func() {
		if waiting := d.turns.leave(e.key); waiting != nil {
			d.running.Go(func() { d.carry(e.key, e.server, waiting) })
		}
	}()
	d.finish(by, changed)
}

// finish writes the edits. It reads, changes and writes again those that met a
// conflict, until the attempts run out.
func (d *editor) finish(by caller, edits []*edit) {
	for attempt := 1; ; attempt++ {
		if edits = d.write(by, edits); len(edits) == 0 {
			return
		}
		d.conflicts.Add(uint64(len(edits)))
		var err error
		if attempt < d.maxAttempts {
			if err = by.pause(attempt); err == nil {
				d.read(by, edits)
				edits = d.apply(edits)
				continue
			}
		}
		d.exhausted.Add(uint64(len(edits)))
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
func (c caller) pause(attempt int) error {
	most := longestPause
	if shift := attempt - 1; shift < 8 {
		most = min(most, firstPause<<shift)
	}
	ctx, cancel := context.WithDeadline(c.ctx, c.deadline)
	defer cancel()
	if !sleep.For(ctx, rand.N(most)) {
		return ctx.Err()
	}
	return nil
}

// read reads the items of edits, those of a server together.
func (d *editor) read(by caller, edits []*edit) {
	for i, e := range edits {
		same := slices.IndexFunc(edits[:i], func(other *edit) bool { return other.server == e.server })
		if same < 0 {
			e.asked, e.at = newRead(e.key), 0
			continue
		}
		e.asked = edits[same].asked
		e.at = e.asked.add(e.key)
	}
	for _, e := range edits {
		if e.at == 0 {
			e.server.send(e.asked)
		}
	}
	for _, e := range edits {
		if e.err = e.server.named(e.server.await(by, e.asked)); e.err == nil {
			e.found = e.asked.found[e.at]
		}
	}
}

// apply changes the items that could be read, and returns the edits that have
// something to write. An item that is corrupt is emptied instead.
func (d *editor) apply(edits []*edit) (changed []*edit) {
	now := d.now()
	for _, e := range edits {
		if e.err != nil {
			continue
		}
		it := parseItem(e.found.value, now)
		it.max = e.server.maxItem()
		changes := !it.corrupt && e.change(it, now)
		if e.corrupt = it.corrupt; e.corrupt {
			it, changes = new(item), true
		}
		d.evicted.Add(it.evicted)
		d.full.Add(it.refused)
		if changes {
			e.next = write{key: e.key, value: it.encode(), expiration: it.expiration(now), add: !e.found.there, cas: e.found.cas}
			changed = append(changed, e)
		}
	}
	return changed
}

// write writes the items of edits, and returns the edits that met a conflict.
func (d *editor) write(by caller, edits []*edit) (conflicting []*edit) {
	for _, e := range edits {
		e.asked = e.server.send(newWrite(e.next))
	}
	for _, e := range edits {
		e.err = e.server.writeError(e.server.await(by, e.asked), &e.next)
		if errors.Is(e.err, errConflict) || errors.Is(e.err, errTooLarge) {
			conflicting = append(conflicting, e)
		}
	}
	return conflicting
}

// carry makes the waiting edits of an item together. Then it does the same with those
// that came meanwhile, until no edit waits. Each round may take as long as the
// store's timeout, even if a caller stops waiting before that, because the other
// callers still wait.
func (d *editor) carry(key string, on *server, waiting []*edit) {
	for ; waiting != nil; waiting = d.turns.leave(key) {
		err := d.carryOnce(key, on, waiting)
		for _, e := range waiting {
			e.answer(err)
		}
	}
}

// carryOnce makes edits of an item together. If one of them panics, none is made.
func (d *editor) carryOnce(key string, on *server, waiting []*edit) (err error) {
	defer d.panics.Recover("decisions carried to memcached", func(e error) { err = fmt.Errorf("%w: %w", store.ErrCounters, e) })
	by := caller{context.Background(), time.Now().Add(d.timeout)}
	all := []*edit{{key: key, server: on, change: func(it *item, now strategy.Instant) (changed bool) {
		for _, e := range waiting {
			changed = e.changeCarried(it, now) || changed
		}
		return changed
	}}}
	d.read(by, all)
	d.finish(by, d.apply(all))
	return all[0].result()
}
