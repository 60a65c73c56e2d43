// Package envoy holds limits as envoyproxy/ratelimit configures them: for each
// domain a tree of descriptors. The files are that service's own, unchanged;
// its README is where the format and the matching are described.
//
// A Config never changes once it is read, and so is safe for concurrent use.
package envoy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Config is the configuration of all domains. The nil Config has none.
type Config struct {
	domains map[string]*node
}

// A node is what a list of descriptors holds: those that a request's next entry
// may match.
type node struct {
	children  map[Entry]*descriptor // a descriptor without a value is under ""
	wildcards []*descriptor         // those whose value ends with *, in the file's order
}

// A descriptor is one item of such a list.
type descriptor struct {
	Entry
	limit          *Limit // nil: none
	shareThreshold bool
	valueToMetric  bool
	below          node
}

// An Entry is a pair of a request's descriptor.
type Entry struct{ Key, Value string }

// A Unit is a unit of time, by its number in the protocol.
type Unit int32

// The units.
const (
	Second Unit = 1
	Minute Unit = 2
	Hour   Unit = 3
	Day    Unit = 4
	Month  Unit = 5
	Year   Unit = 6
	Week   Unit = 7
)

const day = 24 * time.Hour

var units = map[Unit]struct {
	name   string
	length time.Duration
}{
	Second: {"second", time.Second}, Minute: {"minute", time.Minute}, Hour: {"hour", time.Hour}, Day: {"day", day},
	Week: {"week", 7 * day}, Month: {"month", 30 * day}, Year: {"year", 365 * day},
}

// unitNames lists the names, the shortest unit first.
func unitNames() string {
	all := []Unit{Second, Minute, Hour, Day, Week, Month, Year}
	names := make([]string, len(all))
	for i, u := range all {
		names[i] = units[u].name
	}
	return strings.Join(names, ", ")
}

// A Limit is what a descriptor is held to.
type Limit struct {
	strategy.Limit // not of an Unlimited one

	RequestsPerUnit uint32
	Unit            Unit
	Multiplier      uint32 // of the unit; at least 1
	Unlimited       bool   // held to nothing, and known
	ShadowMode      bool   // over the limit, the answer is OK all the same
	QuotaMode       bool   // likewise, unless all such limits of the request are over
	RuleName        string // by which Replaces of others name it
	Replaces        []string
	Metadata        map[string]any // what Envoy is told while within the limit; nil: nothing

	metric   string // its path in the file
	detailed bool   // the metric has the request's values
}

// NewLimit returns a fixed window that allows so many requests in multiplier
// units of time. The error says what is wrong with the unit or the multiplier. A
// count above rate.MaxCount is read as rate.MaxCount.
func NewLimit(requests uint32, unit Unit, multiplier uint32) (*Limit, error) {
	s := spec{requests: requests, unit: unit, multiplier: multiplier, strategy: strategy.FixedWindow}
	return s.limit(strategy.DefaultMaxLogCount)
}

// A spec is what a file or a request says of a limit.
type spec struct {
	requests   uint32
	unit       Unit
	multiplier uint32 // of the unit
	strategy   strategy.Strategy
	burst      uint64 // 0: the strategy's default
}

// limit returns the limit that s describes, or what is wrong with s.
func (s *spec) limit(maxLogCount int64) (*Limit, error) {
	u, ok := units[s.unit]
	if !ok {
		return nil, fmt.Errorf("unit %d is not known; use %s", s.unit, unitNames())
	}
	period := time.Duration(s.multiplier) * u.length
	if s.multiplier < 1 || period > rate.MaxPeriod || period/u.length != time.Duration(s.multiplier) {
		return nil, fmt.Errorf("unit_multiplier %d makes a period of 0 or of more than 366 days; use 1 to %d with this unit", s.multiplier, rate.MaxPeriod/u.length)
	}
	name := u.name // so that the counter outlives a change of the count, and not one of the unit
	if s.multiplier > 1 {
		name = fmt.Sprintf("%d%s", s.multiplier, name)
	}
	r := rate.Rate{Count: min(int64(s.requests), rate.MaxCount), Period: period}
	l, wrong := strategy.NewLimitOf(name, r, s.strategy, s.burst, maxLogCount)
	if wrong != nil {
		return nil, errors.New(wrong[0].Problem)
	}
	return &Limit{Limit: l, RequestsPerUnit: s.requests, Unit: s.unit, Multiplier: s.multiplier}, nil
}

// Knows reports whether c has domain.
func (c *Config) Knows(domain string) bool { return c != nil && c.domains[domain] != nil }

// Domains lists the domains of c.
func (c *Config) Domains() []string {
	if c == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.domains))
}

// A Match is what a request's descriptor is held to.
type Match struct {
	*Limit            // nil: nothing
	Identifier string // of the counter, within the domain
	Metric     string // what metrics call it
}

