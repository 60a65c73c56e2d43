package strategy

// TOKEN_BUCKET starts with burst tokens and refills N per P up to burst; a
// request takes cost tokens or is denied. Over any time t no more than
// burst + N x t/P units pass. For clients that work in bursts.
//
// It, LEAKY_BUCKET and GCRA are one meter read in three ways: a level that
// each request raises by its cost and that drains N units per P, never above
// the capacity. TOKEN_BUCKET calls what is missing from the top tokens,
// LEAKY_BUCKET calls the level a queue, and GCRA calls the instant at which
// the level reaches 0 the theoretical arrival time:
//
//	level = burst - tokens = (TAT - now) x N/P
//
// (ITU-T I.371, annex A, shows virtual scheduling and the leaky bucket to be
// equivalent.) The level is kept, and not the time, so that a named limit
// whose rate changes keeps the units that were consumed.
//
// State: at Last, the level was Used - Part/P units, where 0 <= Part < P. So a
// level is exact however the rate divides: elapsed microseconds times N are
// P-ths of a unit.

func takeTokenBucket(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	units, part := level(l, s, now)
	if over := units + cost - l.Capacity; over > 0 {
		return verdict{retryAfter: micros(drainTime(l, over, part))}
	}
	*next = State{Last: now, Used: uint32(units + cost), Part: part}
	return allowed
}

func usedTokenBucket(l *Limit, s State, now Instant) (used, reset int64) {
	units, part := level(l, s, now)
	return units, drainTime(l, units, part)
}

// level returns the level of s at now, as units - part/P.
func level(l *Limit, s State, now Instant) (units, part int64) {
	if s.Used == 0 {
		return 0, 0
	}
	p := period(l.Rate)
	part = min(s.Part, p-1) // the period may have been longer when s was made
	drained, part := mulDiv(int64(now-s.Last), l.Rate.Count, part, p)
	if drained >= int64(s.Used) {
		return 0, 0
	}
	return int64(s.Used) - drained, part
}

// drainTime returns the microseconds until units - part/P have drained.
func drainTime(l *Limit, units, part int64) int64 {
	if units == 0 {
		return 0
	}
	return mulDivCeil(units, period(l.Rate), part, l.Rate.Count)
}
