package envoy

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A spec is what a file or a request says of a part of a limit.
type spec struct {
	requests   uint32
	unit       Unit
	multiplier uint32 // of the unit
	strategy   strategy.Strategy
	burst      uint64 // 0: the strategy's default
	maxDebt    strategy.Bound

	calendar  bool           // the windows are those of the calendar
	zone      *time.Location // of the calendar; nil: UTC
	anchorDay uint32         // of the calendar's months and years; 0: the first
}

// part returns what s describes, or what is wrong with s.
func (s *spec) part(maxLogCount int64) (Part, error) {
	u, ok := units[s.unit]
	if !ok {
		return Part{}, fmt.Errorf("unit %d is not known; use %s", s.unit, unitNames())
	}
	if wrong := s.calendarProblem(); wrong != "" {
		return Part{}, errors.New(wrong)
	}
	period := time.Duration(s.multiplier) * u.length
	if s.multiplier < 1 || period > rate.MaxPeriod || period/u.length != time.Duration(s.multiplier) {
		return Part{}, fmt.Errorf("unit_multiplier %d makes a period of 0 or of more than 366 days; use 1 to %d with this unit", s.multiplier, rate.MaxPeriod/u.length)
	}
	name := u.name // so that a change of the count keeps the counter, and a change of the unit does not
	if s.multiplier > 1 {
		name = fmt.Sprintf("%d%s", s.multiplier, name)
	}
	count := min(int64(s.requests), rate.MaxCount)
	of := strategy.Spec{Name: name, Strategy: s.strategy, Burst: s.burst, MaxDebt: s.maxDebt}
	r := rate.Rate{Count: count, Period: period}
	if s.calendar {
		of.Zone, of.AnchorDay = cmp.Or(s.zone, time.UTC), s.anchorDay
		if months := s.months(); months > 0 {
			r = rate.OfMonths(count, months)
		}
	}
	l, wrong := strategy.NewLimitOf(of, r, maxLogCount)
	if wrong != nil {
		return Part{}, errors.New(wrong[0].Problem)
	}
	l.NamesPeriod = true
	if s.calendar { // other windows are another counter
		l.Name = string(l.AppendCalendar([]byte(name)))
	}
	return Part{Limit: l, RequestsPerUnit: s.requests, Unit: s.unit, Multiplier: s.multiplier}, nil
}

// months returns how many months of the calendar a window of s has, or 0 if it is one of
// days.
func (s *spec) months() uint8 {
	switch s.unit {
	case Month:
		return uint8(s.multiplier) //nolint:gosec // calendarProblem bounds it
	case Year:
		return 12
	default:
		return 0
	}
}

// calendarProblem returns what is wrong with the calendar of s, or "".
func (s *spec) calendarProblem() string {
	name := units[s.unit].name
	switch {
	case !s.calendar && s.zone != nil:
		return fmt.Sprintf("time_zone %s: without the calendar, windows are the same in all zones; add calendar: true", s.zone)
	case !s.calendar && s.anchorDay > 0:
		return fmt.Sprintf("anchor_day %d: without the calendar, a %s begins on no day of a month; add calendar: true", s.anchorDay, name)
	case !s.calendar:
		return ""
	case s.unit == Second || s.unit == Minute || s.unit == Hour:
		return fmt.Sprintf("calendar: windows of a %s are the same in all calendars; leave it out, or use day, week, month or year", name)
	case s.strategy != strategy.FixedWindow:
		return fmt.Sprintf("calendar: a %s follows no calendar; leave it out, or use fixed_window", s.strategy)
	case s.anchorDay > 0 && s.months() == 0:
		return fmt.Sprintf("anchor_day %d: only months and years begin on a day of a month; leave it out, or use the unit month or year", s.anchorDay)
	case s.unit == Month && (s.multiplier < 1 || s.multiplier > 12 || 12%s.multiplier != 0):
		return fmt.Sprintf("unit_multiplier %d: months of the calendar are a whole part of a year; use 1, 2, 3, 4, 6 or 12", s.multiplier)
	}
	return ""
}

// NewLimit returns a fixed window that allows so many requests in multiplier
// units of time. The error says what is wrong with the unit or the multiplier. A
// count above rate.MaxCount is read as rate.MaxCount.
func NewLimit(requests uint32, unit Unit, multiplier uint32) (*Limit, error) {
	s := spec{requests: requests, unit: unit, multiplier: multiplier, strategy: strategy.FixedWindow}
	part, err := s.part(strategy.DefaultMaxLogCount)
	if err != nil {
		return nil, err
	}
	return &Limit{Parts: []Part{part}}, nil
}
