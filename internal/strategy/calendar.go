package strategy

import (
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
)

// A FIXED_WINDOW can follow the calendar. Its windows then begin when a day begins
// in the limit's time zone, and not all are of one length: a day of 23 or 25 hours
// where daylight saving time begins or ends, a month of 28 to 31 days.
//
// A week begins on Monday. Periods of several days or weeks are counted from
// Monday, 29 December 1969. A month or a year begins on AnchorDay, a year in
// January, and periods of several months are counted from January.
//
// A date begins at the first instant at which clocks in the zone show it, or a later
// one. So where clocks skip midnight, the day begins when they do; where they show
// an hour of the day before again, that hour belongs to the new day; and a date that
// a zone leaves out has no window.

// OnCalendar reports whether the windows of l follow the calendar.
func (l *Limit) OnCalendar() bool { return l.Rate.Months > 0 || l.Zone != nil }

// Window returns the window of now, of a FIXED_WINDOW: its first instant, and that
// of the next window.
func (l *Limit) Window(now Instant) (start, end Instant) {
	if !l.OnCalendar() {
		p := Instant(period(l.Rate))
		start = now - now%p
		return start, start + p
	}
	zone := l.Zone
	if zone == nil {
		zone = time.UTC
	}
	first := l.firstDate(dateOf(time.UnixMicro(int64(now)).In(zone)))
	next := l.nextDate(first)
	start, end = first.begin(zone), next.begin(zone)
	if now >= end { // clocks were turned back to the date before
		start, end = end, l.nextDate(next).begin(zone)
	}
	return start, end
}

// A date is a day of the calendar. Its fields need not be normal: the 32nd of
// January is the 1st of February.
type date struct {
	year  int
	month time.Month
	day   int
}

func dateOf(t time.Time) date {
	y, m, d := t.Date()
	return date{y, m, d}
}

// midnight returns the time at which d begins where clocks show UTC.
func (d date) midnight() time.Time { return time.Date(d.year, d.month, d.day, 0, 0, 0, 0, time.UTC) }

// begin returns the first instant at which clocks in zone show d or a later date.
func (d date) begin(zone *time.Location) Instant {
	const farthest = 26 * time.Hour // farther from UTC than any zone has ever been
	midnight := d.midnight()
	t := midnight.Add(-farthest).In(zone) // it is an earlier date there
	for {
		_, offset := t.Zone()
		_, change := t.ZoneBounds()               // of that offset
		if !change.IsZero() && !change.After(t) { // package time has years of 365 days there
			change = t.Add(24 * time.Hour)
		}
		begin := midnight.Add(-time.Duration(offset) * time.Second)
		if begin.Before(t) { // clocks skipped midnight at t
			begin = t
		}
		if change.IsZero() || begin.Before(change) {
			return InstantOf(begin)
		}
		t = change.In(zone)
	}
}

// firstDate returns the first date of the period of d.
func (l *Limit) firstDate(d date) date {
	if l.Rate.Months == 0 {
		days := int(l.Rate.Period / rate.Day)
		sinceMonday := int(d.midnight().Unix()/int64(rate.Day/time.Second)) + daysToMonday(days)
		return date{d.year, d.month, d.day - sinceMonday%days}
	}
	month := d.year*12 + int(d.month-time.January)
	if d.day < l.anchor() {
		month--
	}
	month -= month % int(l.Rate.Months)
	return date{month / 12, time.January + time.Month(month%12), l.anchor()}
}

// daysToMonday returns how many days before 1970 the first period of so many days
// begins, which is three if it is of weeks: on a Monday.
func daysToMonday(days int) int {
	if days%7 == 0 {
		return 3
	}
	return 0
}

// nextDate returns the first date of the period after that which begins at d.
func (l *Limit) nextDate(d date) date {
	if l.Rate.Months == 0 {
		return date{d.year, d.month, d.day + int(l.Rate.Period/rate.Day)}
	}
	return date{d.year, d.month + time.Month(l.Rate.Months), d.day}
}

// anchor returns the day on which months begin.
func (l *Limit) anchor() int { return max(1, int(l.AnchorDay)) }
