package redis

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// appendRun appends r, which has so many keys, as the script reads it. at is asked for an
// instant in the window of each key whose limit follows the calendar.
func appendRun(b []byte, r *store.Request, keys int, at func(key int) strategy.Instant) []byte {
	if mark := shortForm(r); mark != 0 {
		return appendShort(b, mark, r, keys)
	}
	consume := consumes(r)
	together := byte(0)
	if keys < ofStates && !logs(r) {
		together = byte(keys)
	}
	b = append(b, together)
	key := 0
	eachLimit(r, func(r *store.Request, l *strategy.Limit) {
		ends := byte(0)
		if key == keys-1 {
			ends = 1
		}
		b = appendLimit(append(b, ends), r, l, consume)
		if l.OnCalendar() {
			start, end := l.Window(at(key))
			b = appendDouble(appendDouble(b, float64(start)), float64(end))
		}
		key++
	})
	return b
}

// shortForm returns what the short form of r begins with, which the script decides in less
// time, or 0 if r has none.
func shortForm(r *store.Request) (mark byte) {
	if len(r.With) > 0 || r.Mode != strategy.Take || !r.Changes() {
		return 0
	}
	for i := range r.Limits {
		l := &r.Limits[i]
		if l.Rate.IsUnlimited() {
			continue
		}
		of := byte(ofStates)
		if numeric(l) {
			of = ofNumbers
		}
		if l.Shadow || l.OnCalendar() || l.Strategy == strategy.SlidingWindowLog || r.Cost > uint64(max(0, l.Capacity)) ||
			of == ofNumbers && r.Cost >= numberUnit || mark != 0 && mark != of {
			return 0
		}
		mark = of
	}
	return mark
}

// appendShort appends the short form of r, which has so many keys.
func appendShort(b []byte, mark byte, r *store.Request, keys int) []byte {
	b = appendDouble(append(b, mark, byte(keys)), float64(r.Cost))
	for i := range r.Limits {
		l := &r.Limits[i]
		if l.Rate.IsUnlimited() {
			continue
		}
		b = appendDouble(appendDouble(b, float64(l.Rate.Period/time.Microsecond)), float64(l.Capacity))
		if mark == ofStates {
			b = append(appendDouble(b, float64(l.Rate.Count)), byte(l.Strategy))
		}
	}
	return b
}

// logs reports whether r or its With has a sliding window log.
func logs(r *store.Request) (found bool) {
	eachLimit(r, func(_ *store.Request, l *strategy.Limit) { found = found || l.Strategy == strategy.SlidingWindowLog })
	return found
}

// appendLimit appends l, a limit of r, as the script reads it, but for its window.
func appendLimit(b []byte, r *store.Request, l *strategy.Limit, consume byte) []byte {
	shadow := byte(0)
	if l.Shadow {
		shadow = 1
	}
	algorithm := byte(l.Strategy)
	switch {
	case l.OnCalendar():
		algorithm = onCalendar
	case numeric(l):
		algorithm = isNumeric
	}
	b = append(b, algorithm, shadow, consume|byte(r.Mode)<<1)
	most := uint64(rate.MaxCount + 1)
	if r.Mode != strategy.Take {
		most = strategy.MaxUnits
	}
	for _, n := range [...]float64{
		float64(min(r.Cost, most)), float64(l.Rate.Count), float64(l.Rate.Period / time.Microsecond), float64(l.Capacity),
	} {
		b = appendDouble(b, n)
	}
	if r.Mode != strategy.Take {
		b = appendDouble(appendDouble(b, float64(l.Ceiling())), float64(r.ConsumedAt))
	}
	return b
}

func appendDouble(b []byte, n float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(n))
}

// eachLimit calls f for each limit of a request and its With that has a
// counter, in order.
func eachLimit(r *store.Request, f func(*store.Request, *strategy.Limit)) {
	r.All(func(r *store.Request) {
		for i := range r.Limits {
			if l := &r.Limits[i]; !l.Rate.IsUnlimited() {
				f(r, l)
			}
		}
	})
}

// consumes returns 1 if r or its With consumes when it is allowed, and
// otherwise 0.
func consumes(r *store.Request) (consume byte) {
	r.All(func(r *store.Request) {
		if r.Changes() {
			consume = 1
		}
	})
	return consume
}

