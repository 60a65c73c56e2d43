package strategy

import (
	"encoding/binary"
	"errors"
	"math"
	"sort"
)

// SLIDING_WINDOW_LOG allows at most N units in any period, exactly. It remembers
// each request that consumed until it is older than the period: up to N entries.
//
// State: a View of the counter's Log. Used is how many units are younger than the
// period, and Last is when the youngest was consumed. If the request at hand is
// denied, Part is the instant from which it is allowed. Of a request that is charged,
// PartAfter is the instant from which the same cost is allowed after that. Of a Refund,
// Part is how many units it gives back, and PartAfter what Last becomes.
//
// A charge counts until it is a period old. A Refund gives back what was consumed at
// ConsumedAt and after, the oldest first, and nothing once ConsumedAt is a period old;
// or without ConsumedAt, the youngest first.
//
// Charges could make any number of entries. So a charge that finds nothing left joins
// the youngest entry, if both are in the same of N slots of the period: at most 2 x N + 1
// entries are younger than the period. The units of that entry then count as of now: a
// slot longer at most.

func takeSlidingWindowLog(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	if s.Used+cost > l.Capacity {
		return verdict{retryAfter: micros(s.Part - int64(now))}
	}
	*next = State{Last: now, Used: s.Used + cost}
	return allowed
}

func chargeSlidingWindowLog(l *Limit, s State, cost int64, now Instant) State {
	return State{Last: now, Used: l.filled(s.Used, cost), Part: s.PartAfter}
}

func refundSlidingWindowLog(s State) State {
	return State{Last: Instant(s.PartAfter), Used: s.Used - s.Part}
}

func usedSlidingWindowLog(l *Limit, s State, now Instant) (used, reset int64) {
	if s.Used == 0 {
		return 0, 0
	}
	return s.Used, int64(s.Last) + period(l.Rate) - int64(now)
}

// A Log is what a SLIDING_WINDOW_LOG counter remembers. The zero Log is empty and
// ready for use. It is not safe for concurrent use.
type Log struct {
	ring   []logEntry // its length is 0 or a power of two
	first  int        // index in ring of the oldest entry
	length int
	before uint64 // the total before the oldest entry
}

// A logEntry is what was consumed at one instant. Totals may overflow and start
// again from 0, so only their differences mean anything.
type logEntry struct {
	at    Instant
	total uint64 // units consumed up to this entry, and by it
}

// minRing is how many entries a log has room for once it is used.
const minRing = 4

// View returns the State that a sees under l. g is settled.
func (g *Log) View(l *Limit, a Ask) State {
	if g.length == 0 {
		var s State
		if most := l.Capacity - a.units(); a.Mode != Take && a.Mode != Refund && most >= 0 && l.filled(0, a.units()) > most {
			s.PartAfter = int64(a.Now) + period(l.Rate)
		}
		return s
	}
	youngest := g.entry(g.length - 1)
	now := max(a.Now, youngest.at)
	young := g.firstYounger(l, now)
	used := g.units(young)
	s := State{Last: youngest.at, Used: used}
	if a.Mode == Refund {
		s.Part, s.PartAfter = g.refunded(&a, g.refundedFrom(l, &a, young), young)
		return s
	}
	if a.Cost > uint64(l.Capacity) || l.Capacity == 0 {
		return s
	}
	most := l.Capacity - int64(a.Cost)
	if used > most {
		s.Part = int64(g.entry(g.firstBefore(g.length-1, uint64(most))).at) + period(l.Rate)
	}
	if a.Mode == Take {
		return s
	}
	charged := l.filled(used, a.units()) - used
	switch last := g.length - g.joined(l, used, now); {
	case charged == 0:
		s.PartAfter = s.Part
	case used+charged <= most:
	case charged <= most:
		n := g.firstBefore(last, uint64(most-charged))
		if n < last {
			s.PartAfter = int64(g.entry(n).at) + period(l.Rate)
			break
		}
		fallthrough
	default: // the charge itself has to be too old to count
		s.PartAfter = int64(now) + period(l.Rate)
	}
	return s
}

