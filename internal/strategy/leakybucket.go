package strategy

// LEAKY_BUCKET is a queue with room for burst units, which drains N units per P.
// It denies a request that finds no room. It gives an allowed request a delay,
// after which the units before it have drained; a caller that holds each request
// that long sends them evenly. Use it where callers can wait and what they call
// cannot take bursts.
//
// State: the same as that of TOKEN_BUCKET.

func takeLeakyBucket(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	v := takeTokenBucket(l, s, cost, now, next)
	if v.allowed {
		v.delay = micros(drainTime(l, next.Used-cost, next.Part))
	}
	return v
}
