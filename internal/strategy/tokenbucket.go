package strategy

// TOKEN_BUCKET starts with burst tokens and refills N per P, up to burst. A request
// takes cost tokens or is denied. In any time t, at most burst + N x t/P units
// pass. Use it for clients that work in bursts.
//
// TOKEN_BUCKET, LEAKY_BUCKET and GCRA are the same meter, read in three ways. The
// meter has a level, which each request raises by its cost, at most to the
// capacity, and which drains N units per P. For TOKEN_BUCKET, the tokens are what
// is missing to the capacity. For LEAKY_BUCKET, the level is a queue. For GCRA, the
// theoretical arrival time (TAT) is the instant at which the level reaches 0:
//
//	level = burst - tokens = (TAT - now) x N/P
//
// (ITU-T I.371, annex A, shows that virtual scheduling and the leaky bucket are
// equivalent.) The state has the level and not the time, so that a named limit
// whose rate changes keeps the units that were consumed.
//
// State: at Last, the level was Used - Part/P units, with 0 <= Part < P. That makes
// a level exact for every rate: elapsed microseconds times N are P-ths of a unit.
//
// A debt is a level above the capacity, and drains like the rest. A Refund lowers the
// level, but not for what has drained by now.

func takeTokenBucket(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	units, part := level(l, s, now)
	if over := units + cost - l.Capacity; over > 0 {
		return verdict{retryAfter: micros(drainTime(l, over, part))}
	}
	*next = State{Last: now, Used: units + cost, Part: part}
	return allowed
}

func chargeTokenBucket(l *Limit, s State, cost int64, now Instant) State {
	units, part := level(l, s, now)
	switch ceiling := l.Ceiling(); {
	case units > ceiling: // which was higher
	case units+cost > ceiling:
		units, part = ceiling, 0
	default:
		units += cost
	}
	return State{Last: now, Used: units, Part: part}
}

func refundTokenBucket(l *Limit, s State, a *Ask, now Instant) State {
	units, part := level(l, s, now)
	if units == 0 || units <= l.Capacity && drained(l, a, now) {
		return s
	}
	if units <= a.units() {
		return State{Last: now}
	}
	return State{Last: now, Used: units - a.units(), Part: part}
}

// drained reports whether what a gives back was consumed so long ago that it has
// drained: since then, a full bucket has. A cost above the capacity was charged, on top
// of what was there.
func drained(l *Limit, a *Ask, now Instant) bool {
	if a.ConsumedAt == 0 || a.ConsumedAt >= now {
		return false
	}
	most := l.Capacity
	if a.units() > most {
		most += a.units()
	}
	since, _ := mulDiv(int64(now-a.ConsumedAt), l.Rate.Count, 0, period(l.Rate))
	return since >= most
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
	part = min(s.Part, p-1) // the period may have been longer when s was written
	drained, part := mulDiv(int64(now-s.Last), l.Rate.Count, part, p)
	if drained >= s.Used {
		return 0, 0
	}
	return s.Used - drained, part
}

// drainTime returns how many microseconds it takes to drain units - part/P.
func drainTime(l *Limit, units, part int64) int64 {
	if units == 0 {
		return 0
	}
	return mulDivCeil(units, period(l.Rate), part, l.Rate.Count)
}
