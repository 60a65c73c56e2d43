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
// denied, Part is the instant from which it is allowed.

func takeSlidingWindowLog(l *Limit, s State, cost int64, now Instant, next *State) verdict {
	if int64(s.Used)+cost > l.Capacity {
		return verdict{retryAfter: micros(s.Part - int64(now))}
	}
	*next = State{Last: now, Used: s.Used + uint32(cost)}
	return allowed
}

func usedSlidingWindowLog(l *Limit, s State, now Instant) (used, reset int64) {
	if s.Used == 0 {
		return 0, 0
	}
	return int64(s.Used), int64(s.Last) + period(l.Rate) - int64(now)
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

// View returns the State that a request of cost sees under l at now.
func (g *Log) View(l *Limit, cost uint64, now Instant) State {
	if g.length == 0 {
		return State{}
	}
	youngest := g.entry(g.length - 1)
	now = max(now, youngest.at)
	used := youngest.total - g.totalBefore(g.firstYounger(l, now))
	s := State{Last: youngest.at, Used: uint32(used)}
	if used+cost > uint64(l.Capacity) && cost <= uint64(l.Capacity) {
		// Find the first entry that leaves room for cost once it is too old to count.
		most := uint64(l.Capacity) - cost
		i := sort.Search(g.length-1, func(i int) bool { return youngest.total-g.entry(i).total <= most })
		s.Part = int64(g.entry(i).at) + period(l.Rate)
	}
	return s
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
