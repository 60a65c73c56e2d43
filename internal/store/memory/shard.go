package memory

import (
	"sync"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A shard is one stripe of the store.
type shard struct {
	mu sync.Mutex // protects the following

	table
	share int // how many keys it may hold
	hand  int // the place in order that expire looks at next

	// Of mu itself, and of evictions: for the metrics.
	acquired, contended uint64
	waited              time.Duration
	evictedOpen         uint64
	evictedShut         uint64

	states [strategy.MaxLimits]strategy.State // for decide alone
	_      [64]byte                           // keeps the next shard's mutex out of this one's cache lines
}

// lock locks mu, and counts it.
func (sh *shard) lock() {
	if sh.mu.TryLock() {
		sh.acquired++
		return
	}
	start := time.Now()
	sh.mu.Lock()
	sh.acquired++
	sh.contended++
	sh.waited += time.Since(start)
}

// none is the number of a counter that is not held.
const none = ^uint32(0)

// decide decides r, the counters of whose limits are known by keys, at now.
// mu is held.
func (sh *shard) decide(r *store.Request, keys []key, d *strategy.Decision, now strategy.Instant) {
	var numbers [strategy.MaxLimits]uint32
	states := sh.states[:len(keys)]
	for i, k := range keys {
		n, found := sh.find(k)
		if !found {
			numbers[i], states[i] = none, strategy.State{}
			continue
		}
		c := sh.at(n)
		numbers[i], states[i] = n, c.state
		if c.log != 0 {
			states[i] = sh.log(c).View(&r.Limits[i], r.Cost, now)
		}
	}
	if !d.Decide(r.Limits, states, r.Cost, now, r.DryRun) {
		return
	}
	for i := range keys {
		l := &r.Limits[i]
		if l.Rate.IsUnlimited() {
			continue
		}
		if numbers[i] == none {
			sh.makeRoom(1, numbers[:len(keys)], now)
			numbers[i] = sh.insert(keys[i])
		}
		c := sh.at(numbers[i])
		c.state = states[i]
		if l.Strategy == strategy.SlidingWindowLog {
			sh.addToLog(c, l, r.Cost, now)
		}
		sh.classify(numbers[i], l, &d.Statuses[i], now)
	}
	if sh.size() > sh.share { // a log has grown
		sh.makeRoom(0, numbers[:len(keys)], now)
	}
}

// addToLog adds what was consumed to c's log.
func (sh *shard) addToLog(c *counter, l *strategy.Limit, cost uint64, now strategy.Instant) {
	log := sh.log(c)
	sh.entries -= log.Size()
	log.Add(l, cost, now)
	sh.entries += log.Size()
}

// classify notes when the counter with number n, which st reports, expires,
// and what its loss would give away.
func (sh *shard) classify(n uint32, l *strategy.Limit, st *strategy.Status, now strategy.Instant) {
	c := sh.at(n)
	now = max(now, c.state.Last)
	c.expires = now + instants(st.ResetAfter)
	if st.Remaining > 0 {
		c.rank = int64((st.Limit - st.Remaining) * maxShare / st.Limit)
		sh.setOpen(n, true)
		return
	}
	state := c.state
	if l.Strategy == strategy.SlidingWindowLog {
		state = sh.log(c).View(l, 1, now)
	}
	c.rank = int64(now + instants(strategy.RetryAfter(l, state, 1, now)))
	sh.setOpen(n, false)
}

// instants returns d in the unit of Instants. (The greatest Duration is 292
// years, and no sum with it overflows.)
func instants(d time.Duration) strategy.Instant { return strategy.Instant(d / time.Microsecond) }
