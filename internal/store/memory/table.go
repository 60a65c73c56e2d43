package memory

import "github.com/ratelimitd/ratelimitd/internal/strategy"

// A counter is one counter's memory: a cache line without pointers, so that
// the garbage collector has nothing to look at.
type counter struct {
	key     key
	state   strategy.State
	expires strategy.Instant // when it is wholly unused, and need not be held
	// rank says what the loss of the counter would give away. Of an open
	// counter, how much of its capacity was used when it last consumed, 0 to
	// maxShare. Of a shut one, the instant when it is open again.
	rank     int64
	position uint32 // where in order it stands
	log      uint32 // where in logs its Log is; for SLIDING_WINDOW_LOG
}

// A table holds counters by key. They lie in chunks that never move, numbered
// from 0; an open-addressed index finds them.
//
// A counter is open if it would have allowed one more unit when it last
// consumed, and otherwise shut: at present denied, unless time has opened it.
type table struct {
	chunks []*[chunkSize]counter
	used   uint32   // numbers below it have been given out at some time
	free   []uint32 // of those, the ones to give out again

	// index has a power of two of slots, probed linearly from the tag's low
	// bits. A slot is tag<<32 | number+1, or 0. With the tag beside the number
	// the index grows without a look at the counters.
	index []uint64

	order []uint32 // the numbers of all counters held: first the open, then the shut
	open  int      // how many are open

	logs     []strategy.Log
	freeLogs []uint32
	entries  int // the room of all logs, in entries
}

const (
	chunkSize = 256 // 16 kB
	minIndex  = 16
)

func (t *table) at(n uint32) *counter { return &t.chunks[n/chunkSize][n%chunkSize] }

// held returns how many counters the table holds.
func (t *table) held() int { return len(t.order) }

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
	if len(t.order)+1 > len(t.index)/8*7 {
		t.growIndex()
	}
	n := t.number()
	*t.at(n) = counter{key: k, position: uint32(len(t.order))}
	t.order = append(t.order, n)
	t.place(k.lo<<32 | uint64(n+1))
	t.setOpen(n, true)
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
	t.setOpen(n, false)
	t.swap(c.position, uint32(len(t.order)-1))
	t.order = t.order[:len(t.order)-1]
	t.dropLog(c)
	*c = counter{}
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

// setOpen moves the counter with number n to the open or to the shut.
func (t *table) setOpen(n uint32, open bool) {
	position := t.at(n).position
	switch isOpen := int(position) < t.open; {
	case open && !isOpen:
		t.swap(position, uint32(t.open))
		t.open++
	case !open && isOpen:
		t.open--
		t.swap(position, uint32(t.open))
	}
}

// swap exchanges two places of order.
func (t *table) swap(i, j uint32) {
	t.order[i], t.order[j] = t.order[j], t.order[i]
	t.at(t.order[i]).position = i
	t.at(t.order[j]).position = j
}

// dropLog takes from c the log that it may have.
func (t *table) dropLog(c *counter) {
	if c.log != 0 {
		t.entries -= t.logs[c.log].Size()
		t.logs[c.log] = strategy.Log{}
		t.freeLogs = append(t.freeLogs, c.log)
		c.log = 0
	}
}

// log returns the log of c, and gives it one if it has none.
func (t *table) log(c *counter) *strategy.Log {
	if c.log == 0 {
		if last := len(t.freeLogs) - 1; last >= 0 {
			c.log = t.freeLogs[last]
			t.freeLogs = t.freeLogs[:last]
		} else {
			if len(t.logs) == 0 {
				t.logs = append(t.logs, strategy.Log{}) // 0 is no log
			}
			c.log = uint32(len(t.logs))
			t.logs = append(t.logs, strategy.Log{})
		}
	}
	return &t.logs[c.log]
}
