package memcached

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// maxLife is how long a counter is kept without use. A bucket with a great burst and a
// low rate would need longer.
const maxLife = 366 * 24 * time.Hour

// maxCounterBytes is how much a counter without its name may take: seven numbers at
// most, and one more with the next entry of a log.
const maxCounterBytes = 8 * binary.MaxVarintLen64

// allUsed is the used part of a counter that has nothing left, in percent.
const allUsed = 100

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

// appendBody appends the body of c to b.
func (c *counter) appendBody(b []byte) []byte {
	if c.body != nil {
		return append(b, c.body...)
	}
	if strategy.Strategy(c.name[0]) == strategy.SlidingWindowLog {
		return c.log.Append(b)
	}
	b = binary.AppendUvarint(b, uint64(c.state.Last))
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

// size returns how many bytes c takes.
func (c *counter) size() int {
	body := c.appendBody(nil)
	return uvarintLen(uint64(len(c.name))) + len(c.name) + uvarintLen(uint64(c.expires)) + uvarintLen(uint64(c.denies)) + 1 + uvarintLen(uint64(len(body))) + len(body)
}

func uvarintLen(n uint64) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], n)
}
