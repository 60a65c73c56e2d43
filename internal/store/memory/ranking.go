package memory

import "github.com/ratelimitd/ratelimitd/internal/strategy"

// A ranking orders the counters of a table for eviction. It evicts first the counter
// whose loss lets the fewest requests pass that should be denied.
//
// A counter is open if it had units left when it last consumed. The rank of an open
// counter is how much of its capacity was used then, from 0 to maxShare. The other
// counters are shut: they deny at present, unless time has opened them since. The
// rank of a shut counter is the instant when it opens. A counter's position is its
// index in open or in shut; in shut, shutBit is set.
type ranking struct {
	open []uint32 // numbers of counters, in no order
	// shut is a binary heap by instant. A decision mostly raises its counter's rank,
	// and does not move the slot, to save time. So a slot's instant may be earlier
	// than its counter's rank. firstShut corrects it when the slot comes to the top.
	shut []shutSlot
}

type shutSlot struct {
	opens  int64 // not later than the counter's rank
	number uint32
}

const (
	// maxShare is the rank of an open counter with all its capacity used.
	maxShare = 1 << 16

	shutBit = 1 << 31

	// maxStale is how many slots firstShut corrects at most, which takes some tens
	// of microseconds. Each decision makes at most one slot wrong.
	maxStale = 1024
)

// isOpen reports whether the counter with number n is open.
func (t *table) isOpen(n uint32) bool { return t.at(n).position&shutBit == 0 }

// rankOpen makes the counter with number n open, with that share of its capacity
// used.
func (t *table) rankOpen(n uint32, share int64) {
	if !t.isOpen(n) {
		t.dropRank(n)
		t.addOpen(n)
	}
	t.at(n).rank = share
}

// rankShut makes the counter with number n shut until that instant.
func (t *table) rankShut(n uint32, until strategy.Instant) {
	c := t.at(n)
	c.rank = int64(until)
	if t.isOpen(n) {
		t.dropRank(n)
		t.shut = append(t.shut, shutSlot{})
		t.rise(len(t.shut)-1, shutSlot{c.rank, n})
		return
	}
	if i := int(c.position &^ shutBit); c.rank < t.shut[i].opens {
		t.rise(i, shutSlot{c.rank, n})
	}
}

func (t *table) addOpen(n uint32) {
	t.at(n).position = uint32(len(t.open))
	t.open = append(t.open, n)
}

// dropRank removes the counter with number n from the ranking.
func (t *table) dropRank(n uint32) {
	c := t.at(n)
	i := int(c.position &^ shutBit)
	if t.isOpen(n) {
		last := len(t.open) - 1
		t.open[i] = t.open[last]
		t.at(t.open[i]).position = uint32(i)
		t.open = t.open[:last]
	} else {
		last := len(t.shut) - 1
		moved := t.shut[last]
		t.shut = t.shut[:last]
		if i < last {
			t.rise(i, moved)
			t.sink(int(t.at(moved.number).position &^ shutBit))
		}
	}
	c.position = notHeld
}

// firstShut returns the number of the shut counter that opens first, and whether
// there is a shut counter. It moves those that time has opened to the open ones.
func (t *table) firstShut(now strategy.Instant) (n uint32, ok bool) {
	for range maxStale {
		if len(t.shut) == 0 {
			return 0, false
		}
		first := &t.shut[0]
		switch rank := t.at(first.number).rank; {
		case rank <= int64(now):
			t.rankOpen(first.number, maxShare)
		case rank > first.opens:
			first.opens = rank
			t.sink(0)
		default:
			return first.number, true
		}
	}
	if len(t.shut) == 0 {
		return 0, false
	}
	return t.shut[0].number, true
}

// rise puts slot into the heap at place i, or as far above as it belongs.
func (t *table) rise(i int, slot shutSlot) {
	for i > 0 {
		parent := (i - 1) / 2
		if t.shut[parent].opens <= slot.opens {
			break
		}
		t.setShut(i, t.shut[parent])
		i = parent
	}
	t.setShut(i, slot)
}

// sink moves the slot at place i of the heap down to where it belongs.
func (t *table) sink(i int) {
	slot := t.shut[i]
	for {
		child := 2*i + 1
		if child >= len(t.shut) {
			break
		}
		if child+1 < len(t.shut) && t.shut[child+1].opens < t.shut[child].opens {
			child++
		}
		if slot.opens <= t.shut[child].opens {
			break
		}
		t.setShut(i, t.shut[child])
		i = child
	}
	t.setShut(i, slot)
}

func (t *table) setShut(i int, slot shutSlot) {
	t.shut[i] = slot
	t.at(slot.number).position = uint32(i) | shutBit
}
