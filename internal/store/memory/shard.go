package memory

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A shard is one stripe of the store.
type shard struct {
	mu sync.Mutex // protects the following

	// What a decision uses lies together: here, and in the first part of table.
	acquired uint64 // how often mu was: for the metrics, as are those below
	counted  int    // of entries, those that are counted in the store's
	table
	share int    // how many counters it may hold
	hand  uint32 // the number that expire looks at next

	// Of mu itself, and of evictions.
	contended uint64
	waits     [len(waitBounds) + 1]uint64 // contended, by the bound that the wait did not exceed
	waited    time.Duration
	evicted   evictions

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
	waited := time.Since(start)
	sh.waited += waited
	bound := 0
	for bound < len(waitBounds) && waited > waitBounds[bound] {
		bound++
	}
	sh.waits[bound]++
}

// unlock unlocks mu, and counts in total what became of the logs.
func (sh *shard) unlock(total *atomic.Int64) {
	if d := sh.entries - sh.counted; d != 0 {
		total.Add(int64(d))
		sh.counted = sh.entries
	}
	sh.mu.Unlock()
}

// decide decides r, the counters of whose limits are known by keys, at now.
// mu is held.
func (sh *shard) decide(r *store.Request, keys []key, d *strategy.Decision, now strategy.Instant) {
	var numbers [strategy.MaxLimits]uint32
	states := sh.states[:len(keys)]
	for i, k := range keys {
		n, found := sh.find(k)
		if !found {
			numbers[i], states[i] = notHeld, strategy.State{}
			continue
		}
		c := sh.at(n)
		numbers[i], states[i] = n, c.state
		if c.log.Load() != 0 {
			states[i] = sh.log(n).View(&r.Limits[i], r.Cost, now)
		}
	}
	consumed := d.Decide(r.Limits, states, r.Cost, now, r.DryRun)
	if consumed == strategy.ConsumedNone {
		return
	}
	for i := range keys {
		l := &r.Limits[i]
		if l.Rate.IsUnlimited() || !consumed.From(l) {
			continue
		}
		if numbers[i] == notHeld {
			sh.makeRoom(numbers[:len(keys)], now)
			numbers[i] = sh.insert(keys[i])
		}
		sh.at(numbers[i]).state = states[i]
		if l.Strategy == strategy.SlidingWindowLog {
			sh.addToLog(numbers[i], l, r.Cost, now)
		}
		sh.classify(numbers[i], l, &d.Statuses[i], now)
	}
}

// addToLog adds what was consumed to the log of the counter with number n.
func (sh *shard) addToLog(n uint32, l *strategy.Limit, cost uint64, now strategy.Instant) {
	log := sh.log(n)
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
		sh.rankOpen(n, int64((st.Limit-st.Remaining)*maxShare/st.Limit))
		return
	}
	state := c.state
	if l.Strategy == strategy.SlidingWindowLog {
		state = sh.log(n).View(l, 1, now)
	}
	sh.rankShut(n, now+instants(strategy.RetryAfter(l, state, 1, now)))
}

// instants returns d in the unit of Instants. (The greatest Duration is 292
// years, and no sum with it overflows.)
func instants(d time.Duration) strategy.Instant { return strategy.Instant(d / time.Microsecond) }
