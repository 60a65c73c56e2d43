package strategy

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

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
	// MaxAnchorDay is the last day that every month has.
	MaxAnchorDay = 28
	// MaxUnits is the most units that a counter holds: ten thousand times the greatest
	// count. A charge beyond it is cut. It is small enough for all arithmetic to be exact
	// in the doubles of Lua, which the Redis store uses.
	MaxUnits = 10_000_000_000_000
	// DefaultMaxLogCount is the default for the greatest count of a
	// SLIDING_WINDOW_LOG. A full counter of that size takes up to 256 KiB.
	DefaultMaxLogCount = 10_000

	// maxRateBytes is enough for every rate that is not mostly spaces.
	maxRateBytes = 64
)

// A Limit holds a counter to a rate. NewLimit and NewLimitOf make it.
type Limit struct {
	Name     string // names the counter; if empty, the other fields do: see Counter
	Strategy Strategy
	Rate     rate.Rate
	Capacity int64 // the largest cost ever allowed: the burst, or the count of a window; 0 if unlimited
	MaxDebt  Bound // how much debt a charge may leave: see Mode
	Shadow   bool  // evaluated, but denies nothing: see Decide
	// NamesPeriod says that Name stands for the period too: nobody who knows the counter by it
	// gives it another. A store may keep it in a form that is smaller.
	NamesPeriod bool

	// The calendar of a FIXED_WINDOW: see calendar.go.
	Zone      *time.Location // nil: UTC, and windows of days and weeks are aligned to the Unix epoch
	AnchorDay uint8          // on which months begin; 0: the first
}

// A Bound is a greatest number of units, or none. The zero Bound is none.
type Bound uint64

// AtMost returns the Bound of n units.
func AtMost(n uint64) Bound { return Bound(n + 1) }

// Units returns the greatest number of units, and whether there is one.
func (b Bound) Units() (n uint64, ok bool) { return uint64(b) - 1, b != 0 }

// Ceiling returns the most units that the counter of l holds after a charge: its
// capacity and the debt that it may have.
func (l *Limit) Ceiling() int64 {
	if debt, ok := l.MaxDebt.Units(); ok && debt < MaxUnits {
		return min(l.Capacity+int64(debt), MaxUnits)
	}
	return MaxUnits
}

// filled returns how many units a counter of l that holds used has after a charge.
// It never has fewer than before: its ceiling may have been higher.
func (l *Limit) filled(used, units int64) int64 { return max(used, min(used+units, l.Ceiling())) }

// SameCounter reports whether l and m share a counter. Two named limits do if
// they have the same name and strategy. Two unnamed limits do if only Shadow
// and MaxDebt differ.
func (l *Limit) SameCounter(m *Limit) bool {
	if l.Name != "" {
		return l.Name == m.Name && l.Strategy == m.Strategy
	}
	return m.Name == "" && l.Strategy == m.Strategy && l.Rate == m.Rate && l.Capacity == m.Capacity &&
		l.AnchorDay == m.AnchorDay && (l.Zone == m.Zone || l.zoneName() == m.zoneName())
}

// zoneName returns the name of the zone of l, or "" if it has none.
func (l *Limit) zoneName() string {
	if l.Zone == nil {
		return ""
	}
	return l.Zone.String()
}

// Counter returns what people call the counter of l: its name, or for an unnamed
// limit <strategy>:<rate>[:<burst>], such as "fixed_window:100/1m". The burst is
// left out where it is the count of the rate. A calendar follows the rate:
// "fixed_window:100/1month@15,Europe/Berlin".
func (l *Limit) Counter() string { return string(l.AppendCounter(nil)) }

// AppendCounter appends Counter to b. Keys of unnamed limits in remote stores end
// with it, so a change of the form makes counters start afresh.
func (l *Limit) AppendCounter(b []byte) []byte {
	if l.Name != "" {
		return append(b, l.Name...)
	}
	b = append(b, l.Strategy.String()...)
	return l.AppendRate(append(b, ':'))
}

// AppendRate appends what tells the counter of l from those of other unnamed limits of its
// strategy: the rate, its calendar, and the burst if that is not the count.
func (l *Limit) AppendRate(b []byte) []byte {
	b = l.AppendCalendar(l.Rate.Append(b))
	if l.Capacity != l.Rate.Count && !l.Rate.IsUnlimited() {
		b = append(b, ':')
		b = strconv.AppendInt(b, l.Capacity, 10)
	}
	return b
}

// AppendCalendar appends what of l's calendar tells its counter from others to b:
// nothing, or "@15", "@Europe/Berlin" or "@15,Europe/Berlin".
func (l *Limit) AppendCalendar(b []byte) []byte {
	mark := byte('@')
	if l.AnchorDay > 0 {
		b = strconv.AppendUint(append(b, mark), uint64(l.AnchorDay), 10)
		mark = ','
	}
	if l.Zone != nil {
		b = append(append(b, mark), l.Zone.String()...)
	}
	return b
}

// A Spec is a limit as its author wrote it.
type Spec struct {
	Name     string
	Rate     string   // as rate.Parse reads it
	Strategy Strategy // 0: FixedWindow
	Burst    uint64   // 0: the strategy's default
	MaxDebt  Bound

	Zone      *time.Location // of the calendar that a FIXED_WINDOW follows; nil: none was given
	AnchorDay uint32         // on which months and years begin, 1 to MaxAnchorDay; 0: the first
}

// A Violation says what is wrong with one field of a Spec.
type Violation struct {
	Field   string // "name", "rate", "strategy", "burst", "max_debt", "time_zone" or "anchor_day"
	Problem string // quotes the value and shows a right one
}

