// Package rate reads and writes rates such as "100/min": how much is allowed in
// how long.
package rate

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Bounds of what Parse accepts.
const (
	MaxCount  = 1_000_000_000
	MinPeriod = time.Millisecond
	MaxPeriod = 366 * Day
)

// Unlimited is the Count of a rate that allows everything.
const Unlimited = -1

// Day is the length of a day that is not the calendar's.
const Day = 24 * time.Hour

const week = 7 * Day

// A Rate allows Count units in each Period, or in each so many Months of the
// calendar. Its zero value allows nothing. Parse returns the same Rate for all
// spellings of one rate, so == compares rates.
type Rate struct {
	Count  int64         // 0 to MaxCount, or Unlimited
	Period time.Duration // MinPeriod to MaxPeriod in whole milliseconds; 0 if unlimited; the longest that Months can be
	Months uint8         // 0, or a whole part of a year: 1, 2, 3, 4, 6 or 12
}

// OfMonths returns the rate of count in each so many months of the calendar.
func OfMonths(count int64, months uint8) Rate {
	return Rate{Count: count, Period: min(time.Duration(months)*maxMonth, MaxPeriod), Months: months}
}

// maxMonth is the longest a month can be.
const maxMonth = 31 * Day

// IsUnlimited reports whether r allows everything.
func (r Rate) IsUnlimited() bool { return r.Count == Unlimited }

// Valid reports whether r is within the bounds of what Parse accepts.
func (r Rate) Valid() bool {
	if r.IsUnlimited() {
		return r.Period == 0 && r.Months == 0
	}
	if r.Months > 0 && (12%r.Months != 0 || r != OfMonths(r.Count, r.Months)) {
		return false
	}
	return 0 <= r.Count && r.Count <= MaxCount && MinPeriod <= r.Period && r.Period <= MaxPeriod && r.Period%MinPeriod == 0
}

// String returns the canonical form of r, which Parse reads back as r: the
// count over the period in the largest unit that divides it, such as "100/1m",
// "10/30s" or "unlimited".
func (r Rate) String() string { return string(r.Append(nil)) }

// Append appends the canonical form of r to b.
func (r Rate) Append(b []byte) []byte {
	if r.IsUnlimited() {
		return append(b, "unlimited"...)
	}
	b = strconv.AppendInt(b, r.Count, 10)
	b = append(b, '/')
	if r.Months == 12 {
		return append(b, "1year"...)
	}
	if r.Months > 0 {
		b = strconv.AppendUint(b, uint64(r.Months), 10)
		return append(b, "month"...)
	}
	for _, u := range canonicalUnits {
		if r.Period%u.length == 0 {
			b = strconv.AppendInt(b, int64(r.Period/u.length), 10)
			return append(b, u.symbol...)
		}
	}
	return append(b, r.Period.String()...) // only if r is not Valid
}

