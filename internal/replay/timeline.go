package replay

// maxPoints is how many points of time are counted apart. When there are more, each two
// become one.
const maxPoints = 480

// A point counts what was asked in a part of the time.
type point struct{ Asked, Denied uint64 }

// add adds what was asked in another part.
func (p *point) add(other point) {
	p.Asked += other.Asked
	p.Denied += other.Denied
}

// A series is points of one timeline.
type series struct{ points []point }

// A timeline divides the time of a log into parts of one length, however long it is. The zero
// timeline begins with the first instant.
type timeline struct {
	start, width int64 // in microseconds
	all          []*series
}

// newSeries returns a series of t.
func (t *timeline) newSeries() *series {
	s := new(series)
	t.all = append(t.all, s)
	return s
}

// place returns the part that at is in. Where it makes the parts longer, it does so for all
// series.
func (t *timeline) place(at int64) int {
	if t.width == 0 {
		t.width = 1_000_000
		t.start = at / t.width * t.width
	}
	for (at-t.start)/t.width >= maxPoints {
		t.widen()
	}
	return int((at - t.start) / t.width)
}

// widen makes the parts twice as long.
func (t *timeline) widen() {
	t.width *= 2
	for _, s := range t.all {
		s.halve()
	}
}

// join makes the parts of t and of another timeline that begins with the same instant as long.
func (t *timeline) join(other *timeline) {
	for t.width < other.width {
		t.widen()
	}
	for other.width < t.width {
		other.widen()
	}
}

// count counts in the part at place.
func (s *series) count(place int, denied bool) {
	for len(s.points) <= place {
		s.points = append(s.points, point{})
	}
	s.points[place].Asked++
	if denied {
		s.points[place].Denied++
	}
}

// add adds another series with parts of the same length.
func (s *series) add(other *series) {
	for i, p := range other.points {
		if i == len(s.points) {
			s.points = append(s.points, point{})
		}
		s.points[i].add(p)
	}
}

// halve makes one point of each two.
func (s *series) halve() {
	for i, p := range s.points {
		if i%2 == 0 {
			s.points[i/2] = p
			continue
		}
		s.points[i/2].add(p)
	}
	s.points = s.points[:(len(s.points)+1)/2]
}
