package accesslog

import (
	"strconv"
	"time"
)

// The times that are believed: others overflow something, or are no times of a log.
const (
	minTime = 0
	maxTime = int64(7_258_118_400_000_000) // the year 2200
)

// A timeReader reads the times of the records of one log. Most have the time of the record
// before them, in logs of whole seconds, or one whose text has been read just now.
type timeReader struct {
	zone *time.Location // of times that do not say

	text   [40]byte // that was read last, of length bytes
	length int
	at     int64
	zoned  bool
}

func newTimeReader(zone *time.Location) *timeReader { return &timeReader{zone: zone} }

// set sets the time of r to what text says.
func (t *timeReader) set(r *Record, text []byte) Problem {
	if len(text) == 0 {
		return NoTime
	}
	if t.length == len(text) && string(t.text[:t.length]) == string(text) {
		r.At, r.NoZone = t.at, !t.zoned
		return None
	}
	at, zoned, ok := parseTime(text, t.zone)
	if !ok || at < minTime || at >= maxTime {
		return BadTime
	}
	r.At, r.NoZone = at, !zoned
	if len(text) <= len(t.text) {
		t.length, t.at, t.zoned = copy(t.text[:], text), at, zoned
	}
	return None
}

// parseTime reads a time in microseconds: seconds, milliseconds, microseconds or
// nanoseconds since the Unix epoch, by how many they are; 10/Oct/2000:13:55:36 -0700; or
// 2000-10-10T13:55:36.123Z in its usual forms. zone is that of a time which does not say.
func parseTime(b []byte, zone *time.Location) (at int64, zoned, ok bool) {
	switch {
	case len(b) >= 20 && b[2] == '/' && b[6] == '/':
		return parseCLF(b, zone)
	case len(b) >= 19 && b[4] == '-' && b[7] == '-':
		return parseISO(b, zone)
	default:
		at, ok = parseEpoch(b)
		return at, true, ok
	}
}

func parseEpoch(b []byte) (at int64, ok bool) {
	whole, i := int64(0), 0
	for ; i < len(b) && isDigit(b[i]); i++ {
		if i >= 19 {
			return 0, false
		}
		whole = whole*10 + int64(b[i]-'0')
	}
	if i == 0 || whole < 0 {
		return 0, false
	}
	unit := int64(1_000_000) // in microseconds
	switch {
	case whole >= 1e17:
		return whole / 1000, i == len(b)
	case whole >= 1e14:
		unit = 1
	case whole >= 1e11:
		unit = 1000
	}
	at = whole * unit
	if i == len(b) {
		return at, true
	}
	if b[i] != '.' {
		return parseFloat(b)
	}
	for _, c := range b[i+1:] {
		if !isDigit(c) {
			return parseFloat(b)
		}
		unit /= 10
		at += int64(c-'0') * unit
	}
	return at, true
}

// parseFloat reads seconds such as 1.7e9, as some programs write them.
func parseFloat(b []byte) (at int64, ok bool) {
	if len(b) > 32 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(b), 64)
	return int64(f * 1e6), err == nil && f >= 0 && f < 1e11
}

func parseCLF(b []byte, zone *time.Location) (at int64, zoned, ok bool) {
	day, ok1 := digits(b[0:2])
	month := monthOf(b[3:6])
	year, ok2 := digits(b[7:11])
	if !ok1 || !ok2 || month == 0 || b[11] != ':' {
		return 0, false, false
	}
	return finish(date{year, month, day}, b[12:], zone)
}

func parseISO(b []byte, zone *time.Location) (at int64, zoned, ok bool) {
	year, ok1 := digits(b[0:4])
	month, ok2 := digits(b[5:7])
	day, ok3 := digits(b[8:10])
	if !ok1 || !ok2 || !ok3 || b[10] != 'T' && b[10] != ' ' && b[10] != 't' {
		return 0, false, false
	}
	return finish(date{year, month, day}, b[11:], zone)
}

type date struct{ year, month, day int64 }

// days returns the days from the Unix epoch to d, and whether d is a day of a calendar.
func (d date) days() (n int64, ok bool) {
	if d.month < 1 || d.month > 12 || d.day < 1 || d.day > 31 {
		return 0, false
	}
	y, m := d.year, d.month
	if m <= 2 { // the year begins in March, so that a leap day is its last
		y--
		m += 12
	}
	return 365*y + y/4 - y/100 + y/400 + (153*(m-3)+2)/5 + d.day - 1 - 719468, true
}

// finish reads the time of day, and the zone behind it.
func finish(d date, b []byte, zone *time.Location) (at int64, zoned, ok bool) {
	days, ok := d.days()
	if !ok || len(b) < 8 || b[2] != ':' || b[5] != ':' {
		return 0, false, false
	}
	hour, ok1 := digits(b[0:2])
	minute, ok2 := digits(b[3:5])
	second, ok3 := digits(b[6:8])
	if !ok1 || !ok2 || !ok3 || hour > 24 || minute > 59 || second > 60 {
		return 0, false, false
	}
	at = (days*86400 + hour*3600 + minute*60 + second) * 1_000_000
	b = b[8:]
	if len(b) > 1 && (b[0] == '.' || b[0] == ',') {
		unit, i := int64(1_000_000), 1
		for ; i < len(b) && isDigit(b[i]); i++ {
			unit /= 10
			at += int64(b[i]-'0') * unit
		}
		b = b[i:]
	}
	for len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	if len(b) == 0 {
		local := time.UnixMicro(at).UTC()
		_, offset := time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(), 0, zone).Zone()
		return at - int64(offset)*1_000_000, false, true
	}
	offset, ok := parseZone(b)
	return at - offset*1_000_000, true, ok
}

// parseZone reads Z, +02:00, +0200, UTC or GMT, in seconds.
func parseZone(b []byte) (seconds int64, ok bool) {
	switch string(b) {
	case "Z", "z", "UTC", "GMT":
		return 0, true
	}
	if b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	var hours, minutes int64
	ok1, ok2 := false, false
	switch {
	case len(b) == 5:
		hours, ok1 = digits(b[1:3])
		minutes, ok2 = digits(b[3:5])
	case len(b) == 6 && b[3] == ':':
		hours, ok1 = digits(b[1:3])
		minutes, ok2 = digits(b[4:6])
	case len(b) == 3:
		hours, ok1 = digits(b[1:3])
		ok2 = true
	}
	if !ok1 || !ok2 || hours > 18 || minutes > 59 {
		return 0, false
	}
	seconds = hours*3600 + minutes*60
	if b[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func digits(b []byte) (n int64, ok bool) {
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func monthOf(b []byte) int64 {
	const names = "janfebmaraprmayjunjulaugsepoctnovdec"
	for i := 0; i < len(names); i += 3 {
		if b[0]|0x20 == names[i] && b[1]|0x20 == names[i+1] && b[2]|0x20 == names[i+2] {
			return int64(i/3 + 1)
		}
	}
	return 0
}
