package replay

import (
	"cmp"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/replay/mapping"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// An event is what a subject asks at an instant.
type event struct {
	at   int64
	cost uint64
	who  *subject
	more bool // the next event is of the same record
	lane uint8
}

// A subject is an identifier within a namespace, held to a policy; or a descriptor. It has
// what became of it.
type subject struct {
	asked uint64
	sides [2]side // each is written by the lane of its configuration alone
	mapping.Name
	number uint32 // of those that are remembered
	others bool   // it is not remembered: there are too many

	// own is the counter of the first side, if that is held to one limit and shares it with none. Like
	// this, all that most decisions write to is in one place.
	own counter
	one [1]hold // of own
}

// text returns what people call s.
func (s *subject) text() string {
	if !s.IsDescriptor {
		return s.Identifier
	}
	return envoy.Identifier(s.Entries)
}

// A side is what one of the two configurations did to a subject.
type side struct {
	denied   uint64
	*counter // nil: it was held to nothing yet
}

// A counter is what is held to some limits together: mostly one subject, but several of
// Envoy's descriptors may share one.
type counter struct {
	policy     []strategy.Limit // the limits of a policy; nil: it is of descriptors
	identifier string
	asked      uint64
	limits     []hold
}

// newCounter returns a counter of rows, for a side of who.
func newCounter(who *subject, side int, identifier string, rows []*row) *counter {
	var c *counter
	if side == 0 && len(rows) == 1 { // the lane of the other side must not even look at own
		c = &who.own
		c.limits = who.one[:]
	} else {
		c = &counter{limits: make([]hold, len(rows))}
	}
	c.identifier = identifier
	for i := range rows {
		c.limits[i].row = rows[i]
	}
	return c
}

// subjects are all that ask, at most as many as there is room for.
type subjects struct {
	index []place // has a power of two of places. A search goes on to the next place
	lane  func(*mapping.Name) uint8
	all   []*subject
	slab  []subject         // those to come are made of these: many together take less memory and time
	texts map[string]string // of names that many have, so that these are in one place
	most  int

	touched uint8 // what fetch has read, so that it is read
	// Others counts records of subjects for which there was no room.
	others uint64
}

// A place of an index has all that is looked at for each record, so that the processor waits for
// memory once.
type place struct {
	sum [2]uint64 // of the key
	who *subject  // nil: the place is free
	// lane is that of who.
	lane uint8
}

const (
	minPlaces    = 1 << 10 // of an index at first
	slabSubjects = 256
	maxTexts     = 1000
)

func newSubjects(most int) *subjects {
	return &subjects{index: make([]place, minPlaces), texts: map[string]string{}, most: most, lane: func(*mapping.Name) uint8 { return 0 }}
}

// find returns the subject of an ask, and its lane.
func (s *subjects) find(asks *mapping.Asks, i int) (who *subject, lane uint8) {
	sum := &asks.All[i].Sum
	p := s.seek(sum)
	if p.who != nil {
		return p.who, p.lane
	}
	name := mapping.NameOf(string(asks.Key(i)))
	lane = s.lane(&name)
	if len(s.all) >= s.most {
		s.others++
		return &subject{Name: name, others: true}, lane
	}
	if len(s.slab) == 0 {
		s.slab = make([]subject, slabSubjects)
	}
	who, s.slab = &s.slab[0], s.slab[1:]
	name.Namespace, name.Policy = s.text(name.Namespace), s.text(name.Policy)
	who.Name = name
	who.number = uint32(len(s.all)) //nolint:gosec // of as many as there is memory for
	*p = place{*sum, who, lane}
	if s.all = append(s.all, who); len(s.all) > len(s.index)/2 {
		s.grow()
	}
	return who, lane
}

// text returns a text in the memory of one that is equal, if there are not too many.
func (s *subjects) text(of string) string {
	known, ok := s.texts[of]
	if ok || len(s.texts) >= maxTexts {
		return cmp.Or(known, of)
	}
	of = strings.Clone(of)
	s.texts[of] = of
	return of
}

// fetch touches the places of asks, so that the processor waits for the memory of all together.
func (s *subjects) fetch(asks []mapping.Ask) {
	mask := uint64(len(s.index) - 1)
	for i := range asks {
		s.touched += s.index[asks[i].Sum[0]&mask].lane
	}
}

// seek returns the place of a sum, or where it is to be.
func (s *subjects) seek(sum *[2]uint64) *place {
	mask := uint64(len(s.index) - 1)
	for i := sum[0] & mask; ; i = (i + 1) & mask {
		if p := &s.index[i]; p.who == nil || p.sum == *sum {
			return p
		}
	}
}

func (s *subjects) grow() {
	old := s.index
	s.index = make([]place, 2*len(old))
	for i := range old {
		if old[i].who != nil {
			*s.seek(&old[i].sum) = old[i]
		}
	}
}
