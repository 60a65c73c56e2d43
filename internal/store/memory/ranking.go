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

// isOpen reports whether c is open.
func (c *counter) isOpen() bool { return c.position&shutBit == 0 }

// reopen makes the shut counter with number n open.
func (r *ranking) reopen(s *slab, n uint32) {
	r.drop(s, n)
	r.add(s, n)
}

// shutUntil makes the counter with number n shut until that instant.
func (r *ranking) shutUntil(s *slab, n uint32, until strategy.Instant) {
	c := s.at(n)
	c.rank = int64(until)
	if c.isOpen() {
		r.drop(s, n)
		r.shut = append(r.shut, shutSlot{})
		r.rise(s, len(r.shut)-1, shutSlot{c.rank, n})
		return
	}
	if i := int(c.position &^ shutBit); c.rank < r.shut[i].opens {
		r.rise(s, i, shutSlot{c.rank, n})
	}
}

// add adds the counter with number n to the open ones.
func (r *ranking) add(s *slab, n uint32) {
	s.at(n).position = uint32(len(r.open))
	r.open = append(r.open, n)
}

// drop removes the counter with number n.
func (r *ranking) drop(s *slab, n uint32) {
	c := s.at(n)
	i := int(c.position &^ shutBit)
	if c.isOpen() {
		last := len(r.open) - 1
		r.open[i] = r.open[last]
		s.at(r.open[i]).position = uint32(i)
		r.open = shrunk(r.open[:last])
	} else {
		last := len(r.shut) - 1
		moved := r.shut[last]
		r.shut = r.shut[:last]
		if i < last {
			r.rise(s, i, moved)
			r.sink(s, int(s.at(moved.number).position&^shutBit))
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

// firstShut returns the number of the shut counter that opens first, and whether there
// is a shut counter. It moves those that time has opened to the open ones.
func (r *ranking) firstShut(s *slab, now strategy.Instant) (n uint32, ok bool) {
	for range maxStale {
		if len(r.shut) == 0 {
			return 0, false
		}
		first := &r.shut[0]
		switch c := s.at(first.number); {
		case c.rank <= int64(now):
			r.reopen(s, first.number)
			c.rank = maxShare
		case c.rank > first.opens:
			first.opens = c.rank
			r.sink(s, 0)
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
func (r *ranking) rise(s *slab, i int, slot shutSlot) {
	for i > 0 {
		parent := (i - 1) / 2
		if r.shut[parent].opens <= slot.opens {
			break
		}
		r.setShut(s, i, r.shut[parent])
		i = parent
	}
	r.setShut(s, i, slot)
}

// sink moves the slot at place i of the heap down to where it belongs.
func (r *ranking) sink(s *slab, i int) {
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
		r.setShut(s, i, r.shut[child])
		i = child
	}
	r.setShut(s, i, slot)
}

func (r *ranking) setShut(s *slab, i int, slot shutSlot) {
	r.shut[i] = slot
	s.at(slot.number).position = uint32(i) | shutBit
}
