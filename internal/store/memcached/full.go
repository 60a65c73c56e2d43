package memcached

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// An identifier can have more counters than fit into its item. Then some are evicted:
// first those that have expired; then, of those that do not deny now, the one of which
// the smallest part was used at its last use, and of several such the one that expires
// first. A counter that denies now is never evicted, nor is one of the request at
// hand: whoever uses more names would be free of the limits that hold him. If only
// such counters are left, the request is denied.

const (
	// maxCounters is more counters than an identifier has reason to have: 16 limits
	// of 64 policies. Each decision reads all of them.
	maxCounters = 1024
	// minItemBytes has room for the counters of a request, but for logs.
	minItemBytes = 4 << 10
	// fullRetry is when a request is tried again that was denied because the item is
	// full, if nothing says when there is room.
	fullRetry = time.Second
)

// maxOnce is how many counters of store.OncePrefix an identifier has. Each denies for as
// long as it lasts, so that none would ever be evicted, and each decision reads all.
const maxOnce = 256

// forgetOnce makes room for one more counter of store.OncePrefix, if r has one that is not
// there: it forgets the one that expires first. The item is only written if r consumes.
func (it *item) forgetOnce(r *store.Request) {
	if !strings.HasPrefix(r.Limits[0].Name, store.OncePrefix) || it.find(appendName(nil, &r.Limits[0])) >= 0 {
		return
	}
	n, oldest := 0, -1
	for i := range it.counters {
		c := &it.counters[i]
		if !isOnce(c.name) {
			continue
		}
		if n++; oldest < 0 || c.expires < it.counters[oldest].expires {
			oldest = i
		}
	}
	if n >= maxOnce {
		it.counters = slices.Delete(it.counters, oldest, oldest+1)
		it.evicted++
	}
}

// isOnce reports whether a name that appendName made is of a counter of store.OncePrefix.
func isOnce(name []byte) bool {
	_, size := binary.Uvarint(name[1:])
	return size > 0 && bytes.HasPrefix(name[1+size:], []byte(store.OncePrefix))
}

// growth returns the most by which an item may grow when r and its With consume, in
// bytes and in counters.
func growth(r *store.Request) (n, counters int) {
	r.All(func(r *store.Request) {
		for i := range r.Limits {
			n += maxCounterBytes + len(r.Limits[i].Name)
		}
		counters += len(r.Limits)
	})
	return n, counters
}

// room returns how many bytes it may have.
func (it *item) room() int {
	if it.max == 0 {
		return maxItemBytes
	}
	return it.max
}

// fit makes it fit into its room after r has consumed. It reports whether it does; if
// not, what is left of it means nothing.
func (it *item) fit(r *store.Request, now strategy.Instant) bool {
	size := len(it.encode())
	if it.grown = size; size <= it.room() && len(it.counters) <= maxCounters {
		return true
	}
	var own [strategy.MaxLimits]int
	mine := it.indices(r, own[:0])
	var loose []int // the counters that may go
	for i := range it.counters {
		if it.counters[i].denies <= now && !slices.Contains(mine, i) {
			loose = append(loose, i)
		}
	}
	slices.SortFunc(loose, func(i, j int) int {
		a, b := &it.counters[i], &it.counters[j]
		if a.used != b.used {
			return int(a.used) - int(b.used)
		}
		return int(max(min(a.expires-b.expires, 1), -1))
	})
	gone := 0
	over := func() bool { return size > it.room() || len(it.counters)-gone > maxCounters }
	for ; over() && gone < len(loose); gone++ {
		c := &it.counters[loose[gone]]
		size -= c.size()
		c.name = nil
	}
	if over() {
		return false
	}
	it.counters = slices.DeleteFunc(it.counters, func(c counter) bool { return c.name == nil })
	it.evicted += uint64(gone)
	it.grown = size
	return true
}

// indices appends the indices of the counters of r and its With.
func (it *item) indices(r *store.Request, to []int) []int {
	var buf [strategy.MaxNameBytes + 4*binary.MaxVarintLen64]byte
	r.All(func(r *store.Request) {
		for i := range r.Limits {
			if l := &r.Limits[i]; !l.Rate.IsUnlimited() {
				if n := it.find(appendName(buf[:0], l)); n >= 0 {
					to = append(to, n)
				}
			}
		}
	})
	return to
}

// restore makes it what value says.
func (it *item) restore(value []byte, now strategy.Instant) {
	was := parseItem(value, now)
	it.counters, it.grown = was.counters, was.grown
}

// refuse denies r and its With, for which there is no room. A request that only limits
// in shadow mode hold is allowed, and not counted.
func (it *item) refuse(r *store.Request, res *store.Result, now strategy.Instant, slack time.Duration) {
	it.refused++
	wait := it.untilRoom(now)
	res.All(r, func(r *store.Request, res *store.Result) {
		a, d := r.Ask(now), &res.Decision
		a.DryRun = true
		it.consumeOne(r, a, d, slack)
		if a.Mode == strategy.Refund {
			return // it takes no room
		}
		for i := range r.Limits {
			l, st := &r.Limits[i], &d.Statuses[i]
			if l.Rate.IsUnlimited() {
				continue
			}
			if st.Allowed {
				st.Allowed, st.Remaining, st.RetryAfter = false, 0, wait
			}
			if !l.Shadow {
				d.Allowed, d.Refused, d.Delay = false, true, 0
				d.RetryAfter = max(d.RetryAfter, wait)
			}
		}
	})
}

// untilRoom returns how long it takes until a counter may go.
func (it *item) untilRoom(now strategy.Instant) time.Duration {
	first := strategy.Instant(math.MaxInt64)
	for i := range it.counters {
		c := &it.counters[i]
		if c.expires > now {
			first = min(first, max(c.denies, now))
		}
	}
	if first <= now || first == math.MaxInt64 { // its own counters take all the room
		return fullRetry
	}
	return time.Duration(first-now) * time.Microsecond
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
