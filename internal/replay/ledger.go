package replay

import (
	"time"

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
}

// A subject is an identifier within a namespace, held to a policy; or a descriptor. It has
// what became of it.
type subject struct {
	mapping.Name

	number uint32 // of the first maxSubjects; the others have none
	others bool   // it is not remembered: there are too many
	asked  uint64
	sides  [2]side // each is written by the goroutine of its configuration alone
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
	denied uint64
	*counter
}

// A counter is what is held to some limits together: mostly one subject, but several of
// Envoy's descriptors may share one.
type counter struct {
	identifier string
	asked      uint64
	limits     []hold
}

// A hold is what one limit did to a counter.
type hold struct {
	row    *row
	denied uint64
	first  int64 // when it was first denied
	last   int64

	window int64 // the period of the limit that is counted in, since the epoch
	units  uint64
	peak   uint64 // the most units that were asked in one period
}

// A row counts what was asked of one limit.
type row struct {
	namespace, policy string
	name              string // of the limit
	limit             *strategy.Limit
	mode              strategy.Mode // by which it is asked
	shadow            bool          // it denies nothing
	asked, denied     uint64
	times             *series
}

// count counts an event, which the limit denies or not.
func (h *hold) count(e *event, denied bool, place int) {
	h.row.asked++
	if denied {
		h.row.denied++
		if h.denied++; h.denied == 1 {
			h.first = e.at
		}
		h.last = e.at
	}
	h.row.times.count(place, denied)
	period := int64(h.row.limit.Rate.Period / time.Microsecond)
	if period == 0 {
		return // it is unlimited
	}
	if window := e.at / period; window != h.window {
		h.window, h.units = window, 0
	}
	h.units += e.cost
	h.peak = max(h.peak, h.units)
}

// subjects are all that ask, at most as many as there is room for.
type subjects struct {
	byKey map[string]*subject
	all   []*subject
	most  int
	// Others counts records of subjects for which there was no room.
	others uint64
}

func newSubjects(most int) *subjects { return &subjects{byKey: map[string]*subject{}, most: most} }

// find returns the subject of a key.
func (s *subjects) find(key []byte) *subject {
	if who := s.byKey[string(key)]; who != nil {
		return who
	}
	text := string(key)
	who := &subject{Name: mapping.NameOf(text)}
	if len(s.all) >= s.most {
		s.others++
		who.others = true
		return who
	}
	who.number = uint32(len(s.all)) //nolint:gosec // of as many as there is memory for
	s.byKey[text] = who
	s.all = append(s.all, who)
	return who
}

func share(part, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return float64(part) / float64(of)
}