// decideByStates decides r, and its With, by the states from before, in order.
// It returns from which limits they consumed, and whether the states are such as the script
// replies.
func decideByStates(r *store.Request, res *store.Result, packed string, now strategy.Instant) (consumed strategy.Consumption, ok bool) {
	ok = true
	decide := func(dryRun bool) (consumed strategy.Consumption, refused bool) {
		packed := packed
		res.All(r, func(r *store.Request, res *store.Result) {
			var states [strategy.MaxLimits]strategy.State
			for j := range r.Limits {
				if l := &r.Limits[j]; len(packed) > 0 && !l.Rate.IsUnlimited() {
					size := sizeOf(r, l)
					state, isState := parseState(packed[:size])
					ok = ok && isState
					states[j], packed = state, packed[size:]
					states[j].Settle(l, now, 0)
				}
			}
			a := r.Ask(now)
			a.DryRun = a.DryRun || dryRun
			from := res.Decide(r.Limits, states[:len(r.Limits)], a)
			consumed, refused = max(consumed, from), refused || res.Refused
		})
		return consumed, refused
	}
	if len(r.With) > 0 {
		if _, refused := decide(true); refused {
			return strategy.ConsumedNone, ok
		}
	}
	consumed, _ = decide(false)
	return consumed, ok
}

// numberUnit is what the number of a numeric counter is a multiple of, but for the units used.
const numberUnit = 1_000_000

// sizeOf returns how long the state of the counter of l, a limit of r, is.
func sizeOf(r *store.Request, l *strategy.Limit) int {
	switch {
	case numeric(l):
		return sizeOfNumber
	case l.Strategy != strategy.SlidingWindowLog:
		return sizeOfState
	case r.Mode != strategy.Take:
		return sizeOfView
	}
	return sizeOfTakeView
}

// parseState reads the state of a counter as decide.lua packs it, which has found it
// to be one. It reports false if it is none: then the reply is not the script's.
func parseState(packed string) (state strategy.State, ok bool) {
	var part, partAfter float64
	switch len(packed) {
	case sizeOfNumber:
		if packed[0] >= '0' && packed[0] <= '9' {
			return parseNumber(packed)
		}
	case sizeOfView:
		partAfter = double(packed[sizeOfTakeView:])
		fallthrough
	case sizeOfTakeView, sizeOfState:
		part = double(packed[16:])
	default:
		return strategy.State{}, false
	}
	last, used := double(packed), double(packed[8:])
	if last < 0 || used < 0 || part < 0 || partAfter < 0 || !(last+used+part+partAfter < 1<<55) {
		return strategy.State{}, false
	}
	return strategy.State{Last: strategy.Instant(last), Used: int64(used), Part: int64(part), PartAfter: int64(partAfter)}, true
}

// parseNumber reads the number of a numeric counter: the start of the window in
// microseconds, and the units used.
func parseNumber(digits string) (state strategy.State, ok bool) {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n == 0 {
		return strategy.State{}, err == nil
	}
	used := n % numberUnit
	return strategy.State{Last: strategy.Instant(n - used), Used: used}, true
}

// double returns the double that packed begins with.
func double(packed string) float64 {
	return math.Float64frombits(binary.BigEndian.Uint64([]byte(packed[:8])))
}

// The numbers that the script knows other fixed windows by.
const (
	onCalendar = 7 // one that follows the calendar
	isNumeric  = 8 // see numeric
)

// What the short form of a run begins with.
const (
	ofStates  = 254 // it takes from window counters and buckets
	ofNumbers = 255 // it takes from numeric counters
)

// The sizes of what decide.lua packs.
const (
	sizeOfNow      = 8
	sizeOfConsumed = 1
	sizeOfNumber   = 16 // of a state that is numeric
	sizeOfState    = 28 // of others; the last 4 bytes say how long the key lives
	sizeOfTakeView = 24 // of a sliding window log, for a take
	sizeOfView     = 32 // of one for other modes
)

// What decide.lua packs instead of a strategy.Consumption, and the errors of it.
const (
	foreign = 3 // a key holds what is no string
	damaged = 4 // a key held what is no counter, and is deleted
	// elsewhere: the window of a limit that follows the calendar is not that of the server's
	// clock, and nothing was changed.
	elsewhere = 5
)
