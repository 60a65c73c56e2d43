package memory

import (
	"math/rand/v2"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	// sweepPerInsert is how many counters are checked for expiry whenever one is
	// added to a shard that is at least half full. It is more than one, so that
	// expired counters are found faster than new ones are made. A shard with more
	// room leaves expired counters to the sweeper. Otherwise, with short windows,
	// each counter would be dropped and made again, which makes a decision take two
	// thirds longer.
	sweepPerInsert = 2

	// evictSample is how many counters an eviction chooses from. It is enough for a
	// good choice, and takes a fraction of a microsecond.
	evictSample = 16
)

// makeRoom evicts counters until one more fits into the shard's share, or only
// pinned ones are left. The request at hand needs the pinned ones.
func (sh *shard) makeRoom(pinned []uint32, now strategy.Instant) {
	if 2*sh.held() >= sh.share {
		sh.expire(sweepPerInsert, pinned, now)
	}
	for sh.held() >= sh.share && sh.evict(pinned, now) {
	}
}

// expire checks up to n counters, and drops those that have expired and are not
// pinned.
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

// evict drops one counter that is not pinned, and reports whether it found one.
// From a sample of the open counters it takes one that has expired, or the one that
// was used least. Only if no counter is open, it takes the shut one that opens
// first. So as long as the shard has an open counter, a caller that is denied cannot
// get allowed by creating counters for other identifiers.
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

// sampleOpen returns the number of the open counter to evict, or notHeld if every
// open counter is pinned.
func (sh *shard) sampleOpen(pinned []uint32, now strategy.Instant) uint32 {
	victim := notHeld
	look := min(len(sh.open), evictSample)
	few := len(sh.open) <= 4*strategy.MaxLimits // so few that a sample could be all pinned
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

// unpinnedShut returns the number of a shut counter that is not pinned and is among
// the first to open, or notHeld if all shut counters are pinned.
func (sh *shard) unpinnedShut(pinned []uint32) uint32 {
	for _, slot := range sh.shut {
		if !slices.Contains(pinned, slot.number) {
			return slot.number
		}
	}
	return notHeld
}

// evictLog drops one counter that has a log, and reports whether it found one. From
// a sample it takes one that has expired, or the open one that was used least. If
// none is open and shutToo is set, it takes the shut one that opens first.
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

// precedes reports whether n should be evicted before m: the loss of an open counter,
// or of one with a lower rank, lets fewer requests pass that should be denied.
func (sh *shard) precedes(n, m uint32) bool {
	if sh.isOpen(n) != sh.isOpen(m) {
		return sh.isOpen(n)
	}
	return sh.at(n).rank < sh.at(m).rank
}
