package memory

import (
	"math/rand/v2"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// maxShare is the rank of an open counter that is used up.
	maxShare = 1 << 16

	// entriesPerKey is how many log entries take as much memory as a counter.
	entriesPerKey = 4

	// sweepPerInsert is how many counters are looked at for being expired
	// when one is added: more than one, so that the dead are found faster
	// than they are made.
	sweepPerInsert = 2

	// evictSample is how many counters an eviction chooses from: enough that
	// the choice is good, few enough to take a fraction of a microsecond. A
	// shard with no more than that chooses from all.
	evictSample = 16
)

// size returns what the shard holds, in keys.
func (sh *shard) size() int { return sh.held() + sh.entries/entriesPerKey }

// makeRoom evicts until n more keys fit in the shard's share, or nothing is
// left but the pinned.
func (sh *shard) makeRoom(n int, pinned []uint32, now strategy.Instant) {
	sh.expireUnpinned(sweepPerInsert, pinned, now)
	for sh.size()+n > sh.share && sh.evict(pinned, now) {
	}
}

// expire looks at up to n counters and drops those that have expired.
func (sh *shard) expire(n int, now strategy.Instant) { sh.expireUnpinned(n, nil, now) }

func (sh *shard) expireUnpinned(n int, pinned []uint32, now strategy.Instant) {
	for range min(n, sh.held()) {
		if sh.hand >= sh.held() {
			sh.hand = 0
		}
		if i := sh.order[sh.hand]; sh.at(i).expires <= now && !slices.Contains(pinned, i) {
			sh.remove(i) // another takes its place
		} else {
			sh.hand++
		}
		if sh.held() == 0 {
			return
		}
	}
}

// evict drops one counter and reports whether it found one. From a sample it
// takes one that has expired; or the open one that was used least; or, if the
// sample has none, an open one from elsewhere in the shard; or, if there is
// none at all, the shut one that opens soonest. So a caller who is denied can
// not become allowed by having others' counters made, as long as there is any
// counter whose loss gives less away.
func (sh *shard) evict(pinned []uint32, now strategy.Instant) bool {
	victim := none
	consider := func(n uint32) {
		if !slices.Contains(pinned, n) && (victim == none || sh.precedes(n, victim)) {
			victim = n
		}
	}
	held, sample := sh.held(), evictSample+len(pinned)
	for i, start := 0, rand.IntN(held); i < min(sample, held); i++ {
		n := sh.order[(start+i)%held]
		c := sh.at(n)
		if c.expires <= now && !slices.Contains(pinned, n) {
			sh.remove(n)
			return true
		}
		if !sh.isOpen(n) && strategy.Instant(c.rank) <= now { // time has opened it
			c.rank = maxShare
			sh.setOpen(n, true)
		}
		consider(n)
	}
	if sh.open > 0 && (victim == none || !sh.isOpen(victim)) {
		for i, start := 0, rand.IntN(sh.open); i < min(sample, sh.open); i++ {
			consider(sh.order[(start+i)%sh.open])
		}
	}
	if victim == none {
		return false
	}
	if sh.isOpen(victim) {
		sh.evictedOpen++
	} else {
		sh.evictedShut++
	}
	sh.remove(victim)
	return true
}

// precedes reports whether the loss of counter n gives less away than that of m.
func (sh *shard) precedes(n, m uint32) bool {
	if sh.isOpen(n) != sh.isOpen(m) {
		return sh.isOpen(n)
	}
	return sh.at(n).rank < sh.at(m).rank
}

func (sh *shard) isOpen(n uint32) bool { return int(sh.at(n).position) < sh.open }
