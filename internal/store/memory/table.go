package memory

import "github.com/ratelimitd/ratelimitd/internal/strategy"

// A counter is one counter's memory: a cache line without pointers, so that
// the garbage collector has nothing to look at.
type counter struct {
	key      key
	state    strategy.State
	expires  strategy.Instant // when it is wholly unused, and need not be held
	rank     int64            // see ranking
	position uint32           // see ranking; or notHeld
	log      uint32           // where in logs its Log is; for SLIDING_WINDOW_LOG
}

// A table holds counters by key. They lie in chunks that never move, numbered
// from 0; an open-addressed index finds them.
type table struct {
	entries int // the room of all logs, in entries

	// index has a power of two of slots, probed linearly from the tag's low
	// bits. A slot is tag<<32 | number+1, or 0. With the tag beside the number
	// the index grows without a look at the counters.
	index []uint64

	chunks []*[chunkSize]counter
	used   uint32   // numbers below it have been given out at some time
	free   []uint32 // of those, the ones to give out again

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

func (t *table) at(n uint32) *counter { return &t.chunks[n/chunkSize][n%chunkSize] }

// held returns how many counters the table holds.
func (t *table) held() int { return len(t.open) + len(t.shut) }

// find returns the number of the counter known by k.
func (t *table) find(k key) (n uint32, found bool) {
	if len(t.index) == 0 {
		return 0, false
	}
	mask := uint64(len(t.index) - 1)
	tag := k.lo & 0xffffffff
	for i := tag & mask; t.index[i] != 0; i = (i + 1) & mask {
		if slot := t.index[i]; slot>>32 == tag {
			if n := uint32(slot) - 1; t.at(n).key == k {
				return n, true
			}
		}
	}
	return 0, false
}

// insert adds a counter, wholly unused and open, for k, which it does not
// hold.
func (t *table) insert(k key) uint32 {
	if t.held()+1 > len(t.index)/8*7 {
		t.growIndex()
	}
	n := t.number()
	*t.at(n) = counter{key: k, position: notHeld}
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
	if int(t.used) == len(t.chunks)*chunkSize {
		t.chunks = append(t.chunks, new([chunkSize]counter))
	}
	t.used++
	return t.used - 1
}

// remove drops the counter with number n.
func (t *table) remove(n uint32) {
	c := t.at(n)
	t.unplace(c.key.lo<<32 | uint64(n+1))
	t.dropRank(n)
	if c.log != 0 {
		t.entries -= t.logs[c.log].Size()
		last := len(t.logs) - 1 // fills the gap
		t.logs[c.log], t.logOwner[c.log] = t.logs[last], t.logOwner[last]
		t.at(t.logOwner[c.log]).log = c.log
		t.logs[last] = strategy.Log{}
		t.logs, t.logOwner = t.logs[:last], t.logOwner[:last]
	}
	*c = counter{position: notHeld}
	t.free = append(t.free, n)
}

// place puts slot into the index, which has room for it.
func (t *table) place(slot uint64) {
	mask := uint64(len(t.index) - 1)
	i := slot >> 32 & mask
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = slot
}

// unplace takes slot out of the index, and moves those after it that would
// not be found across the gap.
func (t *table) unplace(slot uint64) {
	mask := uint64(len(t.index) - 1)
	gap := slot >> 32 & mask
	for t.index[gap] != slot {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; t.index[i] != 0; i = (i + 1) & mask {
		home := t.index[i] >> 32 & mask
		if (i-home)&mask >= (i-gap)&mask {
			t.index[gap] = t.index[i]
			gap = i
		}
	}
	t.index[gap] = 0
}

func (t *table) growIndex() {
	old := t.index
	t.index = make([]uint64, max(minIndex, 2*len(old)))
	for _, slot := range old {
		if slot != 0 {
			t.place(slot)
		}
	}
}

// log returns the log of the counter with number n, and gives it one if it has
// none.
func (t *table) log(n uint32) *strategy.Log {
	c := t.at(n)
	if c.log == 0 {
		if len(t.logs) == 0 {
			t.logs, t.logOwner = append(t.logs, strategy.Log{}), append(t.logOwner, notHeld)
		}
		c.log = uint32(len(t.logs))
		t.logs, t.logOwner = append(t.logs, strategy.Log{}), append(t.logOwner, n)
	}
	return &t.logs[c.log]
}
