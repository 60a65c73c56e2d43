package memory

import "github.com/ratelimitd/ratelimitd/internal/strategy"

// A ranking orders the counters of a group for eviction. It evicts first the counter
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

	// minRoom is for how many counters a group keeps room.
	minRoom = 16
)

// isOpen reports whether the counter with number n is open.
func (t *table) isOpen(n uint32) bool { return t.at(n).position&shutBit == 0 }

// rankOpen makes the counter with number n open, with that share of its capacity
// used.
func (t *table) rankOpen(n uint32, share int64) {
	c := t.at(n)
	if c.position&shutBit != 0 {
		t.dropRank(n)
		t.addOpen(n)
	}
	c.rank = share
}

// rankShut makes the counter with number n shut until that instant.
func (t *table) rankShut(n uint32, until strategy.Instant) {
	c := t.at(n)
	r := &t.groups[c.group].ranking
	c.rank = int64(until)
	if c.position&shutBit == 0 {
		t.dropRank(n)
		r.shut = append(r.shut, shutSlot{})
		t.rise(r, len(r.shut)-1, shutSlot{c.rank, n})
		return
	}
	if i := int(c.position &^ shutBit); c.rank < r.shut[i].opens {
		t.rise(r, i, shutSlot{c.rank, n})
	}
}

// addOpen adds the counter with number n to the open ones of its group.
func (t *table) addOpen(n uint32) {
	c := t.at(n)
	r := &t.groups[c.group].ranking
	c.position = uint32(len(r.open))
	r.open = append(r.open, n)
}

// dropRank removes the counter with number n from the ranking.
func (t *table) dropRank(n uint32) {
	c := t.at(n)
	r := &t.groups[c.group].ranking
	i := int(c.position &^ shutBit)
	if c.position&shutBit == 0 {
		last := len(r.open) - 1
		r.open[i] = r.open[last]
		t.at(r.open[i]).position = uint32(i)
		r.open = shrunk(r.open[:last])
	} else {
		last := len(r.shut) - 1
		moved := r.shut[last]
		r.shut = r.shut[:last]
		if i < last {
			t.rise(r, i, moved)
			t.sink(r, int(t.at(moved.number).position&^shutBit))
		}
		r.shut = shrunk(r.shut)
	}
	c.position = notHeld
}

// shrunk returns s with less room, if it needs only a small part of it: a group may
// have been large long ago.
func shrunk[T any](s []T) []T {
	if cap(s) <= minRoom || len(s) > cap(s)/4 {
		return s
	}
	return append(make([]T, 0, cap(s)/2), s...)
}

// firstShut returns the number of the shut counter of group g that opens first, and
// whether there is a shut counter. It moves those that time has opened to the open
// ones.
func (t *table) firstShut(g uint32, now strategy.Instant) (n uint32, ok bool) {
	r := &t.groups[g].ranking
	for range maxStale {
		if len(r.shut) == 0 {
			return 0, false
		}
		first := &r.shut[0]
		switch rank := t.at(first.number).rank; {
		case rank <= int64(now):
			t.rankOpen(first.number, maxShare)
		case rank > first.opens:
			first.opens = rank
			t.sink(r, 0)
		default:
			return first.number, true
		}
	}
	if len(r.shut) == 0 {
		return 0, false
	}
	return r.shut[0].number, true
}

// rise puts slot into the heap at place i, or as far above as it belongs.
func (t *table) rise(r *ranking, i int, slot shutSlot) {
	for i > 0 {
		parent := (i - 1) / 2
		if r.shut[parent].opens <= slot.opens {
			break
		}
		t.setShut(r, i, r.shut[parent])
		i = parent
	}
	t.setShut(r, i, slot)
}

// sink moves the slot at place i of the heap down to where it belongs.
func (t *table) sink(r *ranking, i int) {
	slot := r.shut[i]
	for {
		child := 2*i + 1
		if child >= len(r.shut) {
			break
		}
		if child+1 < len(r.shut) && r.shut[child+1].opens < r.shut[child].opens {
			child++
		}
		if slot.opens <= r.shut[child].opens {
			break
		}
		t.setShut(r, i, r.shut[child])
		i = child
	}
	t.setShut(r, i, slot)
}

func (t *table) setShut(r *ranking, i int, slot shutSlot) {
	r.shut[i] = slot
	t.at(slot.number).position = uint32(i) | shutBit
}
