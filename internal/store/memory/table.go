package memory

import (
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const minIndex = 16 // slots

// A table is a hash table of counters by key. The counters are in a slab, and belong to
// groups. An index with open addressing finds them.
//
// Only the methods slot and fetch may be called without the shard's lock. Some
// fields are atomic because of these two.
type table struct {
	news bool // the store has to be told of entries, or of whom an eviction has freed

	// index has a power of two of slots. A search starts at the low bits of the tag
	// and goes on to the next slot. A slot is tag<<32 | number+1, or 0 if it is free.
	// Because the tag is in the slot, the index can grow without reading the counters.
	index atomic.Pointer[[]atomic.Uint64]

	slab
	shares
	count   int // how many counters there are
	entries int // how many entries all logs have room for

	logs     []strategy.Log // without gaps; the first is unused, because index 0 means no Log
	logOwner []uint32       // the number of the counter of each log
}

// init makes t an empty table with room for max counters.
func (t *table) init(max int) {
	t.slab = newSlab(max)
	t.maxOwn = minGroups + max/countersPerGroup
	index := make([]atomic.Uint64, minIndex)
	t.index.Store(&index)
}

// held returns how many counters the table holds.
func (t *table) held() int { return t.count }

// find returns the number of the counter with key k, and whether there is one.
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

// slot returns the slot of the index where the search for k begins. The caller need
// not hold the lock.
func (t *table) slot(k key) uint64 {
	index := *t.index.Load()
	return index[k.lo&uint64(len(index)-1)].Load()
}

// fetch makes the processor load the counter of slot into its cache, without waiting
// for it. The caller need not hold the lock.
func (t *table) fetch(slot uint64) {
	if n := uint32(slot); n != 0 {
		t.at(n - 1).log.Load()
	}
}

// insert adds an unused, open counter with key k to group g, which it has joined, and
// returns its number. The table must not have that key yet.
func (t *table) insert(k key, g uint32) uint32 {
	if t.held()+1 > len(*t.index.Load())/8*7 {
		t.growIndex()
	}
	n := t.number()
	t.count++
	t.at(n).set(k, g)
	t.place(k.lo<<32 | uint64(n+1))
	t.groups[g].add(&t.slab, n)
	return n
}

// remove drops the counter with number n.
func (t *table) remove(n uint32) {
	c := t.at(n)
	t.unplace(c.key.lo<<32 | uint64(n+1))
	t.groups[c.group].drop(&t.slab, n)
	if log := c.log.Load(); log != 0 {
		t.grow(c.group, -t.logs[log].Size())
		last := len(t.logs) - 1 // fills the gap
		t.logs[log], t.logOwner[log] = t.logs[last], t.logOwner[last]
		t.at(t.logOwner[log]).log.Store(log)
		t.logs[last] = strategy.Log{}
		t.logs, t.logOwner = t.logs[:last], t.logOwner[:last]
	}
	t.leave(c.group)
	t.count--
	t.release(n)
}

// place puts slot into the index. There must be room for it.
func (t *table) place(slot uint64) { place(*t.index.Load(), slot) }

func place(index []atomic.Uint64, slot uint64) {
	mask := uint64(len(index) - 1)
	i := slot >> 32 & mask
	for index[i].Load() != 0 {
		i = (i + 1) & mask
	}
	index[i].Store(slot)
}

// unplace removes slot from the index. A search stops at a gap, so unplace moves
// back the slots behind it that could no longer be found.
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

// log returns the log of the counter with number n. If the counter has no log yet, it
// gets one.
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

// grow notes that a log of group g has room for n entries more.
func (t *table) grow(g uint32, n int) {
	if n != 0 {
		t.news = true
		t.entries += n
		t.addEntries(g, n)
	}
}

// rankOpen makes the counter with number n open, with that share of its capacity
// used.
func (t *table) rankOpen(n uint32, share int64) {
	c := t.at(n)
	if !c.isOpen() {
		t.groups[c.group].reopen(&t.slab, n)
	}
	c.rank = share
}

// rankShut makes the counter with number n shut until that instant.
func (t *table) rankShut(n uint32, until strategy.Instant) {
	t.groups[t.at(n).group].shutUntil(&t.slab, n, until)
}
