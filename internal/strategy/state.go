package strategy

// A State is what a counter remembers between decisions. The zero State is that of
// an unused counter. Each strategy says in its file what the fields mean; the
// State of one strategy means nothing to another.
type State struct {
	Last      Instant // when the counter last consumed
	Part      int64   // not negative; below 2^48, except in a View
	Used      int64   // at most MaxUnits; more than the capacity means debt
	PartAfter int64   // only in a View
}

// Settle brings s back to now if it is from further in the future than a period of l,
// or than skew if that is longer, and reports whether it was: a clock was wrong. What
// was consumed then counts as if it had been consumed now. For a state from a nearer
// future, time stands still until its instant. skew is how far apart the clocks may be
// that write the states of one counter.
//
// A store settles the states that it reads before it decides by them, and remembers
// what Settle has changed, whatever the decision is.
func (s *State) Settle(l *Limit, now, skew Instant) bool {
	if s.Last <= now || !l.tooFar(s.Last, now, skew) {
		return false
	}
	s.Last = now
	if s.Used == 0 && s.Part == 0 {
		*s = State{} // nothing is left to count
	}
	return true
}

// tooFar reports whether a state of last is from too far in the future.
func (l *Limit) tooFar(last, now, skew Instant) bool {
	return !l.Rate.IsUnlimited() && last-now > max(Instant(period(l.Rate)), skew)
}