// units returns how many units the entries from the i-th on have.
func (g *Log) units(i int) int64 {
	if i == g.length {
		return 0
	}
	return int64(min(g.entry(g.length-1).total-g.totalBefore(i), MaxUnits))
}

// firstBefore returns the first of the first n entries after which there are no more
// than most units, or n.
func (g *Log) firstBefore(n int, most uint64) int {
	total := g.entry(g.length - 1).total
	return sort.Search(n, func(i int) bool { return total-g.entry(i).total <= most })
}

// joined returns 1 if a charge at now joins the youngest entry, and otherwise 0. used
// is how many units count at now.
func (g *Log) joined(l *Limit, used int64, now Instant) int {
	slot := max(1, Instant(period(l.Rate)/l.Rate.Count))
	if youngest := g.entry(g.length - 1).at; youngest == now || used >= l.Capacity && youngest >= now-now%slot {
		return 1
	}
	return 0
}

// refunded returns how many units the refund a gives back, of the entries from the
// index from on, and the instant of the youngest entry after that. young is the index of
// the first that counts.
func (g *Log) refunded(a *Ask, from, young int) (units, last int64) {
	units = min(g.units(from), a.units())
	switch {
	case units > 0 && units == g.units(young): // all that counts
		return units, 0
	case a.ConsumedAt == 0:
		from = g.firstBefore(g.length-1, uint64(units)) + 1
	case units < g.units(from) || units == 0:
		from = g.length
	}
	return units, int64(g.entry(from - 1).at)
}

// refundedFrom returns the index of the oldest entry that a may give back of, of those
// from young on.
func (g *Log) refundedFrom(l *Limit, a *Ask, young int) int {
	switch {
	case a.ConsumedAt == 0:
		return young
	case int64(a.ConsumedAt) <= int64(max(a.Now, g.entry(g.length-1).at))-period(l.Rate):
		return g.length // what was consumed then is too old to count
	}
	return max(young, sort.Search(g.length, func(i int) bool { return g.entry(i).at >= a.ConsumedAt }))
}

// Settle is State.Settle for a log: all that counts becomes one entry at now.
func (g *Log) Settle(l *Limit, now, skew Instant) bool {
	if g.length == 0 {
		return false
	}
	last := g.entry(g.length - 1).at
	if last <= now || !l.tooFar(last, now, skew) {
		return false
	}
	units := g.units(g.firstYounger(l, last))
	*g = Log{}
	g.push(logEntry{at: now, total: uint64(units)})
	return true
}

// Apply changes g as a does, which consumes from l or gives back to it.
func (g *Log) Apply(l *Limit, a Ask) {
	switch a.Mode {
	case Take:
		g.Add(l, a.Cost, a.Now)
	case Refund:
		g.refund(l, &a)
	default: // Charge, Overdraw
		g.charge(l, &a)
	}
}

// Add remembers that cost units were consumed under l at now, and forgets what is
// older than the period.
func (g *Log) Add(l *Limit, cost uint64, now Instant) {
	total := g.before
	if g.length > 0 {
		youngest := g.entry(g.length - 1)
		now = max(now, youngest.at)
		total = youngest.total
		g.forget(g.firstYounger(l, now))
	}
	if g.length > 0 && g.entry(g.length-1).at == now {
		g.entry(g.length - 1).total += cost
		return
	}
	g.push(logEntry{at: now, total: total + cost})
}

func (g *Log) charge(l *Limit, a *Ask) {
	if l.Capacity == 0 {
		return
	}
	if g.length > 0 {
		youngest := g.entry(g.length - 1)
		now := max(a.Now, youngest.at)
		used := g.units(g.firstYounger(l, now))
		charged := l.filled(used, a.units()) - used
		if charged > 0 && used > 0 && g.joined(l, used, now) == 1 {
			youngest.at = now
		}
		if charged > 0 {
			g.Add(l, uint64(charged), now)
		}
		return
	}
	g.Add(l, uint64(l.filled(0, a.units())), a.Now)
}

