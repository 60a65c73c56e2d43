package memory

import (
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A counter is the memory of one counter. It fits into a cache line, and has no
// pointers, so that the garbage collector need not scan it.
type counter struct {
	key      key
	last     strategy.Instant // these three are the State. In a State, group would find no room.
	part     uint64           // its Part; and in the highest bits, those of Used
	used     uint32           // the low bits of Used
	group    uint32           // the index of its group: see shares
	expires  strategy.Instant // from when on the counter is unused and can be dropped
	rank     int64            // see ranking
	position uint32           // see ranking; notHeld if this is not a counter now
	log      atomic.Uint32    // the index of its Log in logs; 0 if it has no Log
}

// set makes c an unused counter with key k of group g.
func (c *counter) set(k key, g uint32) {
	c.key, c.group, c.expires, c.rank, c.position = k, g, 0, 0, notHeld
	c.setState(&strategy.State{})
	c.log.Store(0)
}

const (
	usedBits = 32 // of Used, in used: the others are in part, above partBits
	partBits = 48
)

func (c *counter) state() strategy.State {
	return strategy.State{Last: c.last, Part: int64(c.part & (1<<partBits - 1)), Used: int64(c.part>>partBits<<usedBits | uint64(c.used))}
}

func (c *counter) setState(s *strategy.State) {
	c.last, c.part, c.used = s.Last, uint64(s.Part)|uint64(s.Used)>>usedBits<<partBits, uint32(s.Used)
}

const (
	chunkSize = 256 // 16 kB

	// notHeld is a number that no counter has. As a position, it means that the
	// number is free.
	notHeld = ^uint32(0)
)

type chunk [chunkSize]counter

// A slab has counters in chunks that never move. They have numbers from 0. Only at may be
// called without the shard's lock.
type slab struct {
	chunks []atomic.Pointer[chunk] // nil from the first chunk on that was not needed yet
	used   uint32                  // the lowest number that was never given out
	free   []uint32                // numbers below used to give out again
}

// newSlab returns a slab with room for max counters.
func newSlab(max int) slab { return slab{chunks: make([]atomic.Pointer[chunk], max/chunkSize+1)} }

func (s *slab) at(n uint32) *counter { return &s.chunks[n/chunkSize].Load()[n%chunkSize] }

// number returns a number for a new counter.
func (s *slab) number() uint32 {
	if last := len(s.free) - 1; last >= 0 {
		n := s.free[last]
		s.free = s.free[:last]
		return n
	}
	if s.used%chunkSize == 0 {
		s.chunks[s.used/chunkSize].Store(new(chunk))
	}
	s.used++
	return s.used - 1
}

// release gives back the number n.
func (s *slab) release(n uint32) {
	s.at(n).set(key{}, 0)
	s.free = append(s.free, n)
}
