package strategy

import (
	"time"
)

// Never is the RetryAfter of a request that no wait can help.
const Never time.Duration = -1

// A verdict is the answer of one limit to a request.
type verdict struct {
	allowed    bool
	retryAfter time.Duration
	delay      time.Duration
}

var (
	allowed = verdict{allowed: true}
	never   = verdict{retryAfter: Never}
)

// after returns v if its waits begin after d: the clock has stepped back, and time stands
// still for so long.
func (v verdict) after(d Instant) verdict {
	if v.retryAfter > 0 {
		v.retryAfter = later(v.retryAfter, d)
	}
	if v.delay > 0 {
		v.delay = later(v.delay, d)
	}
	return v
}
