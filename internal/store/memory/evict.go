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

// A space is a table that holds no more than its share.
type space struct {
	table
	freed   loss   // whom an eviction has freed
	share   int    // how many counters there may be
	hand    uint32 // the number of the counter that expire checks next
	evicted evictions
	random  *rand.Rand // draws whom an eviction looks at; nil: what all use
}

// draw returns a number below n. Without a source of its own it takes that of all.
func draw(random *rand.Rand, n int) int {
	if random != nil {
		return random.IntN(n)
	}
	return rand.IntN(n)
}

// makeRoom evicts counters until one more fits into the share, or only
// pinned ones are left: those that the request at hand needs. The one that needs room
// has joined group g.
func (s *space) makeRoom(g uint32, pinned []uint32, by push) {
	if 2*s.held() >= s.share {
		s.expire(sweepPerInsert, sweepPerInsert, pinned, by.now)
	}
	for s.held() >= s.share {
		if s.expire(1, evictSample, pinned, by.now) {
			continue
		}
		if !s.evict(s.heaviest(g), pinned, by) && !s.evictAny(pinned, by) {
			return
		}
	}
}

// expire checks up to n counters, and drops up to most that have expired and are not
// pinned. It reports whether it found so many.
func (s *space) expire(most, n int, pinned []uint32, now strategy.Instant) bool {
	for range min(n, int(s.used)) {
		if s.hand >= s.used {
			s.hand = 0
		}
		if c := s.at(s.hand); c.position != notHeld && c.expires <= now && !slices.Contains(pinned, s.hand) {
			s.remove(s.hand)
			most--
		}
		s.hand++
		if most == 0 {
			return true
		}
	}
	return false
}

// evictAny drops one counter of the heaviest group that has one which is not pinned,
// and reports whether there is one. It is for shards so small that the request at hand
// has pinned all counters of the heaviest group of all.
func (s *space) evictAny(pinned []uint32, by push) bool {
	others := 0
	for i := range s.holdings {
		if !s.uses[i].favoured() {
			others += s.uses[i].counters()
		}
	}
	victim, most := notHeld, [3]int{}
	for i := range s.holdings {
		used := s.uses[i].counters()
		side := used
		if !s.uses[i].favoured() {
			side = others
		}
		for _, g := range s.holdings[i].groups {
			w := [3]int{side, used, s.groups[g].used[forKeys]}
			if slices.Compare(w[:], most[:]) > 0 && s.unpinned(g, pinned) > 0 {
				victim, most = g, w
			}
		}
	}
	return victim != notHeld && s.evict(victim, pinned, by)
}

// unpinned returns how many counters of group g are not pinned.
func (s *space) unpinned(g uint32, pinned []uint32) int {
	n := len(s.groups[g].open) + len(s.groups[g].shut)
	for _, p := range pinned {
		if p != notHeld && s.at(p).group == g {
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
func (s *space) evict(g uint32, pinned []uint32, by push) bool {
	first, anyShut := s.groups[g].firstShut(&s.slab, by.now)
	if victim := s.sampleOpen(g, pinned, by.now); victim != notHeld {
		s.lose(victim, forKeys, by)
		return true
	}
	if !anyShut {
		return false
	}
	if slices.Contains(pinned, first) {
		if first = s.unpinnedShut(g, pinned); first == notHeld {
			return false
		}
	}
	s.lose(first, forKeys, by)
	return true
}

// lose drops the counter with number n, and counts what that gives away.
func (s *space) lose(n uint32, why cause, by push) {
	c := s.at(n)
	owner := s.groups[c.group].owner
	if c.expires > by.now {
		state := wasOpen
		switch {
		case !c.isOpen():
			state = wasShut
			s.freed, s.news = loss{owner, by.owner, why, by.now}, true
		case c.rank >= maxShare/2:
			state = wasUsed
		}
		pusher := sameNamespace
		if owner != by.owner {
			pusher = otherNamespace
		}
		s.evicted[why][state][pusher]++
	}
	s.remove(n)
}

// sampleOpen returns the number of the open counter of group g to evict, or notHeld
// if every open counter is pinned.
func (s *space) sampleOpen(g uint32, pinned []uint32, now strategy.Instant) uint32 {
	open := s.groups[g].open
	victim := notHeld
	look := min(len(open), evictSample)
	few := len(open) <= 4*strategy.MaxLimits // so few that a sample could be all pinned
	if few {
		look = len(open)
	}
	for i := range look {
		if !few {
			i = draw(s.random, len(open))
		}
		n := open[i]
		if slices.Contains(pinned, n) {
			continue
		}
		c := s.at(n)
		if c.expires <= now {
			return n
		}
		if victim == notHeld || c.rank < s.at(victim).rank {
			victim = n
		}
	}
	return victim
}

// unpinnedShut returns the number of a shut counter of group g that is not pinned and
// is among the first to open, or notHeld if all shut counters are pinned.
func (s *space) unpinnedShut(g uint32, pinned []uint32) uint32 {
	for _, slot := range s.groups[g].shut {
		if !slices.Contains(pinned, slot.number) {
			return slot.number
		}
	}
	return notHeld
}

// evictLog drops one counter of a namespace that has a log, and reports whether it
// found one. It takes it from the limit whose logs are largest, in the order of evict;
// a shut one only if shutToo is set.
func (s *space) evictLog(of *namespace, shutToo bool, by push) bool {
	if int(of.number) >= len(s.places) || s.places[of.number] == 0 {
		return false
	}
	h := &s.holdings[s.places[of.number]-1]
	if h.owner != of || h.entries == 0 {
		return false
	}
	g := s.heaviestIn(h, forLogs, notHeld)
	first, _ := s.groups[g].firstShut(&s.slab, by.now)
	if victim := s.sampleOpen(g, nil, by.now); victim != notHeld {
		s.lose(victim, forLogs, by)
		return true
	}
	if !shutToo {
		return false
	}
	s.lose(first, forLogs, by)
	return true
}
