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
	MaxPeriod = 366 * day
)

// Unlimited is the Count of a rate that allows everything.
const Unlimited = -1

const (
	day  = 24 * time.Hour
	week = 7 * day
)

// A Rate allows Count units in each Period. Its zero value allows nothing. Parse
// returns the same Rate for all spellings of one rate, so == compares rates.
type Rate struct {
	Count  int64         // 0 to MaxCount, or Unlimited
	Period time.Duration // MinPeriod to MaxPeriod in whole milliseconds; 0 if unlimited
}

// IsUnlimited reports whether r allows everything.
func (r Rate) IsUnlimited() bool { return r.Count == Unlimited }

// Valid reports whether r is within the bounds of what Parse accepts.
func (r Rate) Valid() bool {
	if r.IsUnlimited() {
		return r.Period == 0
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
	{week, "w"}, {day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"},
}

// Parse reads "unlimited", "<count>/<period>" or "<count> per <period>". A period
// is a unit, with an optional whole number before it: "100/min", "5/s", "10/30s",
// "2 per 5 seconds", "1_000/day". Parse ignores the case of letters, and spaces
// between the parts. An error quotes s, says which part is wrong and why, and
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
	period, problem := p.period()
	if problem != "" {
		return Rate{}, problem
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

// period reads the rest of the rate: an optional number and a unit.
func (p *parser) period() (time.Duration, string) {
	p.skipSpace()
	if p.rest == "" {
		return 0, `has no period; add one, as in "100/min"`
	}
	number := int64(1)
	if !isLetter(p.rest[0]) {
		var problem string
		if number, problem = p.number("period", int64(MaxPeriod/MinPeriod)); problem != "" {
			return 0, problem
		}
		p.skipSpace()
	}
	name := p.word()
	if name == "" && p.rest == "" {
		return 0, `the period has no unit; add ms, s, m, h, d or w, as in "10/30s"`
	}
	p.skipSpace()
	if name == "" || p.rest != "" {
		return 0, fmt.Sprintf(`%s is not expected in the period; write one whole number and one unit, as in "10/30s"`, quote.Cut(p.rest))
	}
	unit, ok := unitLength(name)
	if !ok {
		return 0, unknownUnit(name)
	}
	if number == 0 {
		return 0, `the period is zero; the shortest is 1ms, as in "5/1ms"`
	}
	if number > int64(MaxPeriod/unit) {
		return 0, `the period is over 366 days; write a shorter one, as in "1000/366d"`
	}
	return time.Duration(number) * unit, ""
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
		return day, true
	case "w", "wk", "wks", "week", "weeks":
		return week, true
	}
	return 0, false
}

func unknownUnit(name string) string {
	switch strings.ToLower(name) {
	case "mo", "month", "months", "y", "yr", "year", "years":
		return fmt.Sprintf(`the unit %s has no fixed length; write it in days, as in "100/30d"`, quote.Cut(name))
	case "us", "usec", "microsecond", "microseconds", "ns", "nanosecond", "nanoseconds":
		return fmt.Sprintf(`the unit %s is too short; the shortest period is 1ms, as in "5/1ms"`, quote.Cut(name))
	}
	return fmt.Sprintf(`unknown unit %s; use ms, s, m, h, d or w, as in "100/m"`, quote.Cut(name))
}
