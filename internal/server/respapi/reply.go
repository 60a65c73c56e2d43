package respapi

import (
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const replyOK = "+OK\r\n"

// never is what a reply has in place of a time that does not come, and of a number that
// there is not.
const never = -1

// micros returns d in microseconds.
func micros(d time.Duration) int64 {
	if d == strategy.Never {
		return never
	}
	return int64(d / time.Microsecond)
}

// binding returns which limit binds: of those that deny, the one that does for longest;
// or else the one with the least remaining. Limits in shadow mode and unlimited ones bind
// nobody. It returns -1 if none does.
func binding(a *decide.Answer) int {
	statuses := a.Decision.Statuses
	best := -1
	for i := range statuses {
		l := &a.Limits[i]
		if l.Shadow || l.Rate.IsUnlimited() {
			continue
		}
		if best < 0 || binds(&statuses[i], &statuses[best]) {
			best = i
		}
	}
	return best
}

// binds reports whether s binds more than t.
func binds(s, t *strategy.Status) bool {
	switch {
	case s.Allowed != t.Allowed:
		return !s.Allowed
	case !s.Allowed && s.RetryAfter != t.RetryAfter:
		return s.RetryAfter == strategy.Never || t.RetryAfter != strategy.Never && s.RetryAfter > t.RetryAfter
	default:
		return s.Remaining < t.Remaining
	}
}

// retryAfter returns when to ask again, in microseconds: 0 if a is allowed.
func retryAfter(a *decide.Answer) int64 {
	switch d := a.Decision; {
	case d.Allowed:
		return 0
	case len(d.Statuses) == 0: // the failure policy has denied it, and nobody knows for how long
		return never
	default:
		return micros(d.RetryAfter)
	}
}

// An extra is what some answers have beside those of RL.ALLOW.
type extra struct {
	reservation []byte // its id
	reserves    bool
	repeated    bool
	settles     bool
}

// appendAnswer appends an answer for RESP 2: numbers, of the limit that binds.
func (t *turn) appendAnswer(a *decide.Answer, more extra) {
	b := t.out
	if more.reserves || more.settles {
		b = append(b, "*6\r\n"...)
	} else {
		b = append(b, "*5\r\n"...)
	}
	b = appendBit(b, a.Decision.Allowed)
	if i := binding(a); i >= 0 {
		s := &a.Decision.Statuses[i]
		b = appendUint(t.lastLimit.append(b, whole(s.Limit)), s.Remaining)
		b = t.lastReset.append(appendInt(b, retryAfter(a)), micros(s.ResetAfter))
	} else {
		b = appendInt(appendInt(b, never), never)
		b = appendInt(appendInt(b, retryAfter(a)), never)
	}
	switch {
	case more.settles:
		b = appendBit(b, more.repeated)
	case more.reserves && more.reservation == nil:
		b = appendNull(b, 2)
	case more.reserves:
		b = appendText(b, string(more.reservation))
	}
	t.out = b
}

// appendAnswerMap appends an answer for RESP 3: a map, with every limit.
func appendAnswerMap(b []byte, a *decide.Answer, more extra) []byte {
	d := a.Decision
	pairs := 6
	if more.reserves || more.settles {
		pairs++
	}
	b = appendMap(b, pairs)
	b = appendBool(appendText(b, "allowed"), d.Allowed)
	b = appendText(appendText(b, "reason"), apiv1.Reason(a.Outcome).String())
	b = appendInt(appendText(b, "retry_after"), retryAfter(a))
	delay := time.Duration(0)
	if d.Allowed {
		delay = d.Delay
	}
	b = appendInt(appendText(b, "delay"), micros(delay))
	if b = appendText(b, "decided_at"); d.At != 0 {
		b = appendInt(b, int64(d.At))
	} else {
		b = appendNull(b, 3)
	}
	switch {
	case more.settles:
		b = appendBool(appendText(b, "repeated"), more.repeated)
	case more.reserves && more.reservation == nil:
		b = appendNull(appendText(b, "reservation"), 3)
	case more.reserves:
		b = appendText(appendText(b, "reservation"), string(more.reservation))
	}
	b = appendArray(appendText(b, "limits"), len(d.Statuses))
	for i := range d.Statuses {
		s := &d.Statuses[i]
		b = appendMap(b, 6)
		b = appendText(appendText(b, "name"), a.Limits[i].Name)
		b = appendBool(appendText(b, "allowed"), s.Allowed)
		b = appendUint(appendText(b, "limit"), s.Limit)
		b = appendUint(appendText(b, "remaining"), s.Remaining)
		b = appendInt(appendText(b, "retry_after"), micros(s.RetryAfter))
		b = appendInt(appendText(b, "reset_after"), micros(s.ResetAfter))
	}
	return b
}