func (g *Log) refund(l *Limit, a *Ask) {
	if g.length == 0 || l.Capacity == 0 {
		return
	}
	young := g.firstYounger(l, max(a.Now, g.entry(g.length-1).at))
	from := g.refundedFrom(l, a, young)
	units := uint64(min(g.units(from), a.units()))
	if units == 0 {
		return
	}
	g.forget(young)
	from -= young
	if a.ConsumedAt == 0 { // the youngest first, so that the others keep their totals
		for ; units > 0; g.length-- {
			youngest := g.entry(g.length - 1)
			own := youngest.total - g.totalBefore(g.length-1)
			if own > units {
				youngest.total -= units
				return
			}
			units -= own
		}
		return
	}
	kept, before := from, g.totalBefore(from)
	for i := from; i < g.length; i++ {
		if e := *g.entry(i); e.total-before > units {
			e.total -= units
			*g.entry(kept) = e
			kept++
		}
	}
	g.length = kept
}

// Append appends g to b in a form that Parse reads, with a few bytes per entry.
func (g *Log) Append(b []byte) []byte {
	last := logEntry{total: g.before}
	for i := range g.length {
		e := g.entry(i)
		b = binary.AppendUvarint(b, uint64(e.at-last.at))
		b = binary.AppendUvarint(b, e.total-last.total)
		last = *e
	}
	return b
}

var errNoLog = errors.New("strategy: this is not a log that Append wrote")

// Parse sets g to the log that Append wrote to b. If b has something else, it
// leaves g empty and returns an error.
func (g *Log) Parse(b []byte) error {
	*g = Log{}
	var last logEntry
	for len(b) > 0 {
		gap, n := binary.Uvarint(b)
		units, m := binary.Uvarint(b[max(0, n):])
		if n <= 0 || m <= 0 || gap > uint64(math.MaxInt64-last.at) {
			*g = Log{}
			return errNoLog
		}
		last = logEntry{at: last.at + Instant(gap), total: last.total + units}
		g.push(last)
		b = b[n+m:]
	}
	return nil
}

// Size returns how many entries the log has room for.
func (g *Log) Size() int { return len(g.ring) }

// firstYounger returns the index of the first entry younger than the period.
func (g *Log) firstYounger(l *Limit, now Instant) int {
	oldest := int64(now) - period(l.Rate)
	return sort.Search(g.length, func(i int) bool { return int64(g.entry(i).at) > oldest })
}

// forget drops the first n entries.
func (g *Log) forget(n int) {
	g.before = g.totalBefore(n)
	g.first = (g.first + n) & (len(g.ring) - 1)
	g.length -= n
}

// entry returns the i-th entry from the oldest.
func (g *Log) entry(i int) *logEntry { return &g.ring[(g.first+i)&(len(g.ring)-1)] }

// totalBefore returns the total before the i-th entry.
func (g *Log) totalBefore(i int) uint64 {
	if i == 0 {
		return g.before
	}
	return g.entry(i - 1).total
}

// push adds e as the youngest entry.
func (g *Log) push(e logEntry) {
	switch {
	case g.length == len(g.ring):
		g.resize(max(minRing, 2*len(g.ring)))
	case g.length < len(g.ring)/4 && len(g.ring) > minRing:
		g.resize(len(g.ring) / 2)
	}
	g.length++
	*g.entry(g.length - 1) = e
}

// resize gives the log room for n entries, no fewer than it has.
func (g *Log) resize(n int) {
	ring := make([]logEntry, n)
	for i := range g.length {
		ring[i] = *g.entry(i)
	}
	g.ring, g.first = ring, 0
}
