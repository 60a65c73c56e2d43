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

// maxLife is how long a counter is kept without use. A bucket with a great burst and a
// low rate would need longer.
const maxLife = 366 * 24 * time.Hour

// maxRelative is the longest expiry in seconds from now. The protocol reads a greater
// number as a Unix time.
const maxRelative = 30 * 24 * 60 * 60

// An item has the counters of one identifier. Its bytes are the version, followed by
// the name, the instant of expiry, the instant until which it denies, the part that is
// used, and the body of each counter. Before a name and a body there is its length. All
// numbers are varints.
type item struct {
	counters []counter
	max      int // how many bytes there is room for: see full.go

	grown            int // at least as many bytes as it takes now
	evicted, refused uint64
	expired          bool // whether there were counters that have expired
	corrupt          bool // whether its bytes, or those of a counter that was needed, are none of ours
}

// A counter is one counter of an item. Its body stays as it was read until its state
// or its log is needed.
type counter struct {
	name    []byte // see appendName
	expires strategy.Instant
	denies  strategy.Instant // until when it denies a cost of 1, as of its last use
	used    uint8            // the part of the limit that was used then, in percent
	body    []byte           // nil once it was parsed into state or log
	state   strategy.State
	log     strategy.Log
}

// parseItem reads the counters in value that have not expired. The item refers to
// value, so the caller must not change value. An item of no bytes has no counters.
func parseItem(value []byte, now strategy.Instant) *item {
	it := &item{max: maxItemBytes, grown: len(value)}
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
	b := []byte{itemVersion}
	for i := range it.counters {
		c := &it.counters[i]
		b = appendBytes(b, c.name)
		b = binary.AppendUvarint(b, uint64(c.expires))
		b = binary.AppendUvarint(b, uint64(c.denies))
		b = append(b, c.used)
		b = appendBytes(b, c.encodeBody())
	}
	return b
}

// decide decides r and its With at now with the counters of it, and reports whether it
// changed them. A counter expires slack after it is unused. If there is no room for what
// the request consumes, decide makes room, or else denies the request: see full.go.
func (it *item) decide(r *store.Request, res *store.Result, now strategy.Instant, slack time.Duration) (changed bool) {
	it.forgetOnce(r)
	grows, limits := growth(r)
	if it.grown+grows <= it.room() && len(it.counters)+limits <= maxCounters {
		changed = it.consume(r, res, now, slack)
		if changed {
			it.grown += grows
		}
		return changed
	}
	before := it.encode()
	if !it.consume(r, res, now, slack) {
		return false
	}
	if it.fit(r, now) {
		return true
	}
	it.restore(before, now)
	it.refuse(r, res, now, slack)
	return false
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

// maxSkew is how far apart the clocks of daemons that share counters may be. Beyond it,
// and beyond the period, a counter from the future is taken for one whose writer's clock
// was wrong.
const maxSkew = strategy.Instant(10 * time.Second / time.Microsecond)

// settle settles c, which is parsed, and reports whether that has changed it.
func (c *counter) settle(l *strategy.Limit, now strategy.Instant, slack time.Duration) bool {
	if l.Strategy == strategy.SlidingWindowLog && !c.log.Settle(l, now, maxSkew) ||
		l.Strategy != strategy.SlidingWindowLog && !c.state.Settle(l, now, maxSkew) {
		return false
	}
	look := strategy.Ask{Now: now, DryRun: true}
	var d strategy.Decision
	d.Decide([]strategy.Limit{*l}, []strategy.State{c.view(l, look)}, look)
	c.note(l, &d.Statuses[0], now, slack)
	return true
}

// note notes what st says of c, which has just changed.
func (c *counter) note(l *strategy.Limit, st *strategy.Status, now strategy.Instant, slack time.Duration) {
	c.expires = now + min(instants(st.ResetAfter), instants(maxLife)) + instants(slack)
	c.used = uint8(allUsed - allUsed*st.Remaining/max(st.Limit, 1))
	c.denies = 0
	if st.Remaining > 0 {
		return
	}
	one := c.view(l, strategy.Ask{Cost: 1, Now: now})
	c.denies = now + instants(strategy.RetryAfter(l, one, 1, now))
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

// parse reads the body of c, if that was not done yet. It reports whether it could be
// read; otherwise the counter is an unused one.
func (c *counter) parse(l *strategy.Limit) (ok bool) {
	ok = true
	switch {
	case c.body == nil:
		return ok
	case l.Strategy == strategy.SlidingWindowLog:
		ok = c.log.Parse(c.body) == nil // an error leaves the log empty
	default:
		c.state, ok = parseState(c.body)
	}
	c.body = nil
	return ok
}

// view returns the state of c, which is parsed, that a sees under l.
func (c *counter) view(l *strategy.Limit, a strategy.Ask) strategy.State {
	if l.Strategy == strategy.SlidingWindowLog {
		return c.log.View(l, a)
	}
	return c.state
}

// encodeBody returns the body of c.
func (c *counter) encodeBody() []byte {
	if c.body != nil {
		return c.body
	}
	if strategy.Strategy(c.name[0]) == strategy.SlidingWindowLog {
		return c.log.Append(nil)
	}
	b := binary.AppendUvarint(nil, uint64(c.state.Last))
	b = binary.AppendUvarint(b, uint64(c.state.Used))
	return binary.AppendUvarint(b, uint64(c.state.Part))
}

func parseState(b []byte) (state strategy.State, ok bool) {
	var last, used, part uint64
	if !cutNumber(&b, &last, math.MaxInt64) || !cutNumber(&b, &used, strategy.MaxUnits) || !cutNumber(&b, &part, math.MaxInt64) || len(b) > 0 {
		return strategy.State{}, false
	}
	return strategy.State{Last: strategy.Instant(last), Used: int64(used), Part: int64(part)}, true
}

// cutNumber cuts a number off the front of b. It reports whether there is one, of at
// most most.
func cutNumber(b *[]byte, number *uint64, most uint64) bool {
	n, length := binary.Uvarint(*b)
	if length <= 0 || n > most {
		return false
	}
	*number, *b = n, (*b)[length:]
	return true
}

// cutBytes cuts bytes that appendBytes has appended off the front of b. It reports
// whether there are any.
func cutBytes(b, field *[]byte) bool {
	var length uint64
	if !cutNumber(b, &length, math.MaxInt64) || length > uint64(len(*b)) {
		return false
	}
	*field, *b = (*b)[:length], (*b)[length:]
	return true
}

func appendBytes(b, field []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(field)))
	return append(b, field...)
}

// instants returns d in the unit of Instants.
func instants(d time.Duration) strategy.Instant { return strategy.Instant(d / time.Microsecond) }

// seconds returns t in seconds, rounded up.
func seconds(t strategy.Instant) int64 {
	return (int64(t) + int64(time.Second/time.Microsecond) - 1) / int64(time.Second/time.Microsecond)
}