// NewLimit returns the limit that spec describes, or what is wrong with spec.
// It refuses a SLIDING_WINDOW_LOG with a count over maxLogCount, because the log
// remembers every request of its period.
func NewLimit(spec Spec, maxLogCount int64) (Limit, []Violation) {
	r, problem := parseRate(spec.Rate)
	return newLimit(&spec, r, problem, maxLogCount)
}

// NewLimitOf is NewLimit for a program that has the rate as numbers, instead of that in
// spec.
func NewLimitOf(spec Spec, r rate.Rate, maxLogCount int64) (Limit, []Violation) {
	problem := ""
	if !r.Valid() {
		problem = fmt.Sprintf("rate %s is out of bounds; give a count of 0 to %d and a period of %v to %v in whole milliseconds",
			r, rate.MaxCount, rate.MinPeriod, rate.MaxPeriod)
	}
	spec.Rate = ""
	return newLimit(&spec, r, problem, maxLogCount)
}

func parseRate(text string) (r rate.Rate, problem string) {
	if len(text) > maxRateBytes {
		return r, fmt.Sprintf(`rate %s has %d bytes; write it in at most %d, as in "100/min"`, quote.Cut(text), len(text), maxRateBytes)
	}
	r, err := rate.Parse(text)
	if err != nil {
		return r, err.Error()
	}
	return r, ""
}

// newLimit makes the limit that spec describes, but with the rate r. problem says
// what is wrong with r, or is empty.
func newLimit(spec *Spec, r rate.Rate, problem string, maxLogCount int64) (Limit, []Violation) {
	var wrong []Violation
	refuse := func(field, format string, args ...any) {
		wrong = append(wrong, Violation{field, fmt.Sprintf(format, args...)})
	}

	if len(spec.Name) > MaxNameBytes {
		refuse("name", "%s has %d bytes; a name has at most %d", quote.Cut(spec.Name), len(spec.Name), MaxNameBytes)
	}
	l := Limit{
		Name: spec.Name, Strategy: spec.Strategy, Rate: r, MaxDebt: spec.MaxDebt,
		Zone: spec.Zone, AnchorDay: uint8(min(spec.AnchorDay, MaxAnchorDay+1)),
	}
	if l.Strategy == 0 {
		l.Strategy = FixedWindow
	}
	if !l.Strategy.known() {
		refuse("strategy", "unknown strategy %d; use 1 (FIXED_WINDOW) to 6 (GCRA)", spec.Strategy)
	}

	switch {
	case problem != "":
		refuse("rate", "%s", problem)
	case l.Strategy == SlidingWindowLog && r.Count > maxLogCount:
		text := cmp.Or(spec.Rate, r.String())
		refuse("rate", "rate %s: a sliding_window_log remembers each request, and this server caps its count at %d;"+
			" use sliding_window_counter, or a rate such as %q", quote.Cut(text), maxLogCount, rate.Rate{Count: maxLogCount, Period: r.Period})
	}

	switch {
	case spec.Burst != 0 && l.Strategy.known() && !l.Strategy.hasBurst():
		refuse("burst", "burst %d: %s has none; leave it out, or use token_bucket, leaky_bucket or gcra", spec.Burst, l.Strategy)
	case spec.Burst > MaxBurst:
		refuse("burst", "burst %d is over %s; write 1 to %[2]s, or 0 for the strategy's default", spec.Burst, strconv.Itoa(MaxBurst))
	}
	if debt, ok := spec.MaxDebt.Units(); ok && debt > MaxUnits {
		refuse("max_debt", "max_debt %d is over %s; write 0 to %[2]s, or leave it out for no bound", debt, strconv.Itoa(MaxUnits))
	}
	if problem == "" && l.Strategy.known() {
		if v := calendarViolation(&l, spec); v.Problem != "" {
			wrong = append(wrong, v)
		}
	}
	if wrong != nil {
		return Limit{}, wrong
	}
	if l.AnchorDay == 1 {
		l.AnchorDay = 0 // it is the same counter
	}
	l.Capacity = capacity(&l, int64(spec.Burst))
	return l, nil
}

// calendarViolation says what is wrong with the calendar of l, which spec describes.
func calendarViolation(l *Limit, spec *Spec) Violation {
	ofDays := l.Rate.Months > 0 || l.Rate.Period > 0 && l.Rate.Period%rate.Day == 0
	switch {
	case l.Rate.Months > 0 && l.Strategy != FixedWindow:
		return Violation{"rate", fmt.Sprintf("rate %s: months and years are those of the calendar, which only a fixed_window follows;"+
			" use fixed_window, or a period of one length, as in %q", quote.Cut(cmp.Or(spec.Rate, l.Rate.String())), rate.Rate{Count: l.Rate.Count, Period: 30 * rate.Day})}
	case l.Zone != nil && l.Strategy != FixedWindow:
		return Violation{"time_zone", fmt.Sprintf("time_zone %s: a %s follows no calendar; leave it out, or use fixed_window", quote.Cut(l.Zone.String()), l.Strategy)}
	case l.Zone != nil && !ofDays:
		return Violation{"time_zone", fmt.Sprintf(`time_zone %s: windows of %s are the same in all zones; leave it out, or use a rate of days, weeks, months or years, as in "1000/day"`,
			quote.Cut(l.Zone.String()), quote.Cut(cmp.Or(spec.Rate, l.Rate.String())))}
	case spec.AnchorDay > MaxAnchorDay:
		return Violation{"anchor_day", fmt.Sprintf("anchor_day %d: not every month has this day; write 1 to %d", spec.AnchorDay, MaxAnchorDay)}
	case spec.AnchorDay > 0 && l.Rate.Months == 0:
		return Violation{"anchor_day", fmt.Sprintf(`anchor_day %d: only months and years begin on a day; leave it out, or use a rate such as "1000/month"`, spec.AnchorDay)}
	}
	return Violation{}
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
