package respapi

import (
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// CL.THROTTLE and THROTTLE have a key and no namespace. Their counters are those of the
// limit throttleLimit in the namespace throttleNamespace, whose configuration, and
// permission, they are under as any others. The limit has a name so that a caller may
// change the numbers and keeps what it has consumed.
const (
	throttleNamespace = "throttle"
	throttleLimit     = "throttle"
)

// A wholeRate is the text of a rate that came as two numbers. The next command mostly has
// the same.
type wholeRate struct{ count, period, text string }

// of returns the text of a rate.
func (w *wholeRate) of(count, period string) string {
	if w.count != count || w.period != period {
		*w = wholeRate{count, period, count + "/" + period + "s"}
	}
	return w.text
}

// throttleField returns what the two commands call a field of the API.
func throttleField(field string) string {
	switch name := strings.TrimPrefix(field, "limits[0]."); name {
	case "identifier":
		return "key"
	case "rate":
		return "count and period"
	case "burst":
		return "max_burst"
	case "limits":
		return "CL.THROTTLE and THROTTLE"
	default:
		return name
	}
}

// A throttleReply is what a reply to one of the two commands says.
type throttleReply struct {
	allowed          bool
	limit, remaining uint64
	retry, reset     time.Duration // retry is strategy.Never if no wait helps
}

// throttleReplyOf returns what a says to a command with a capacity. Without a decision on
// the limit, whoever is allowed has all of it.
func throttleReplyOf(a *decide.Answer, capacity uint64) throttleReply {
	d := a.Decision
	r := throttleReply{allowed: d.Allowed, limit: capacity, retry: strategy.Never}
	if len(d.Statuses) == 0 {
		if d.Allowed {
			r.remaining = capacity
		}
		return r
	}
	s := &d.Statuses[0]
	r.remaining, r.retry, r.reset = s.Remaining, d.RetryAfter, s.ResetAfter
	return r
}

// appendCellThrottle appends the reply of redis-cell: whether it is limited, the limit,
// what remains, the seconds to wait or -1, and the seconds until it is unused. Its
// seconds are rounded up from a millisecond on.
func (t *turn) appendCellThrottle(a *decide.Answer, capacity uint64) {
	r := throttleReplyOf(a, capacity)
	b := appendBit(append(t.out, "*5\r\n"...), !r.allowed)
	b = appendUint(t.lastLimit.append(b, whole(r.limit)), r.remaining)
	if r.allowed {
		r.retry = strategy.Never
	}
	t.out = appendInt(appendInt(b, cellSeconds(r.retry)), cellSeconds(r.reset))
}

// cellSeconds returns d in the seconds of redis-cell.
func cellSeconds(d time.Duration) int64 {
	if d == strategy.Never {
		return never
	}
	whole := int64(d / time.Second)
	if d%time.Second >= time.Millisecond {
		whole++
	}
	return whole
}

// appendCrabThrottle appends the reply of throttlecrab: whether it is allowed, the limit,
// what remains, the seconds of reset_after, and the seconds to wait.
//
// Its reset_after is not until the limit is unused, but further on by the whole burst
// but two: it is what its users know. Its retry_after is in whole seconds rounded down, at
// which a caller would ask too early: here it is rounded up.
func (t *turn) appendCrabThrottle(a *decide.Answer, capacity uint64) {
	r := throttleReplyOf(a, capacity)
	reset := r.reset.Seconds()
	if len(a.Limits) > 0 {
		rate := &a.Limits[0].Rate
		reset += (float64(capacity) - 2) * rate.Period.Seconds() / float64(rate.Count)
	}
	b := appendBit(append(t.out, "*5\r\n"...), r.allowed)
	b = appendUint(t.lastLimit.append(b, whole(r.limit)), r.remaining)
	// A microsecond is more than the arithmetic may be off by.
	b = appendInt(b, int64(max(reset+1e-6, 0)))
	wait := int64(0)
	if !r.allowed {
		wait = never
		if r.retry != strategy.Never {
			wait = int64((r.retry + time.Second - 1) / time.Second)
		}
	}
	t.out = appendInt(b, wait)
}