// Match returns what a descriptor of domain is held to: the limit of the
// configured descriptor that matches its last entry, below those that match the
// entries before. Of several that match an entry, one with its very value goes
// before one whose value is a prefix of it and *, in the file's order, and that
// before one without a value.
func (c *Config) Match(domain string, entries []Entry) Match {
	if !c.Knows(domain) {
		return Match{}
	}
	at := c.domains[domain]
	path := make([]*descriptor, 0, 8) // room for most
	id := make([]byte, 0, 128)
	byValue := false
	for i, e := range entries {
		d := at.find(e)
		if d == nil {
			return Match{}
		}
		path = append(path, d)
		byValue = byValue || d.valueToMetric
		if d.shareThreshold {
			id = append(appendEntry(id, e.Key, d.Value[:len(d.Value)-1]), '*')
		} else {
			id = appendEntry(id, e.Key, e.Value)
		}
		if i < len(entries)-1 {
			at = &d.below
			continue
		}
		if d.limit == nil {
			return Match{}
		}
		m := Match{Limit: d.limit, Identifier: bounded(id), Metric: d.limit.metric}
		if byValue || d.limit.detailed {
			m.Metric = metric(domain, entries, path)
		}
		return m
	}
	return Match{}
}

// metric returns what metrics call the limit of the last descriptor of path: of
// each its entry, with the request's value if it is to be there.
func metric(domain string, entries []Entry, path []*descriptor) string {
	detailed := path[len(path)-1].limit.detailed
	var b strings.Builder
	b.WriteString(domain)
	for i, d := range path {
		value := d.Value
		if (detailed || d.valueToMetric) && !d.shareThreshold {
			value = entries[i].Value
		}
		appendMetric(&b, d.Key, value)
	}
	return b.String()
}

// Override returns the match of a descriptor that brings its own limit.
func Override(domain string, entries []Entry, l *Limit) Match {
	id := make([]byte, 0, 128)
	for _, e := range entries {
		id = appendEntry(id, e.Key, e.Value)
	}
	return Match{Limit: l, Identifier: bounded(id), Metric: domain + ".override"}
}

// find returns the descriptor that matches e best, or nil.
func (n *node) find(e Entry) *descriptor {
	if d := n.children[e]; d != nil && e.Value != "" {
		return d
	}
	for _, w := range n.wildcards {
		if w.Key == e.Key && strings.HasPrefix(e.Value, w.Value[:len(w.Value)-1]) {
			return w
		}
	}
	return n.children[Entry{Key: e.Key}]
}

// appendEntry appends an entry to the identifier of a counter: key=value, with
// a comma before it if it is not the first. What would be taken for one of
// these is written %XX, and so is a star: one that is not stands for all values
// that begin so. So no two descriptors have one identifier.
func appendEntry(id []byte, key, value string) []byte {
	if len(id) > 0 {
		id = append(id, ',')
	}
	id = store.AppendEscaped(id, key, "=,")
	id = append(id, '=')
	return store.AppendEscaped(id, value, ",*")
}

// bounded returns id, or, if that is longer than an identifier may be, its
// beginning and its hash. It can be: a value may be whatever a client sends in a
// header. No other identifier has what is between the two, as %s is no escape.
func bounded(id []byte) string {
	switch {
	case len(id) == 0: // a store wants to have one
		return "%none"
	case len(id) <= store.MaxIdentifierBytes:
		return string(id)
	}
	sum := sha256.Sum256(id)
	return string(id[:64]) + "%sha256:" + hex.EncodeToString(sum[:])
}

func appendMetric(b *strings.Builder, key, value string) {
	b.WriteByte('.')
	b.WriteString(key)
	if value != "" {
		b.WriteByte('_')
		b.WriteString(value)
	}
}

// Replaced returns the names of the limits that others of matches replace.
func Replaced(matches []Match) []string {
	var names []string
	for i := range matches {
		if matches[i].Limit != nil {
			names = append(names, matches[i].Replaces...)
		}
	}
	return names
}

// String lists all limits, a line each, in order.
func (c *Config) String() string {
	if c == nil {
		return ""
	}
	var lines []string
	for _, n := range c.domains {
		n.list(&lines)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func (n *node) list(lines *[]string) {
	for _, d := range n.children {
		if l := d.limit; l != nil {
			unit := strings.ToUpper(cmp.Or(units[l.Unit].name, "unknown"))
			line := fmt.Sprintf("%s: unit=%s requests_per_unit=%d, shadow_mode: %t", l.metric, unit, l.RequestsPerUnit, l.ShadowMode)
			if l.Unlimited {
				line += ", unlimited: true"
			} else if l.Strategy != strategy.FixedWindow || l.Multiplier > 1 {
				line += fmt.Sprintf(", strategy: %s, rate: %s, burst: %d", l.Strategy, l.Rate, l.Capacity)
			}
			*lines = append(*lines, line+"\n")
		}
		d.below.list(lines)
	}
}
