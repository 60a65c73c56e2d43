package strategy

import (
	"fmt"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// A Mode says what a request does with its cost. The zero Mode is Take.
type Mode uint8

const (
	// Take consumes the cost if all limits allow it, and otherwise nothing.
	Take Mode = iota
	// Charge consumes the cost from all limits, whatever is left: it reports what has
	// already happened. A limit may be in debt afterwards: it holds more units than its
	// capacity. The decision says whether a Take of the cost would have been allowed.
	Charge
	// Refund gives the cost back to all limits, at most until they are wholly unused.
	// It is always allowed.
	Refund
	// Overdraw is a Charge if every enforced limit has anything left, and otherwise
	// consumes nothing. Like a Charge, it is denied by each limit that it passes. A cost
	// of 0 is denied by a limit that is in debt. This mode is not in the API.
	Overdraw
)

// Modes are the names of the modes that requests may have.
var Modes = [...]string{Take: "take", Charge: "charge", Refund: "refund"}

// String returns the name of m.
func (m Mode) String() string {
	switch {
	case int(m) < len(Modes):
		return Modes[m]
	case m == Overdraw:
		return "overdraw"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode returns the mode called name, in any case, of those that requests may have.
func ParseMode(name string) (Mode, error) {
	for m, known := range Modes {
		if strings.EqualFold(name, known) {
			return Mode(m), nil //nolint:gosec // it is one of the few that there are
		}
	}
	return 0, fmt.Errorf("unknown mode %s; use %s", quote.Cut(name), strings.Join(Modes[:], ", "))
}

// An Ask is what a request asks of its limits, and when.
type Ask struct {
	Cost uint64
	Now  Instant // by the clock of the store
	// ConsumedAt is when what a Refund gives back was consumed. 0 stands for now.
	ConsumedAt Instant
	Mode       Mode
	DryRun     bool // decide the same, and change nothing
}

// units returns the cost of a as a counter can hold it.
func (a *Ask) units() int64 { return int64(min(a.Cost, MaxUnits)) }
