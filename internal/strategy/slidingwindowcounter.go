package strategy

// SLIDING_WINDOW_COUNTER estimates how many units were consumed in the period that
// ends now. It knows the counts of two fixed windows, and assumes that the units
// of the previous window were spread evenly over it:
//
//	previous x (1 - elapsed/P) + current
//
// A counter needs only two numbers, and there is no burst at a boundary. The
// estimate is wrong as far as the previous window's requests were not even.
// Cloudflare described the method in "How we built rate limiting capable of
// scaling to millions of domains" (2017).
//
// State: Used is how many units were consumed in the window that contains Last,
// and Part how many in the window before it.
//
// A debt loses its weight with the window after it. A Refund gives back to the window
// in which it was consumed: that of now, or the one before.

func takeSlidingWindowCounter(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	p := period(l.Rate)
	previous, current, elapsed := countedWindows(p, s, now)
	room := l.Capacity - current - cost // the most that the previous window may weigh
	if weight(previous, elapsed, p) <= room {
		*next = State{Last: now, Used: current + cost, Part: previous}
		return allowed
	}
	if room >= 0 {
		// Allowed once previous x (P - t) <= room x P, at t after this window's start.
		return verdict{retryAfter: micros(mulDivCeil(previous-room, p, 0, previous) - elapsed)}
	}
	// Not allowed in this window. In the next one, current is the previous window.
	excess := current - (l.Capacity - cost)
	return verdict{retryAfter: micros(p - elapsed + mulDivCeil(excess, p, 0, current))}
}

func chargeSlidingWindowCounter(l *Limit, s State, cost int64, now Instant) State {
	p := period(l.Rate)
	previous, current, elapsed := countedWindows(p, s, now)
	weight := weight(previous, elapsed, p)
	return State{Last: now, Used: l.filled(weight+current, cost) - weight, Part: previous}
}

func refundSlidingWindowCounter(l *Limit, s State, a *Ask, now Instant) State {
	p := period(l.Rate)
	previous, current, elapsed := countedWindows(p, s, now)
	of, start := &current, now-Instant(elapsed)
	if a.ConsumedAt != 0 && a.ConsumedAt < start {
		of = &previous
	}
	if *of == 0 || a.ConsumedAt != 0 && a.ConsumedAt < start-Instant(p) {
		return s
	}
	*of -= min(*of, a.units())
	return State{Last: now, Used: current, Part: previous}
}

// usedSlidingWindowCounter also returns the units of the previous window, or -1 if more
// is used than the capacity.
func usedSlidingWindowCounter(l *Limit, s State, now Instant) (used, reset, before int64) {
	p := period(l.Rate)
	previous, current, elapsed := countedWindows(p, s, now)
	switch {
	case current > 0:
		reset = 2*p - elapsed
	case previous > 0:
		reset = p - elapsed
	}
	if used = weight(previous, elapsed, p) + current; used > l.Capacity {
		return used, reset, -1
	}
	return used, reset, previous
}

// moreSlidingWindowCounter returns how long it takes until only left units count of a
// counter that has these units in its previous window, and is unused after reset. One
// more counts now.
func moreSlidingWindowCounter(l *Limit, previous, left, reset int64) int64 {
	p := period(l.Rate)
	current, elapsed := int64(0), p-reset
	if reset > p {
		elapsed = 2*p - reset
		current = left + 1 - weight(previous, elapsed, p)
	}
	if room := left - current; room >= 0 { // as in takeSlidingWindowCounter
		return mulDivCeil(previous-room, p, 0, previous) - elapsed
	}
	return p - elapsed + mulDivCeil(current-left, p, 0, current)
}

// countedWindows returns the units of the window before that of now, those of
// the window of now, and how much of that window has elapsed.
func countedWindows(p int64, s State, now Instant) (previous, current, elapsed int64) {
	elapsed = int64(now) % p
	start := int64(now) - elapsed
	switch last := int64(s.Last); {
	case last >= start:
		return s.Part, s.Used, elapsed
	case last >= start-p:
		return s.Used, 0, elapsed
	default:
		return 0, 0, elapsed
	}
}

// weight returns how much the previous window's units weigh, rounded up. That
// loses nothing, because it is compared with whole units.
func weight(previous, elapsed, p int64) int64 {
	if previous == 0 {
		return 0
	}
	return mulDivCeil(previous, p-elapsed, 0, p)
}
