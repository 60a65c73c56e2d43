package memory

import (
	"math/rand/v2"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// sweepPerInsert is how many counters are looked at for being expired
	// when one is added to a shard that is half full: more than one, so that
	// the dead are found faster than they are made. While there is room they are
	// left to the sweeper: with short windows each counter would else be dropped
	// and made anew, at two thirds more time a decision.
	sweepPerInsert = 2

	// evictSample is how many counters an eviction chooses from: enough that
	// the choice is good, few enough to take a fraction of a microsecond.
	evictSample = 16
)

// makeRoom evicts until one more key fits in the shard's share, or nothing is
// left but the pinned.
func (sh *shard) makeRoom(pinned []uint32, now strategy.Instant) {
	if 2*sh.held() >= sh.share {
		sh.expire(sweepPerInsert, pinned, now)
	}
	for sh.held() >= sh.share && sh.evict(pinned, now) {
	}
}

// expire looks at up to n counters and drops those that have expired and are
// not pinned.
func (sh *shard) expire(n int, pinned []uint32, now strategy.Instant) {
	for range min(n, int(sh.used)) {
		if sh.hand >= sh.used {
			sh.hand = 0
		}
		if c := sh.at(sh.hand); c.position != notHeld && c.expires <= now && !slices.Contains(pinned, sh.hand) {
			sh.remove(sh.hand)
		}
		sh.hand++
	}
}

// evict drops one counter that is not pinned and reports whether it found one.
// From a sample of the open it takes one that has expired, or else the one that
// was used least. Only if none is open does it take a shut one: that which
// opens first. So a caller who is denied can not become allowed by having
// others' counters made, as long as the shard holds any that is not denied.
func (sh *shard) evict(pinned []uint32, now strategy.Instant) bool {
	first, anyShut := sh.firstShut(now)
	if victim := sh.sampleOpen(pinned, now); victim != notHeld {
		if sh.at(victim).expires > now {
			sh.evicted[forKeys].open++
		}
		sh.remove(victim)
		return true
	}
	if !anyShut {
		return false
	}
	if slices.Contains(pinned, first) {
		if first = sh.unpinnedShut(pinned); first == notHeld {
			return false
		}
	}
	sh.evicted[forKeys].shut++
	sh.remove(first)
	return true
}

// sampleOpen returns the open counter to evict, or notHeld if there is none.
func (sh *shard) sampleOpen(pinned []uint32, now strategy.Instant) uint32 {
	victim := notHeld
	look := min(len(sh.open), evictSample)
	few := len(sh.open) <= 4*strategy.MaxLimits // so few that all else could be pinned
	if few {
		look = len(sh.open)
	}
	for i := range look {
		if !few {
			i = rand.IntN(len(sh.open))
		}
		n := sh.open[i]
		if slices.Contains(pinned, n) {
			continue
		}
		c := sh.at(n)
		if c.expires <= now {
			return n
		}
		if victim == notHeld || c.rank < sh.at(victim).rank {
			victim = n
		}
	}
	return victim
}

// unpinnedShut returns the number of a shut counter that is not pinned and
// opens among the first, or notHeld if there is none.
func (sh *shard) unpinnedShut(pinned []uint32) uint32 {
	for _, slot := range sh.shut {
		if !slices.Contains(pinned, slot.number) {
			return slot.number
		}
	}
	return notHeld
}

// evictLog drops the counter of one log and reports whether it found one: from
// a sample, one that has expired, or else the open one that was used least; or,
// if a shut one will do, that which opens first.
func (sh *shard) evictLog(shutToo bool, now strategy.Instant) bool {
	if len(sh.logOwner) <= 1 {
		return false
	}
	owners := sh.logOwner[1:]
	victim, start := notHeld, rand.IntN(len(owners))
	for i := range min(len(owners), evictSample) {
		n := owners[(start+i)%len(owners)]
		c := sh.at(n)
		if c.expires <= now {
			victim = n
			break
		}
		if !sh.isOpen(n) && c.rank <= int64(now) {
			sh.rankOpen(n, maxShare)
		}
		if (shutToo || sh.isOpen(n)) && (victim == notHeld || sh.precedes(n, victim)) {
			victim = n
		}
	}
	if victim == notHeld {
		return false
	}
	switch {
	case sh.at(victim).expires <= now:
	case sh.isOpen(victim):
		sh.evicted[forLogs].open++
	default:
		sh.evicted[forLogs].shut++
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
