package memory

import (
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A counter is one counter's memory: a cache line without pointers, so that
// the garbage collector has nothing to look at.
type counter struct {
	key      key
	state    strategy.State
	expires  strategy.Instant // when it is wholly unused, and need not be held
	rank     int64            // see ranking
	position uint32           // see ranking; or notHeld
	log      atomic.Uint32    // where in logs its Log is; for SLIDING_WINDOW_LOG
}

// set makes c a counter of k, wholly unused.
func (c *counter) set(k key) {
	c.key, c.state, c.expires, c.rank, c.position = k, strategy.State{}, 0, 0, notHeld
	c.log.Store(0)
}

// A table holds counters by key. They lie in chunks that never move, numbered
// from 0; an open-addressed index finds them.
//
// All but slot and fetch is for who holds the shard's lock. What is atomic is so
// for these two alone.
type table struct {
	entries int // the room of all logs, in entries

	// index has a power of two of slots, probed linearly from the tag's low
	// bits. A slot is tag<<32 | number+1, or 0. With the tag beside the number
	// the index grows without a look at the counters.
	index atomic.Pointer[[]atomic.Uint64]

	chunks []atomic.Pointer[chunk] // those that are needed so far; then nil
	used   uint32                  // numbers below it have been given out at some time
	free   []uint32                // of those, the ones to give out again

	ranking

	logs     []strategy.Log // without gaps; the first is nobody's, as 0 stands for none
	logOwner []uint32       // of each log, the number of its counter
}

const (
	chunkSize = 256 // 16 kB
	minIndex  = 16

	// notHeld is the number of no counter, and the position of one that was
	// given back.
	notHeld = ^uint32(0)
)

type chunk [chunkSize]counter

// init makes t an empty table with room for max counters.
func (t *table) init(max int) {
	t.chunks = make([]atomic.Pointer[chunk], max/chunkSize+1)
	index := make([]atomic.Uint64, minIndex)
	t.index.Store(&index)
}

func (t *table) at(n uint32) *counter { return &t.chunks[n/chunkSize].Load()[n%chunkSize] }

// held returns how many counters the table holds.
func (t *table) held() int { return len(t.open) + len(t.shut) }

// find returns the number of the counter known by k.
func (t *table) find(k key) (n uint32, found bool) {
	index := *t.index.Load()
	mask := uint64(len(index) - 1)
	tag := k.lo & 0xffffffff
	for i := tag & mask; ; i = (i + 1) & mask {
		slot := index[i].Load()
		if slot == 0 {
			return 0, false
		}
		if slot>>32 == tag {
			if n := uint32(slot) - 1; t.at(n).key == k {
				return n, true
			}
		}
	}
}

// slot returns the slot of the index where the search for k begins. The lock
// may be another's.
func (t *table) slot(k key) uint64 {
	index := *t.index.Load()
	return index[k.lo&uint64(len(index)-1)].Load()
}

// fetch has the processor fetch the counter that slot, if any, is of, without
// waiting for it. The lock may be another's.
func (t *table) fetch(slot uint64) {
	if n := uint32(slot); n != 0 {
		t.at(n - 1).log.Load()
	}
}

// insert adds a counter, wholly unused and open, for k, which it does not
// hold.
func (t *table) insert(k key) uint32 {
	if t.held()+1 > len(*t.index.Load())/8*7 {
		t.growIndex()
	}
	n := t.number()
	t.at(n).set(k)
	t.place(k.lo<<32 | uint64(n+1))
	t.addOpen(n)
	return n
}

// number gives out a number.
func (t *table) number() uint32 {
	if last := len(t.free) - 1; last >= 0 {
		n := t.free[last]
		t.free = t.free[:last]
		return n
	}
	if t.used%chunkSize == 0 {
		t.chunks[t.used/chunkSize].Store(new(chunk))
	}
	t.used++
	return t.used - 1
}

// remove drops the counter with number n.
func (t *table) remove(n uint32) {
	c := t.at(n)
	t.unplace(c.key.lo<<32 | uint64(n+1))
	t.dropRank(n)
	if log := c.log.Load(); log != 0 {
		t.entries -= t.logs[log].Size()
		last := len(t.logs) - 1 // fills the gap
		t.logs[log], t.logOwner[log] = t.logs[last], t.logOwner[last]
		t.at(t.logOwner[log]).log.Store(log)
		t.logs[last] = strategy.Log{}
		t.logs, t.logOwner = t.logs[:last], t.logOwner[:last]
	}
	c.set(key{})
	t.free = append(t.free, n)
}

// place puts slot into the index, which has room for it.
func (t *table) place(slot uint64) { place(*t.index.Load(), slot) }

func place(index []atomic.Uint64, slot uint64) {
	mask := uint64(len(index) - 1)
	i := slot >> 32 & mask
	for index[i].Load() != 0 {
		i = (i + 1) & mask
	}
	index[i].Store(slot)
}

// unplace takes slot out of the index, and moves those after it that would
// not be found across the gap.
func (t *table) unplace(slot uint64) {
	index := *t.index.Load()
	mask := uint64(len(index) - 1)
	gap := slot >> 32 & mask
	for index[gap].Load() != slot {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; index[i].Load() != 0; i = (i + 1) & mask {
		home := index[i].Load() >> 32 & mask
		if (i-home)&mask >= (i-gap)&mask {
			index[gap].Store(index[i].Load())
			gap = i
		}
	}
	index[gap].Store(0)
}

func (t *table) growIndex() {
	old := *t.index.Load()
	index := make([]atomic.Uint64, 2*len(old))
	for i := range old {
		if slot := old[i].Load(); slot != 0 {
			place(index, slot)
		}
	}
	t.index.Store(&index)
}

// log returns the log of the counter with number n, and gives it one if it has
// none.
func (t *table) log(n uint32) *strategy.Log {
	c := t.at(n)
	if c.log.Load() == 0 {
		if len(t.logs) == 0 {
			t.logs, t.logOwner = append(t.logs, strategy.Log{}), append(t.logOwner, notHeld)
		}
		c.log.Store(uint32(len(t.logs)))
		t.logs, t.logOwner = append(t.logs, strategy.Log{}), append(t.logOwner, n)
	}
	return &t.logs[c.log.Load()]
}
