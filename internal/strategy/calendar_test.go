package strategy_test

import (
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the same zones on every machine

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestCalendarWindows has, for each limit, an instant and the window that contains it.
func TestCalendarWindows(t *testing.T) {
	for _, tt := range []struct {
		name, rate, zone string
		anchor           uint32
		now, start, end  string
	}{
		{"a month", "9/month", "", 0, "2026-02-14T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"its first instant", "9/month", "", 0, "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"},
		{"its last microsecond", "9/month", "", 0, "2026-02-28T23:59:59.999999Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"a leap year", "9/month", "", 0, "2028-02-29T12:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"before the anchor", "9/month", "", 15, "2026-01-14T23:59:59Z", "2025-12-15T00:00:00Z", "2026-01-15T00:00:00Z"},
		{"on the anchor", "9/month", "", 15, "2026-01-15T00:00:00Z", "2026-01-15T00:00:00Z", "2026-02-15T00:00:00Z"},
		{"a quarter", "9/3 months", "", 0, "2026-05-31T00:00:00Z", "2026-04-01T00:00:00Z", "2026-07-01T00:00:00Z"},
		{"a quarter with an anchor", "9/3 months", "", 28, "2026-01-27T00:00:00Z", "2025-10-28T00:00:00Z", "2026-01-28T00:00:00Z"},
		{"a year", "9/year", "", 0, "2028-12-31T23:59:59Z", "2028-01-01T00:00:00Z", "2029-01-01T00:00:00Z"},
		{"a year with an anchor", "9/year", "", 6, "2026-01-05T23:00:00Z", "2025-01-06T00:00:00Z", "2026-01-06T00:00:00Z"},
		{"a month in Berlin, where summer time begins", "9/month", "Europe/Berlin", 0, "2026-03-31T21:59:59Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"},
		{"a day of 23 hours", "9/day", "Europe/Berlin", 0, "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		{"a day of 25 hours", "9/day", "Europe/Berlin", 0, "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		{"a week begins on Monday", "9/week", "Europe/Berlin", 0, "2026-11-26T12:00:00Z", "2026-11-22T23:00:00Z", "2026-11-29T23:00:00Z"},
		{"a week in UTC", "9/week", "UTC", 0, "2026-11-30T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"},
		{"a week without a zone begins on Thursday", "9/week", "", 0, "2026-11-30T00:00:00Z", "2026-11-26T00:00:00Z", "2026-12-03T00:00:00Z"},
		{"half an hour from whole hours", "9/day", "Asia/Kolkata", 0, "2026-11-26T18:29:59Z", "2026-11-25T18:30:00Z", "2026-11-26T18:30:00Z"},
		// Clocks in São Paulo went from 23:59:59 to 01:00.
		{"the end of a leap year", "9/day", "Europe/Berlin", 0, "2028-12-31T12:00:00Z", "2028-12-30T23:00:00Z", "2028-12-31T23:00:00Z"},
		{"the day after it", "9/day", "Europe/Berlin", 0, "2029-01-01T12:00:00Z", "2028-12-31T23:00:00Z", "2029-01-01T23:00:00Z"},
		{"a month at the end of a leap year", "9/month", "America/New_York", 0, "2028-12-31T12:00:00Z", "2028-12-01T05:00:00Z", "2029-01-01T05:00:00Z"},
		{"a year that follows one", "9/year", "Pacific/Auckland", 0, "2033-01-01T12:00:00Z", "2032-12-31T11:00:00Z", "2033-12-31T11:00:00Z"},
		{"a midnight that was skipped", "9/day", "America/Sao_Paulo", 0, "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"},
		// Clocks in Havana went from 01:00 back to 00:00.
		{"a midnight that came twice", "9/day", "America/Havana", 0, "2026-11-01T05:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		// Clocks in Toronto went from 00:01 back to 23:01.
		{"the end of a day that came twice", "9/day", "America/Toronto", 0, "2010-11-07T04:30:00Z", "2010-11-07T04:00:00Z", "2010-11-08T05:00:00Z"},
		{"a zone that went back over midnight", "9/day", "America/St_Johns", 0, "2010-11-07T02:45:00Z", "2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z"},
		// Samoa had no 30 December 2011.
		{"the day before one that was left out", "9/day", "Pacific/Apia", 0, "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
		{"the day after it", "9/day", "Pacific/Apia", 0, "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		{"a month that begins on it", "9/month", "Pacific/Apia", 28, "2011-12-31T00:00:00Z", "2011-12-28T10:00:00Z", "2012-01-27T10:00:00Z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec := strategy.Spec{Rate: tt.rate, AnchorDay: tt.anchor}
			if tt.zone != "" {
				spec.Zone = zone(t, tt.zone)
			}
			l := newLimit(t, spec)
			parse := func(text string) strategy.Instant {
				at, err := time.Parse(time.RFC3339, text)
				if err != nil {
					t.Fatal(err)
				}
				return strategy.InstantOf(at)
			}
			show := func(i strategy.Instant) string { return time.UnixMicro(int64(i)).UTC().Format(time.RFC3339) }
			start, end := l.Window(parse(tt.now))
			if start != parse(tt.start) || end != parse(tt.end) {
				t.Errorf("the window of %s is %s to %s, want %s to %s", tt.now, show(start), show(end), tt.start, tt.end)
			}
		})
	}
}

// TestWindowsOfDaysAreThoseOfClocks compares windows with what a clock in the zone
// shows, minute by minute, around each change of the clocks.
func TestWindowsOfDaysAreThoseOfClocks(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "America/St_Johns", "America/Scoresbysund",
		"Pacific/Apia", "Pacific/Kiritimati", "Pacific/Chatham", "Australia/Lord_Howe", "Asia/Kathmandu", "Asia/Gaza", "Africa/Cairo", "Asia/Manila"} {
		where := zone(t, name)
		l := newLimit(t, strategy.Spec{Rate: "9/day", Zone: where})
		for at := time.Date(2005, 1, 1, 0, 0, 0, 0, time.UTC); ; {
			_, change := at.In(where).ZoneBounds()
			if change.IsZero() || change.Year() > 2030 {
				break
			}
			at = change
			var latest, started time.Time // the latest date that the clock has shown, and since when
			for minute := change.Add(-50 * time.Hour); minute.Before(change.Add(50 * time.Hour)); minute = minute.Add(time.Minute) {
				y, m, d := minute.In(where).Date()
				if date := time.Date(y, m, d, 0, 0, 0, 0, time.UTC); date.After(latest) {
					known := !latest.IsZero()
					latest, started = date, time.Time{}
					if known {
						started = minute
					}
				}
				start, end := l.Window(strategy.InstantOf(minute))
				if now := strategy.InstantOf(minute); start > now || now >= end {
					t.Fatalf("%s: %v is not in its window %v to %v", name, minute, start, end)
				}
				if late := started.Sub(time.UnixMicro(int64(start))); !started.IsZero() && (late < 0 || late >= time.Minute) {
					t.Fatalf("%s: at %v the window begins at %v, want %v", name, minute, time.UnixMicro(int64(start)).UTC(), started.UTC())
				}
			}
		}
	}
}

// TestWindowsFollowOneAnother draws calendars and instants: an instant is in its window,
// and every window begins where the one before ends.
func TestWindowsFollowOneAnother(t *testing.T) {
	zones := []*time.Location{nil, time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/St_Johns"), zone(t, "Pacific/Apia"), zone(t, "America/Havana"), zone(t, "Asia/Manila"), zone(t, "Pacific/Auckland"), zone(t, "America/New_York")}
	rates := []string{"9/month", "9/2months", "9/3months", "9/4 months", "9/6 months", "9/year", "9/d", "9/w", "9/2d", "9/5d", "9/2w", "9/366d"}
	rapid.Check(t, func(rt *rapid.T) {
		spec := strategy.Spec{Rate: rapid.SampledFrom(rates).Draw(rt, "rate"), Zone: rapid.SampledFrom(zones).Draw(rt, "zone")}
		if slices.Index(rates, spec.Rate) < 6 {
			spec.AnchorDay = rapid.Uint32Range(0, 28).Draw(rt, "anchor")
		}
		l := newLimit(t, spec)
		now := strategy.Instant(rapid.Int64Range(int64(400*day/us), 5_000_000_000_000_000).Draw(rt, "now"))
		if rapid.Bool().Draw(rt, "around a new year") {
			year := time.Date(rapid.IntRange(1972, 2120).Draw(rt, "year"), 1, 1, 0, 0, 0, 0, time.UTC)
			now = strategy.InstantOf(year.Add(time.Duration(rapid.Int64Range(-72, 72).Draw(rt, "hours")) * time.Hour))
		}
		start, end := l.Window(now)
		if start > now || now >= end {
			rt.Fatalf("%d is not in its window %d to %d", now, start, end)
		}
		for _, in := range []strategy.Instant{start, end - 1} {
			if s, e := l.Window(in); s != start || e != end {
				rt.Fatalf("the window of %d is %d to %d, and that of %d is %d to %d", now, start, end, in, s, e)
			}
		}
		if s, _ := l.Window(end); s != end {
			rt.Fatalf("the window after %d to %d begins at %d", start, end, s)
		}
		if length := end - start; time.Duration(length)*us > rate.MaxPeriod+2*day {
			rt.Fatalf("the window %d to %d has %v", start, end, time.Duration(length)*us)
		}
	})
}

// TestCalendarDecides has a quota of a month used up, until the month ends.
func TestCalendarDecides(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	c := newCounters(newLimit(t, strategy.Spec{Rate: "2/month", Zone: berlin, AnchorDay: 15}))
	now := strategy.InstantOf(time.Date(2026, 3, 20, 12, 0, 0, 0, berlin))
	end := time.Date(2026, 4, 15, 0, 0, 0, 0, berlin)
	toEnd := end.Sub(time.UnixMicro(int64(now)))
	for i, want := range []bool{true, true, false} {
		d := c.take(now, 1)
		if d.Allowed != want || d.Statuses[0].ResetAfter != toEnd || !want && d.RetryAfter != toEnd {
			t.Errorf("request %d: %+v, want %t and %v", i, d, want, toEnd)
		}
	}
	if d := c.take(strategy.InstantOf(end)-1, 1); d.Allowed {
		t.Error("a microsecond before the month ends: allowed")
	}
	if d := c.take(strategy.InstantOf(end), 1); !d.Allowed || d.Statuses[0].Remaining != 1 {
		t.Errorf("when the month ends: %+v", d)
	}
}

// TestCalendarCounters has limits that differ in their calendars alone.
func TestCalendarCounters(t *testing.T) {
	berlin, again := zone(t, "Europe/Berlin"), zone(t, "Europe/Berlin")
	limits := []strategy.Limit{
		newLimit(t, strategy.Spec{Rate: "9/month"}),
		newLimit(t, strategy.Spec{Rate: "9/31d"}),
		newLimit(t, strategy.Spec{Rate: "9/month", AnchorDay: 15}),
		newLimit(t, strategy.Spec{Rate: "9/month", Zone: berlin}),
		newLimit(t, strategy.Spec{Rate: "9/month", Zone: zone(t, "Europe/Paris")}),
		newLimit(t, strategy.Spec{Rate: "9/month", Zone: berlin, AnchorDay: 15}),
		newLimit(t, strategy.Spec{Rate: "9/year", Zone: berlin, AnchorDay: 15}),
		newLimit(t, strategy.Spec{Rate: "9/day", Zone: berlin}),
		newLimit(t, strategy.Spec{Rate: "9/day"}),
	}
	if got, want := limits[5].Counter(), "fixed_window:9/1month@15,Europe/Berlin"; got != want {
		t.Errorf("Counter: %s, want %s", got, want)
	}
	for i := range limits {
		for j := range limits {
			if same := limits[i].SameCounter(&limits[j]); same != (i == j) || same != (limits[i].Counter() == limits[j].Counter()) {
				t.Errorf("%s and %s: same counter %t", limits[i].Counter(), limits[j].Counter(), same)
			}
		}
	}
	for _, pair := range [][2]strategy.Spec{
		{{Rate: "9/month"}, {Rate: "9/month", AnchorDay: 1}},
		{{Rate: "9/month", Zone: berlin}, {Rate: "9/1 mo", Zone: again}},
	} {
		if a, b := newLimit(t, pair[0]), newLimit(t, pair[1]); !a.SameCounter(&b) || a.Counter() != b.Counter() {
			t.Errorf("%s and %s are two counters", a.Counter(), b.Counter())
		}
	}
}

// BenchmarkWindow times the window of a calendar, which each decision works out.
func BenchmarkWindow(b *testing.B) {
	for _, spec := range []strategy.Spec{{Rate: "9/day"}, {Rate: "9/month"}, {Rate: "9/day", Zone: zone(b, "Europe/Berlin")}, {Rate: "9/month", Zone: zone(b, "Europe/Berlin"), AnchorDay: 15}} {
		l := newLimit(b, spec)
		b.Run(l.Counter(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = l.Window(start)
			}
		})
	}
}
