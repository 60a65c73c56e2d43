package strategy

// SLIDING_WINDOW_COUNTER estimates the units of the period that ends now from
// the counts of two fixed windows, as if those of the previous window had been
// spread evenly over it:
//
//	previous x (1 - elapsed/P) + current
//
// Two numbers a counter, and no burst at a boundary; up to an error where the
// previous window's requests were not even. The method is the one Cloudflare
// described in "How we built rate limiting capable of scaling to millions of
// domains" (2017).
//
// State: Used units were consumed in the window that holds Last, and Part in
// the window before it.

func takeSlidingWindowCounter(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	p := period(l.Rate)
	previous, current, elapsed := countedWindows(p, s, now)
	room := l.Capacity - current - cost // units that the previous window may still weigh
	if weight(previous, elapsed, p) <= room {
		*next = State{Last: now, Used: uint32(current + cost), Part: previous}
		return allowed
	}
	if room >= 0 {
		// Once previous x (P - t) <= room x P, at t after this window's start.
		return verdict{retryAfter: micros(mulDivCeil(previous-room, p, 0, previous) - elapsed)}
	}
	// Not in this window. In the next one, current is what weighs.
	excess := current - (l.Capacity - cost)
	return verdict{retryAfter: micros(p - elapsed + mulDivCeil(excess, p, 0, current))}
}

func usedSlidingWindowCounter(l *Limit, s State, now Instant) (used, reset int64) {
	p := period(l.Rate)
	previous, current, elapsed := countedWindows(p, s, now)
	switch {
	case current > 0:
		reset = 2*p - elapsed
	case previous > 0:
		reset = p - elapsed
	}
	return weight(previous, elapsed, p) + current, reset
}

// countedWindows returns the units of the window before that of now, those of
// the window of now, and how much of that window has elapsed.
func countedWindows(p int64, s State, now Instant) (previous, current, elapsed int64) {
	elapsed = int64(now) % p
	start := int64(now) - elapsed
	switch last := int64(s.Last); {
	case last >= start:
		return s.Part, int64(s.Used), elapsed
	case last >= start-p:
		return int64(s.Used), 0, elapsed
	default:
		return 0, 0, elapsed
	}
}

// weight returns what the previous window's units weigh, rounded up: as the
// units to compare it with are whole, that loses nothing.
func weight(previous, elapsed, p int64) int64 {
	if previous == 0 {
		return 0
	}
	return mulDivCeil(previous, p-elapsed, 0, p)
}
