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

// A push is what needs room.
type push struct {
	owner *namespace
	now   strategy.Instant
}

// A loss is a caller that an eviction set free.
type loss struct {
	of, by *namespace // whose counter it was, and who needed the room
	cause  cause
	at     strategy.Instant
}

// makeRoom evicts counters until one more fits into the shard's share, or only
// pinned ones are left: those that the request at hand needs. The one that needs room
// has joined group g.
func (sh *shard) makeRoom(g uint32, pinned []uint32, by push) {
	if 2*sh.held() >= sh.share {
		sh.expire(sweepPerInsert, sweepPerInsert, pinned, by.now)
	}
	for sh.held() >= sh.share {
		if sh.expire(1, evictSample, pinned, by.now) {
			continue
		}
		if !sh.evict(sh.heaviest(g), pinned, by) && !sh.evictAny(pinned, by) {
			return
		}
	}
}

// expire checks up to n counters, and drops up to most that have expired and are not
// pinned. It reports whether it found so many.
func (sh *shard) expire(most, n int, pinned []uint32, now strategy.Instant) bool {
	for range min(n, int(sh.used)) {
		if sh.hand >= sh.used {
			sh.hand = 0
		}
		if c := sh.at(sh.hand); c.position != notHeld && c.expires <= now && !slices.Contains(pinned, sh.hand) {
			sh.remove(sh.hand)
			most--
		}
		sh.hand++
		if most == 0 {
			return true
		}
	}
	return false
}

// evictAny drops one counter of the heaviest group that has one which is not pinned,
// and reports whether there is one. It is for shards so small that the request at hand
// has pinned all counters of the heaviest group of all.
func (sh *shard) evictAny(pinned []uint32, by push) bool {
	others := 0
	for i := range sh.holdings {
		if !sh.uses[i].favoured() {
			others += sh.uses[i].counters()
		}
	}
	victim, most := notHeld, [3]int{}
	for i := range sh.holdings {
		used := sh.uses[i].counters()
		side := used
		if !sh.uses[i].favoured() {
			side = others
		}
		for _, g := range sh.holdings[i].groups {
			w := [3]int{side, used, sh.groups[g].used[forKeys]}
			if slices.Compare(w[:], most[:]) > 0 && sh.unpinned(g, pinned) > 0 {
				victim, most = g, w
			}
		}
	}
	return victim != notHeld && sh.evict(victim, pinned, by)
}

// unpinned returns how many counters of group g are not pinned.
func (sh *shard) unpinned(g uint32, pinned []uint32) int {
	n := len(sh.groups[g].open) + len(sh.groups[g].shut)
	for _, p := range pinned {
		if p != notHeld && sh.at(p).group == g {
			n--
		}
	}
	return n
}

// evict drops one counter of group g that is not pinned, and reports whether it found
// one. From a sample of the open counters it takes one that has expired, or the one
// that was used least. Only if no counter is open, it takes the shut one that opens
// first. So as long as the group has an open counter, a caller that is denied cannot
// get allowed by creating counters for other identifiers.
func (sh *shard) evict(g uint32, pinned []uint32, by push) bool {
	first, anyShut := sh.firstShut(g, by.now)
	if victim := sh.sampleOpen(g, pinned, by.now); victim != notHeld {
		sh.lose(victim, forKeys, by)
		return true
	}
	if !anyShut {
		return false
	}
	if slices.Contains(pinned, first) {
		if first = sh.unpinnedShut(g, pinned); first == notHeld {
			return false
		}
	}
	sh.lose(first, forKeys, by)
	return true
}

// lose drops the counter with number n, and counts what that gives away.
func (sh *shard) lose(n uint32, why cause, by push) {
	c := sh.at(n)
	owner := sh.groups[c.group].owner
	if c.expires > by.now {
		state := wasOpen
		switch {
		case !sh.isOpen(n):
			state = wasShut
			sh.freed, sh.news = loss{owner, by.owner, why, by.now}, true
		case c.rank >= maxShare/2:
			state = wasUsed
		}
		pusher := sameNamespace
		if owner != by.owner {
			pusher = otherNamespace
		}
		sh.evicted[why][state][pusher]++
	}
	sh.remove(n)
}

// sampleOpen returns the number of the open counter of group g to evict, or notHeld
// if every open counter is pinned.
func (sh *shard) sampleOpen(g uint32, pinned []uint32, now strategy.Instant) uint32 {
	open := sh.groups[g].open
	victim := notHeld
	look := min(len(open), evictSample)
	few := len(open) <= 4*strategy.MaxLimits // so few that a sample could be all pinned
	if few {
		look = len(open)
	}
	for i := range look {
		if !few {
			i = rand.IntN(len(open))
		}
		n := open[i]
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

// unpinnedShut returns the number of a shut counter of group g that is not pinned and
// is among the first to open, or notHeld if all shut counters are pinned.
func (sh *shard) unpinnedShut(g uint32, pinned []uint32) uint32 {
	for _, slot := range sh.groups[g].shut {
		if !slices.Contains(pinned, slot.number) {
			return slot.number
		}
	}
	return notHeld
}

// evictLog drops one counter of a namespace that has a log, and reports whether it
// found one. It takes it from the limit whose logs are largest, in the order of evict;
// a shut one only if shutToo is set.
func (sh *shard) evictLog(of *namespace, shutToo bool, by push) bool {
	if int(of.number) >= len(sh.places) || sh.places[of.number] == 0 {
		return false
	}
	h := &sh.holdings[sh.places[of.number]-1]
	if h.owner != of || h.entries == 0 {
		return false
	}
	g := sh.heaviestIn(h, forLogs, notHeld)
	first, _ := sh.firstShut(g, by.now)
	if victim := sh.sampleOpen(g, nil, by.now); victim != notHeld {
		sh.lose(victim, forLogs, by)
		return true
	}
	if !shutToo {
		return false
	}
	sh.lose(first, forLogs, by)
	return true
}
