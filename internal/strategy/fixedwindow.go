package strategy

// FIXED_WINDOW allows at most N units in each window. A window is as long as the
// period. Windows are aligned to the Unix epoch: those of a day start at midnight
// UTC, and those of a week on Thursday; see calendar.go for those of months and of time
// zones. It is the cheapest strategy, and has a
// known flaw: up to 2 x N units can pass around the boundary of two windows.
//
// State: Used is how many units were consumed in the window that contains Last.
//
// A debt ends with its window. A Refund gives back only what was consumed in the
// window of now.

func takeFixedWindow(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	used, toEnd := clockWindow(l, s, now)
	if l.OnCalendar() {
		used, toEnd = fixedWindow(l, s, now)
	}
	if used+cost > l.Capacity {
		return verdict{retryAfter: micros(toEnd)}
	}
	*next = State{Last: now, Used: used + cost}
	return allowed
}

func chargeFixedWindow(l *Limit, s State, cost int64, now Instant) State {
	used, _ := fixedWindow(l, s, now)
	return State{Last: now, Used: l.filled(used, cost)}
}

func refundFixedWindow(l *Limit, s State, a *Ask, now Instant) State {
	used, _ := fixedWindow(l, s, now)
	start, _ := l.Window(now)
	if used == 0 || a.ConsumedAt != 0 && a.ConsumedAt < start {
		return s
	}
	return State{Last: now, Used: used - min(used, a.units())}
}

func usedFixedWindow(l *Limit, s State, now Instant) (used, reset int64) {
	used, toEnd := clockWindow(l, s, now)
	if l.OnCalendar() {
		used, toEnd = fixedWindow(l, s, now)
	}
	if used == 0 {
		return 0, 0
	}
	return used, toEnd
}

// fixedWindow returns the units used in the window of now, and the
// microseconds from now to its end.
func fixedWindow(l *Limit, s State, now Instant) (used, toEnd int64) {
	start, end := l.Window(now)
	if s.Last >= start {
		used = s.Used
	}
	return used, int64(end - now)
}

// clockWindow is fixedWindow for a limit that is not on the calendar. It costs no call,
// which most decisions would make twice.
func clockWindow(l *Limit, s State, now Instant) (used, toEnd int64) {
	p := period(l.Rate)
	elapsed := int64(now) % p
	if int64(s.Last) >= int64(now)-elapsed {
		used = s.Used
	}
	return used, p - elapsed
}
