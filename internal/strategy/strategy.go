// Package strategy has the rate-limiting algorithms, as pure functions. They get
// what a counter remembers, a limit, a cost and an instant, and return the answer
// and what the counter should remember from now on. They do no I/O, take no locks
// and read no clock: the stores do.
//
// All arithmetic is in whole microseconds and whole units, and is exact for every
// limit that NewLimit accepts. So counters do not drift, and a reported duration
// is the shortest that suffices. A duration of more than 292 years is reported as
// the greatest time.Duration.
package strategy

import (
	"fmt"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// A Strategy is an algorithm. The numbers are those of the API.
type Strategy uint8

// The strategies. Each is described in the file of its name.
const (
	FixedWindow Strategy = 1 + iota
	SlidingWindowCounter
	SlidingWindowLog
	TokenBucket
	LeakyBucket
	GCRA
)

// All lists the strategies in the order of their numbers.
var All = [...]Strategy{FixedWindow, SlidingWindowCounter, SlidingWindowLog, TokenBucket, LeakyBucket, GCRA}

var names = [...]string{
	FixedWindow:          "fixed_window",
	SlidingWindowCounter: "sliding_window_counter",
	SlidingWindowLog:     "sliding_window_log",
	TokenBucket:          "token_bucket",
	LeakyBucket:          "leaky_bucket",
	GCRA:                 "gcra",
}

// String returns the name that configuration, keys and metrics show.
func (s Strategy) String() string {
	if s.known() {
		return names[s]
	}
	return fmt.Sprintf("strategy(%d)", uint8(s))
}

// Names lists the strategies for a person.
func Names() string { return strings.Join(names[1:], ", ") }

// Parse returns the strategy called name, in any case.
func Parse(name string) (Strategy, error) {
	for _, s := range All {
		if strings.EqualFold(name, names[s]) {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown strategy %s; use %s", quote.Cut(name), Names())
}

func (s Strategy) known() bool { return s >= FixedWindow && s <= GCRA }

// hasBurst reports whether the capacity can differ from the count of the rate.
func (s Strategy) hasBurst() bool { return s == TokenBucket || s == LeakyBucket || s == GCRA }
