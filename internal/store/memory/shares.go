package memory

// maxGroups is how many limits of a namespace have a group of their own in a shard. The
// others share one group, and those with logs another. So nobody can make up limits
// until nothing is left for the real ones, and a search stays short.
//
// So that groups take little memory, a namespace that is not favoured gets no more if a
// shard has minGroups and one for each countersPerGroup that it has room for.
const (
	maxGroups        = 16
	countersPerGroup = 16
	minGroups        = 64
)

// The limits of groups that several limits share. A real limit is a random hash.
const (
	otherLimits uint64 = iota
	otherLogs
)

// shares says whose counters are in a shard. A shard that is full takes the next
// counter from the group that holds most, so its room is shared max-min fairly:
// nobody loses a counter to another as long as he holds no more than an equal share,
// and what some do not use is shared by the rest. The room is divided first among the
// favoured namespaces and all others together, then among the others, and then among
// the limits of a namespace.
//
// It has room in use, not counters that are live: an expired counter counts until it
// is dropped.
type shares struct {
	maxOwn     int // how many groups there may be before those that are not favoured get no more
	groups     []group
	freeGroups []uint32 // indices of groups that are not used now

	holdings []holding // in no order
	uses     []use     // of each of holdings
	places   []uint32  // by number of a namespace: the index of its holding plus 1, or 0 if it has none
}

// A group is the counters of one limit of one namespace in a shard.
type group struct {
	ranking
	limit uint64 // a hash of the limit; or otherLimits or otherLogs
	owner *namespace
	used  [causes]int // counters, log entries
}

// A holding is what one namespace has in a shard.
type holding struct {
	owner   *namespace
	entries int      // of logs
	groups  []uint32 // indices
}

// A use is how many counters a holding has, times 2, plus 1 if its owner is favoured.
// Uses are apart from the holdings because an eviction looks at all of them.
type use uint32

const oneCounter use = 2

func (u use) counters() int  { return int(u / oneCounter) }
func (u use) favoured() bool { return u%oneCounter == 1 }

// useOf returns the use of owner for so many counters.
func useOf(owner *namespace, counters int) use {
	u := use(counters) * oneCounter
	if owner.favoured.Load() {
		u++
	}
	return u
}

// join makes room in the books for one more counter of a limit, and returns its
// group. The caller must add the counter, or leave.
func (s *shares) join(owner *namespace, limit uint64, log bool) (g uint32) {
	i := s.placeOf(owner)
	h := &s.holdings[i]
	g, found := s.groupIn(h, limit)
	if !found && (len(h.groups) >= maxGroups || !s.uses[i].favoured() && len(s.groups)-len(s.freeGroups) >= s.maxOwn) {
		limit = otherLimits
		if log {
			limit = otherLogs
		}
		g, found = s.groupIn(h, limit)
	}
	if !found {
		g = s.newGroup()
		s.groups[g].limit, s.groups[g].owner = limit, owner
		h.groups = append(h.groups, g)
	}
	s.uses[i] += oneCounter
	s.groups[g].used[forKeys]++
	return g
}

// leave is the reverse of join.
func (s *shares) leave(g uint32) {
	owner := s.groups[g].owner
	i := s.placeOf(owner)
	h := &s.holdings[i]
	s.uses[i] -= oneCounter
	s.groups[g].used[forKeys]--
	if s.groups[g].used[forKeys] > 0 {
		return
	}
	s.groups[g].owner = nil
	s.freeGroups = append(s.freeGroups, g)
	last := len(h.groups) - 1
	for j := range h.groups {
		if h.groups[j] == g {
			h.groups[j] = h.groups[last]
			break
		}
	}
	h.groups = h.groups[:last]
	if last == 0 {
		s.dropHolding(owner)
	}
}

// addEntries notes that a log of group g has grown by n entries.
func (s *shares) addEntries(g uint32, n int) {
	owner := s.groups[g].owner
	s.groups[g].used[forLogs] += n
	s.holdings[s.placeOf(owner)].entries += n
	owner.entries.Add(int64(n))
}

// placeOf returns the place of a namespace in holdings. It is valid until the next
// holding is made or dropped.
func (s *shares) placeOf(owner *namespace) int {
	if missing := int(owner.number) + 1 - len(s.places); missing > 0 {
		s.places = append(s.places, make([]uint32, missing)...)
	}
	if place := s.places[owner.number]; place > 0 {
		return int(place) - 1
	}
	if len(s.holdings) < cap(s.holdings) {
		s.holdings = s.holdings[:len(s.holdings)+1] // to use its memory again
	} else {
		s.holdings = append(s.holdings, holding{})
	}
	s.places[owner.number] = uint32(len(s.holdings))
	last := len(s.holdings) - 1
	s.holdings[last] = holding{owner: owner, groups: s.holdings[last].groups[:0]}
	s.uses = append(s.uses, useOf(owner, 0))
	owner.holdings.Add(1)
	return last
}

func (s *shares) dropHolding(owner *namespace) {
	place, last := s.places[owner.number]-1, len(s.holdings)-1
	s.uses[place] = s.uses[last]
	s.uses = s.uses[:last]
	s.holdings[place], s.holdings[last] = s.holdings[last], s.holdings[place]
	s.places[s.holdings[place].owner.number] = place + 1
	s.places[owner.number] = 0
	s.holdings[last].owner = nil
	s.holdings = s.holdings[:last]
	owner.holdings.Add(-1)
}

func (s *shares) groupIn(h *holding, limit uint64) (g uint32, found bool) {
	for _, g := range h.groups {
		if s.groups[g].limit == limit {
			return g, true
		}
	}
	return 0, false
}

func (s *shares) newGroup() uint32 {
	if last := len(s.freeGroups) - 1; last >= 0 {
		g := s.freeGroups[last]
		s.freeGroups = s.freeGroups[:last]
		return g
	}
	s.groups = append(s.groups, group{})
	return uint32(len(s.groups) - 1)
}

// heaviest returns the group that has to give up a counter for the newest one of
// group pusher, which has joined.
func (s *shares) heaviest(pusher uint32) uint32 {
	mine := int(s.places[s.groups[pusher].owner.number]) - 1
	favoured, other := -1, -1   // the places of the heaviest
	var ofFavoured, ofOther int // their weights
	others := 0
	for i, u := range s.uses {
		w := weight(u.counters(), i == mine)
		if u.favoured() {
			if w > ofFavoured {
				favoured, ofFavoured = i, w
			}
			continue
		}
		others += u.counters()
		if w > ofOther {
			other, ofOther = i, w
		}
	}
	if favoured < 0 || weight(others, !s.uses[mine].favoured()) > ofFavoured {
		favoured = other
	}
	return s.heaviestIn(&s.holdings[favoured], forKeys, pusher)
}

// heaviestIn returns the heaviest group of h.
func (s *shares) heaviestIn(h *holding, why cause, pusher uint32) (heaviest uint32) {
	most := 0
	for _, g := range h.groups {
		if w := weight(s.groups[g].used[why], g == pusher); w > most {
			heaviest, most = g, w
		}
	}
	return heaviest
}

// weight orders those who use room. Of two that use as much, the pusher is heavier, so
// that it makes room for itself; but not if all that it uses is the counter to come.
func weight(used int, pusher bool) int {
	switch {
	case !pusher:
		return 2 * used
	case used > 1:
		return 2*used + 1
	default:
		return 2*used - 1
	}
}
