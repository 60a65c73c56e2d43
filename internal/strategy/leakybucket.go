package strategy

// LEAKY_BUCKET is a queue with room for burst units that drains N per P. A
// request that finds no room is denied; one that is allowed should be held for
// the delay it is given, which is when those before it have drained, so that
// requests leave evenly. For callers that can wait, in front of what can not
// take bursts.
//
// State: that of TOKEN_BUCKET, whose meter it is.

func takeLeakyBucket(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	v := takeTokenBucket(l, s, cost, now, next)
	if v.allowed {
		v.delay = micros(drainTime(l, int64(next.Used)-cost, next.Part))
	}
	return v
}