// canonicalUnits are the units of canonical forms, longest first.
var canonicalUnits = [...]struct {
	length time.Duration
	symbol string
}{
	{week, "w"}, {Day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"},
}

// Parse reads "unlimited", "<count>/<period>" or "<count> per <period>". A period
// is a unit, with an optional whole number before it: "100/min", "5/s", "10/30s",
// "2 per 5 seconds", "1_000/day". Parse ignores the case of letters, and spaces
// between the parts. A month or a year is one of the calendar, and can be of any
// length; several months are a whole part of a year: "1000/3 months". An error quotes s, says which part is wrong and why, and
// shows a right rate.
func Parse(s string) (Rate, error) {
	p := parser{rest: s}
	r, problem := p.rate()
	if problem != "" {
		return Rate{}, fmt.Errorf("rate %s: %s", quote.Cut(s), problem)
	}
	return r, nil
}

// parser reads a rate from left to right. Its methods return what is wrong, or "".
type parser struct{ rest string }

func (p *parser) rate() (Rate, string) {
	p.skipSpace()
	if p.rest == "" {
		return Rate{}, `empty; write a count and a period, as in "100/min"`
	}
	if isLetter(p.rest[0]) {
		word := p.word()
		p.skipSpace()
		if !equalFold(word, "unlimited") || p.rest != "" {
			return Rate{}, `must start with a count, as in "100/min", or be "unlimited"`
		}
		return Rate{Count: Unlimited}, ""
	}

	count, problem := p.number("count", MaxCount)
	if problem != "" {
		return Rate{}, problem
	}
	if problem := p.separator(); problem != "" {
		return Rate{}, problem
	}
	period, months, problem := p.period()
	if problem != "" {
		return Rate{}, problem
	}
	if months > 0 {
		return OfMonths(count, months), ""
	}
	return Rate{Count: count, Period: period}, ""
}

// separator reads "/" or "per".
func (p *parser) separator() string {
	p.skipSpace()
	if p.rest == "" {
		return `has no period; add one, as in "100/min"`
	}
	if p.rest[0] == '/' {
		p.rest = p.rest[1:]
		return ""
	}
	found := p.rest
	if equalFold(p.word(), "per") {
		return ""
	}
	return fmt.Sprintf(`found %s instead of "/" or "per"; write it as in "100/min"`, quote.Cut(found))
}

// period reads the rest of the rate: an optional number and a unit. It returns a
// length, or how many months.
func (p *parser) period() (length time.Duration, months uint8, problem string) {
	p.skipSpace()
	if p.rest == "" {
		return 0, 0, `has no period; add one, as in "100/min"`
	}
	number := int64(1)
	if !isLetter(p.rest[0]) {
		if number, problem = p.number("period", int64(MaxPeriod/MinPeriod)); problem != "" {
			return 0, 0, problem
		}
		p.skipSpace()
	}
	name := p.word()
	if name == "" && p.rest == "" {
		return 0, 0, `the period has no unit; add ms, s, m, h, d, w, month or year, as in "10/30s"`
	}
	p.skipSpace()
	if name == "" || p.rest != "" {
		return 0, 0, fmt.Sprintf(`%s is not expected in the period; write one whole number and one unit, as in "10/30s"`, quote.Cut(p.rest))
	}
	if unit := unitMonths(name); unit > 0 {
		if number < 1 || number > 12/unit || 12%(number*unit) != 0 {
			return 0, 0, `this is no whole part of a year; write 1, 2, 3, 4 or 6 months, or 1 year, as in "1000/month"`
		}
		return 0, uint8(number * unit), ""
	}
	unit, ok := unitLength(name)
	if !ok {
		return 0, 0, unknownUnit(name)
	}
	if number == 0 {
		return 0, 0, `the period is zero; the shortest is 1ms, as in "5/1ms"`
	}
	if number > int64(MaxPeriod/unit) {
		return 0, 0, `the period is over 366 days; write a shorter one, as in "1000/366d"`
	}
	return time.Duration(number) * unit, 0, ""
}

// number reads a whole number of at most maxValue. It ignores underscores between
// digits. part is what the number is, for messages.
func (p *parser) number(part string, maxValue int64) (int64, string) {
	value, digits, over := int64(0), 0, false
	end := 0
	for ; end < len(p.rest); end++ {
		c := p.rest[end]
		if c == '_' && digits > 0 && end+1 < len(p.rest) && isDigit(p.rest[end+1]) {
			continue
		}
		if !isDigit(c) {
			break
		}
		digits++
		if !over {
			value = value*10 + int64(c-'0')
			over = value > maxValue
		}
	}
	text := p.rest[:end]
	if digits == 0 || strings.HasPrefix(p.rest[end:], ".") || strings.HasPrefix(p.rest[end:], "_") {
		bad := p.rest
		if i := strings.IndexAny(bad, "/ \t"); i > 0 {
			bad = bad[:i]
		}
		return 0, fmt.Sprintf(`the %s %s is not a whole number; write digits only, as in "100/min" or "10/30s"`, part, quote.Cut(bad))
	}
	if over && part == "count" {
		return 0, fmt.Sprintf(`the count %s is over 1e9; write 0 to 1000000000, as in "100/min"`, quote.Cut(text))
	}
	if over {
		return 0, `the period is over 366 days; write a shorter one, as in "1000/366d"`
	}
	p.rest = p.rest[end:]
	return value, ""
}

// word reads letters.
func (p *parser) word() string {
	end := 0
	for end < len(p.rest) && isLetter(p.rest[end]) {
		end++
	}
	w := p.rest[:end]
	p.rest = p.rest[end:]
	return w
}

func (p *parser) skipSpace() {
	for p.rest != "" && (p.rest[0] == ' ' || p.rest[0] == '\t') {
		p.rest = p.rest[1:]
	}
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// equalFold reports whether word is lower, in any case. It compares the lengths
// first: outside ASCII, words of different lengths can be equal but for case.
func equalFold(word, lower string) bool {
	return len(word) == len(lower) && strings.EqualFold(word, lower)
}

// unitLength returns the length of the unit called name, in any case. Unlike
// strings.ToLower it allocates nothing: each request may have a rate.
func unitLength(name string) (time.Duration, bool) {
	var lower [16]byte // longer than any unit's name
	if len(name) > len(lower) {
		return 0, false
	}
	for i := range len(name) {
		lower[i] = name[i] | 0x20
	}
	switch string(lower[:len(name)]) {
	case "ms", "msec", "msecs", "milli", "millis", "millisecond", "milliseconds":
		return time.Millisecond, true
	case "s", "sec", "secs", "second", "seconds":
		return time.Second, true
	case "m", "min", "mins", "minute", "minutes":
		return time.Minute, true
	case "h", "hr", "hrs", "hour", "hours":
		return time.Hour, true
	case "d", "day", "days":
		return Day, true
	case "w", "wk", "wks", "week", "weeks":
		return week, true
	}
	return 0, false
}

// unitMonths returns how many months the unit called name has, in any case, or 0.
func unitMonths(name string) int64 {
	switch {
	case equalFold(name, "month"), equalFold(name, "months"), equalFold(name, "mo"):
		return 1
	case equalFold(name, "year"), equalFold(name, "years"), equalFold(name, "yr"), equalFold(name, "y"):
		return 12
	}
	return 0
}

func unknownUnit(name string) string {
	switch strings.ToLower(name) {
	case "us", "usec", "microsecond", "microseconds", "ns", "nanosecond", "nanoseconds":
		return fmt.Sprintf(`the unit %s is too short; the shortest period is 1ms, as in "5/1ms"`, quote.Cut(name))
	}
	return fmt.Sprintf(`unknown unit %s; use ms, s, m, h, d, w, month or year, as in "100/m"`, quote.Cut(name))
}
