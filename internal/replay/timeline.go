package replay

// maxPoints is how many points of time are counted apart. When there are more, each two
// become one.
const maxPoints = 480

// A point counts what was asked in a part of the time.
type point struct{ Asked, Denied uint64 }

// A timeline divides the time of a log into parts of one length, however long it is. The zero
// timeline begins with the first instant.
type timeline struct {
	start, width int64 // in microseconds
	all          []point
}

// place returns the part that at is in. Where it makes the parts longer, it does so for rows
// too.
func (t *timeline) place(at int64, rows []*row) int {
	if t.width == 0 {
		t.width = 1_000_000
		t.start = at / t.width * t.width
	}
	for (at-t.start)/t.width >= maxPoints {
		t.width *= 2
		t.all = halve(t.all)
		for _, w := range rows {
			w.times = halve(w.times)
		}
	}
	return int((at - t.start) / t.width)
}

// count counts in points, which it makes longer if it must.
func (t *timeline) count(points []point, place int, denied bool) []point {
	for len(points) <= place {
		points = append(points, point{})
	}
	points[place].Asked++
	if denied {
		points[place].Denied++
	}
	return points
}

// halve makes one point of each two.
func halve(points []point) []point {
	for i := range points {
		p := points[i]
		if i%2 == 0 {
			points[i/2] = p
			continue
		}
		points[i/2].Asked += p.Asked
		points[i/2].Denied += p.Denied
	}
	return points[:(len(points)+1)/2]
}
