package strategy

import (
	"fmt"
	"strconv"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/rate"
)

const (
	// MaxLimits is how many limits one request may name.
	MaxLimits = 16
	// MaxBurst is the greatest burst.
	MaxBurst = 1_000_000_000
	// MaxNameBytes is how long a limit's name may be.
	MaxNameBytes = 128
	// DefaultMaxLogCount is the cap on the count of a SLIDING_WINDOW_LOG where
	// none is configured: up to 256 KiB for each counter that is full.
	DefaultMaxLogCount = 10_000

	// maxRateBytes is longer than any rate that is not mostly spaces.
	maxRateBytes = 64
)

// A Limit holds a counter to a rate. NewLimit makes it.
type Limit struct {
	Name     string // names the counter; empty: known by the other fields
	Strategy Strategy
	Rate     rate.Rate
	Capacity int64 // the largest cost ever allowed: the burst, or the count of a window; 0 if unlimited
	Shadow   bool  // evaluated, but denies nothing: see Decide
}

// SameCounter reports whether l and m are limits of one counter: named alike
// and of one strategy; or without a name, and alike in all else but in being in
// shadow mode.
func (l *Limit) SameCounter(m *Limit) bool {
	if l.Name != "" {
		return l.Name == m.Name && l.Strategy == m.Strategy
	}
	return m.Name == "" && l.Strategy == m.Strategy && l.Rate == m.Rate && l.Capacity == m.Capacity
}

// A Spec is a limit as its author wrote it.
type Spec struct {
	Name     string
	Rate     string   // as rate.Parse reads it
	Strategy Strategy // 0: FixedWindow
	Burst    uint64   // 0: the strategy's default
}

// A Violation says what is wrong with one field of a Spec.
type Violation struct {
	Field   string // "name", "rate", "strategy" or "burst"
	Problem string // quotes the value and shows a right one
}

// NewLimit returns the limit that spec describes, or what is wrong with it.
// A SLIDING_WINDOW_LOG remembers every request of its period, so one with a
// count over maxLogCount is refused.
func NewLimit(spec Spec, maxLogCount int64) (Limit, []Violation) {
	var wrong []Violation
	refuse := func(field, format string, args ...any) {
		wrong = append(wrong, Violation{field, fmt.Sprintf(format, args...)})
	}

	if len(spec.Name) > MaxNameBytes {
		refuse("name", "%s has %d bytes; a name has at most %d", quote.Cut(spec.Name), len(spec.Name), MaxNameBytes)
	}
	l := Limit{Name: spec.Name, Strategy: spec.Strategy}
	if l.Strategy == 0 {
		l.Strategy = FixedWindow
	}
	if !l.Strategy.known() {
		refuse("strategy", "unknown strategy %d; use 1 (FIXED_WINDOW) to 6 (GCRA)", spec.Strategy)
	}

	var err error
	if len(spec.Rate) > maxRateBytes {
		refuse("rate", `rate %s has %d bytes; write it in at most %d, as in "100/min"`, quote.Cut(spec.Rate), len(spec.Rate), maxRateBytes)
	} else if l.Rate, err = rate.Parse(spec.Rate); err != nil {
		refuse("rate", "%s", err.Error())
	} else if l.Strategy == SlidingWindowLog && l.Rate.Count > maxLogCount {
		refuse("rate", "rate %s: a sliding_window_log remembers each request, and this server caps its count at %d;"+
			" use sliding_window_counter, or a rate such as %q", quote.Cut(spec.Rate), maxLogCount, rate.Rate{Count: maxLogCount, Period: l.Rate.Period})
	}

	switch {
	case spec.Burst != 0 && l.Strategy.known() && !l.Strategy.hasBurst():
		refuse("burst", "burst %d: %s has none; leave it out, or use token_bucket, leaky_bucket or gcra", spec.Burst, l.Strategy)
	case spec.Burst > MaxBurst:
		refuse("burst", "burst %d is over %s; write 1 to %[2]s, or 0 for the strategy's default", spec.Burst, strconv.Itoa(MaxBurst))
	}
	if wrong != nil {
		return Limit{}, wrong
	}
	l.Capacity = capacity(&l, int64(spec.Burst))
	return l, nil
}

// capacity returns the largest cost that l ever allows.
func capacity(l *Limit, burst int64) int64 {
	switch {
	case l.Rate.Count == 0 || l.Rate.IsUnlimited():
		return 0
	case burst > 0:
		return burst
	case l.Strategy == GCRA:
		return gcraBurst
	default:
		return l.Rate.Count
	}
}
