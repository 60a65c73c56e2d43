package replay

import (
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A row counts what was asked of one limit.
type row struct {
	namespace, policy string
	name              string // of the limit
	limit             *strategy.Limit
	mode              strategy.Mode // by which it is asked
	shadow            bool          // it denies nothing
	born              uint64        // how many events were before the first that it was asked about
	asked, denied     uint64
	times             *series
}

// add adds what another lane has counted of the same limit.
func (w *row) add(other *row) {
	w.born = min(w.born, other.born)
	w.asked += other.asked
	w.denied += other.denied
	w.times.add(other.times)
}

// A hold is what one limit did to a counter.
type hold struct {
	row    *row
	denied uint64
	first  int64 // when it was first denied
	last   int64

	until int64 // when the period of the limit ends that is counted in
	units uint64
	peak  uint64 // the most units that were asked in one period
}

// count counts what was asked at an instant, which the limit denies or not.
func (h *hold) count(at int64, cost uint64, denied bool, place int) {
	h.row.asked++
	if denied {
		h.row.denied++
		if h.denied++; h.denied == 1 {
			h.first = at
		}
		h.last = at
	}
	h.row.times.count(place, denied)
	period := int64(h.row.limit.Rate.Period / time.Microsecond)
	if period == 0 {
		return // it is unlimited
	}
	if at >= h.until {
		h.until, h.units = (at/period+1)*period, 0
	}
	h.units += cost
	h.peak = max(h.peak, h.units)
}
