package memcached

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// itemVersion is the first byte of each item's value, and says how to read the rest. A
// value of another version reads as one without counters.
const itemVersion = 2

// maxRelative is the longest expiry in seconds from now. The protocol reads a greater
// number as a Unix time.
const maxRelative = 30 * 24 * 60 * 60

// maxItemBytes is the greatest value that a memcached accepts by default, which
// allows 1 MB for the value, the key and what it notes of an item. A server that
// allows less has its own bound lowered: see server.tooLarge.
const maxItemBytes = 1<<20 - 1024

// An item has the counters of one identifier. Its bytes are the version, followed by
// the name, the instant of expiry, the instant until which it denies, the part that is
// used, and the body of each counter. Before a name and a body there is its length. All
// numbers are varints.
type item struct {
	counters []counter
	max      int // how many bytes there is room for: see full.go

	grown            int // at least as many bytes as it takes now
	evicted, refused uint64
	one              [1]counter // room for counters: most have one
	expired          bool       // whether there were counters that have expired
	corrupt          bool       // whether its bytes, or those of a counter that was needed, are none of ours
}

// parseItem reads the counters in value that have not expired. The item refers to
// value, so the caller must not change value. An item of no bytes has no counters.
func parseItem(value []byte, now strategy.Instant) *item {
	it := &item{max: maxItemBytes, grown: len(value)}
	it.counters = it.one[:0]
	if len(value) == 0 {
		return it
	}
	if value[0] != itemVersion {
		it.corrupt = true
		return it
	}
	for b := value[1:]; len(b) > 0; {
		var c counter
		var expires, denies, used uint64
		ok := cutBytes(&b, &c.name) && cutNumber(&b, &expires, math.MaxInt64) && cutNumber(&b, &denies, math.MaxInt64) && cutNumber(&b, &used, allUsed) && cutBytes(&b, &c.body)
		if !ok || len(c.name) == 0 {
			return &item{max: maxItemBytes, corrupt: true}
		}
		c.denies, c.used = strategy.Instant(denies), uint8(used)
		if c.expires = strategy.Instant(expires); c.expires > now {
			it.counters = append(it.counters, c)
		} else {
			it.expired = true
		}
	}
	return it
}

// encode returns the bytes that parseItem reads as it.
func (it *item) encode() []byte {
	b := append(make([]byte, 0, it.grown+maxCounterBytes), itemVersion)
	for i := range it.counters {
		c := &it.counters[i]
		b = appendBytes(b, c.name)
		b = binary.AppendUvarint(b, uint64(c.expires))
		b = binary.AppendUvarint(b, uint64(c.denies))
		b = append(b, c.used)
		var body [3 * binary.MaxVarintLen64]byte
		b = appendBytes(b, c.appendBody(body[:0]))
	}
	return b
}

// consume is decide as if there were room for everything.
func (it *item) consume(r *store.Request, res *store.Result, now strategy.Instant, slack time.Duration) (changed bool) {
	decide := func(dryRun bool) (refused bool) {
		res.All(r, func(r *store.Request, res *store.Result) {
			a := r.Ask(now)
			a.DryRun = a.DryRun || dryRun
			changed = it.consumeOne(r, a, &res.Decision, slack) || changed
			refused = refused || res.Refused
		})
		return refused
	}
	if len(r.With) > 0 && decide(true) {
		return changed
	}
	decide(false)
	return changed
}

// consumeOne decides r alone, which asks a.
func (it *item) consumeOne(r *store.Request, a strategy.Ask, d *strategy.Decision, slack time.Duration) (changed bool) {
	var buf [strategy.MaxNameBytes + 4*binary.MaxVarintLen64]byte
	var states, before [strategy.MaxLimits]strategy.State
	for i := range r.Limits {
		l := &r.Limits[i]
		if l.Rate.IsUnlimited() {
			continue
		}
		n := it.find(appendName(buf[:0], l))
		switch {
		case n >= 0:
			c := &it.counters[n]
			it.corrupt = !c.parse(l) || it.corrupt
			changed = c.settle(l, a.Now, slack) || changed
			states[i] = c.view(l, a)
		case l.Strategy == strategy.SlidingWindowLog:
			states[i] = new(strategy.Log).View(l, a)
		}
	}
	before = states
	consumed := d.Decide(r.Limits, states[:len(r.Limits)], a)
	for i := range r.Limits {
		l := &r.Limits[i]
		if l.Capacity == 0 || !consumed.From(l) || !moved(l, &before[i], &states[i]) {
			continue
		}
		name := appendName(buf[:0], l)
		n := it.find(name)
		if n < 0 {
			n = len(it.counters)
			it.counters = append(it.counters, counter{name: bytes.Clone(name)})
		}
		c := &it.counters[n]
		if l.Strategy == strategy.SlidingWindowLog {
			c.log.Apply(l, a)
		}
		c.state = states[i]
		c.note(l, &d.Statuses[i], a.Now, slack)
		changed = true
	}
	return changed
}

// moved reports whether a counter of l has changed: one may have nothing to give back,
// or no room for more debt.
func moved(l *strategy.Limit, before, after *strategy.State) bool {
	if l.Strategy == strategy.SlidingWindowLog {
		return before.Used != after.Used
	}
	return *before != *after
}

// remove removes the counter of l, and reports whether there was one.
func (it *item) remove(l *strategy.Limit) bool {
	n := it.find(appendName(nil, l))
	if n < 0 {
		return false
	}
	it.counters = slices.Delete(it.counters, n, n+1)
	return true
}

// find returns the index of the counter called name, or -1.
func (it *item) find(name []byte) int {
	for i := range it.counters {
		if bytes.Equal(it.counters[i].name, name) {
			return i
		}
	}
	return -1
}

// expiration returns when memcached may drop the item, in the form of the protocol: a
// second after all its counters have expired. The protocol has no times after January
// 2038. An item that expires later stays until memcached evicts it.
func (it *item) expiration(now strategy.Instant) int32 {
	if len(it.counters) == 0 {
		return -1 // at once
	}
	last := now
	for i := range it.counters {
		last = max(last, it.counters[i].expires)
	}
	if relative := seconds(last-now) + 1; relative <= maxRelative {
		return int32(relative)
	}
	if absolute := seconds(last) + 1; absolute <= math.MaxInt32 {
		return int32(absolute)
	}
	return 0 // never
}

// seconds returns t in seconds, rounded up.
func seconds(t strategy.Instant) int64 {
	return (int64(t) + int64(time.Second/time.Microsecond) - 1) / int64(time.Second/time.Microsecond)
}
