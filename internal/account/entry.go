package account

import (
	"math"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// An Entry is one decision.
type Entry struct {
	Namespace  string
	Identifier string // "" leaves it out of the hot keys
	Policy     string // the one of the configuration that the limits are of; "": the request brought them
	Outcome    int    // an index into the names that New was given
	Denied     bool

	Limits   []strategy.Limit
	Statuses []strategy.Status // what each of Limits said; empty: they were not asked
}

// denier returns the limit that denies e for longest, or nil if none did.
func (e *Entry) denier() (by *strategy.Limit) {
	longest := time.Duration(0)
	for i := range e.Statuses {
		st, l := &e.Statuses[i], &e.Limits[i]
		if st.Allowed || l.Shadow {
			continue
		}
		wait := st.RetryAfter
		if wait == strategy.Never {
			wait = math.MaxInt64
		}
		if by == nil || wait > longest {
			by, longest = l, wait
		}
	}
	return by
}
