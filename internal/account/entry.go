package account

import (
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
