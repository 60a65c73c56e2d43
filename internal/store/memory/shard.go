package memory

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// waitBounds are the buckets for how long a lock was waited for. They go from the
// shortest time for which a lock is held to the time for which a process can lose
// its processor.
var waitBounds = [...]time.Duration{
	time.Microsecond, 4 * time.Microsecond, 16 * time.Microsecond, 64 * time.Microsecond, 256 * time.Microsecond,
	time.Millisecond, 4 * time.Millisecond, 16 * time.Millisecond, 64 * time.Millisecond,
}

// A shard is one stripe of the store.
type shard struct {
	mu sync.Mutex // protects the following

	// What each decision uses is close together in memory: here, and in the first
	// fields of table.
	acquired uint64 // how often mu was taken; for the metrics
	space
	counted int // how many of entries are counted in the store's total

	// These are the store's.
	hash       *hasher
	names      *namespaces
	logEntries *atomic.Int64 // the room of all shards' logs
	losses     *lossLog

	// For the metrics.
	contended uint64                      // how often mu had to be waited for
	waits     [len(waitBounds) + 1]uint64 // contended, by the bucket of the wait
	waited    time.Duration               // the sum of the waits

	states [strategy.MaxLimits]strategy.State // used only by decide
	_      [64]byte                           // keeps the next shard's mutex out of this one's cache lines
}

// lock locks mu, and counts how often and how long it had to wait.
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

// unlock unlocks mu. Before that, it adds to the store's total how much the logs have
// grown. After that, it reports whom an eviction has freed.
func (sh *shard) unlock() {
	if sh.news {
		sh.unlockWithNews()
		return
	}
	sh.mu.Unlock()
}

func (sh *shard) unlockWithNews() {
	sh.logEntries.Add(int64(sh.entries - sh.counted))
	freed := sh.freed
	sh.news, sh.counted, sh.freed = false, sh.entries, loss{}
	sh.mu.Unlock()
	if freed.of != nil {
		sh.losses.report(freed)
	}
}

// decide decides r at now. keys are the keys of the counters of r's limits. The
// caller holds mu.
func (sh *shard) decide(r *store.Request, keys []key, d *strategy.Decision, now strategy.Instant) {
	var numbers [strategy.MaxLimits]uint32
	states := sh.states[:len(keys)]
	ahead := false // whether a counter is from the future
	for i, k := range keys {
		n, found := sh.find(k)
		if !found {
			numbers[i], states[i] = notHeld, strategy.State{}
			if r.Mode != strategy.Take && r.Limits[i].Strategy == strategy.SlidingWindowLog {
				states[i] = new(strategy.Log).View(&r.Limits[i], r.Ask(now))
			}
			continue
		}
		c := sh.at(n)
		if c.last > now {
			sh.settle(n, &r.Limits[i], now)
			ahead = true
		}
		numbers[i], states[i] = n, c.state()
		if c.log.Load() != 0 {
			states[i] = sh.log(n).View(&r.Limits[i], r.Ask(now))
		}
	}
	consumed := d.Decide(r.Limits, states, r.Ask(now))
	if consumed == strategy.ConsumedNone {
		if ahead {
			sh.keepAhead(numbers[:len(keys)], d, now)
		}
		return
	}
	for i := range keys {
		l := &r.Limits[i]
		if l.Capacity == 0 || !consumed.From(l) { // a limit of 0, or unlimited: there is nothing to count
			continue
		}
		if numbers[i] == notHeld {
			if states[i].Used == 0 {
				continue // nothing was charged, or there was nothing to give back
			}
			numbers[i] = sh.add(keys[i], numbers[:len(keys)], push{sh.names.find(r.Namespace), now}, l)
		}
		sh.at(numbers[i]).setState(&states[i])
		if l.Strategy == strategy.SlidingWindowLog {
			sh.applyToLog(numbers[i], l, r.Ask(now))
		}
		sh.classify(numbers[i], l, &d.Statuses[i], now)
	}
}

// add adds a counter of l with key k, and returns its number. It drops none of pinned
// for it.
func (sh *shard) add(k key, pinned []uint32, by push, l *strategy.Limit) uint32 {
	g := sh.join(by.owner, sh.hash.limit(l).hi, l.Strategy == strategy.SlidingWindowLog)
	sh.makeRoom(g, pinned, by)
	return sh.insert(k, g)
}

// keepAhead keeps counters for as long as d says that they count. Those of a snapshot that
// was taken by a clock ahead of now would expire earlier.
func (sh *shard) keepAhead(numbers []uint32, d *strategy.Decision, now strategy.Instant) {
	for i, n := range numbers {
		if n != notHeld {
			c := sh.at(n)
			c.expires = max(c.expires, now+instants(d.Statuses[i].ResetAfter))
		}
	}
}

// settle settles the state of the counter with number n, of l.
func (sh *shard) settle(n uint32, l *strategy.Limit, now strategy.Instant) {
	c := sh.at(n)
	if c.log.Load() == 0 {
		if state := c.state(); state.Settle(l, now, 0) {
			c.setState(&state)
		}
		return
	}
	log := sh.log(n)
	before := log.Size()
	if log.Settle(l, now, 0) {
		sh.grow(c.group, log.Size()-before)
	}
}

// applyToLog changes the log of the counter with number n as a does.
func (sh *shard) applyToLog(n uint32, l *strategy.Limit, a strategy.Ask) {
	log := sh.log(n)
	before := log.Size()
	log.Apply(l, a)
	sh.grow(sh.at(n).group, log.Size()-before)
}

// classify sets when the counter with number n expires, and its place in the ranking.
// st is the status of the counter after the decision.
func (sh *shard) classify(n uint32, l *strategy.Limit, st *strategy.Status, now strategy.Instant) {
	c := sh.at(n)
	c.expires = now + instants(st.ResetAfter)
	if st.Remaining > 0 {
		sh.rankOpen(n, int64((st.Limit-st.Remaining)*maxShare/st.Limit))
		return
	}
	state := c.state()
	if l.Strategy == strategy.SlidingWindowLog {
		state = sh.log(n).View(l, strategy.Ask{Cost: 1, Now: now})
	}
	sh.rankShut(n, now+instants(strategy.RetryAfter(l, state, 1, now)))
}

// instants returns d in the unit of Instants. The greatest Duration is 292 years, so
// adding it to an Instant cannot overflow.
func instants(d time.Duration) strategy.Instant { return strategy.Instant(d / time.Microsecond) }
