// Package envoy reads and matches limits in the format of envoyproxy/ratelimit: a
// tree of descriptors for each domain. It reads the files of that service
// unchanged. That service's README describes the format and the matching.
//
// A Config does not change after it was read, so it is safe for concurrent use.
package envoy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/glob"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Config is the configuration of all domains. The nil Config has none.
type Config struct {
	domains map[string]*domain
	awaited bool
}

// Awaited is the configuration of a daemon whose own has not come yet. It has no domain,
// and nobody may be let pass because of that.
var Awaited = &Config{awaited: true}

// IsAwaited reports whether c is Awaited.
func (c *Config) IsAwaited() bool { return c != nil && c.awaited }

// A domain is the tree of its descriptors.
type domain struct {
	node
	overdraw Overdraw // of its limits that have none; "": it has none either
}

// A node is a list of descriptors, which the next entry of a request may match.
type node struct {
	children  map[Entry]*descriptor // by key and value; without a value, by key and ""
	wildcards []*descriptor         // those with a * in the key or the value, in the order of the file
}

// A descriptor is one item of such a list.
type descriptor struct {
	Entry
	parts          []string // of a pattern: the value cut at each *, or the key and the value
	starInKey      bool     // the pattern is of the key and the value
	limit          *Limit   // nil if it has no limit
	shareThreshold bool
	valueToMetric  bool
	below          node
}

// An Entry is one key and value of a request's descriptor.
type Entry struct{ Key, Value string }

// Knows reports whether c has domain.
func (c *Config) Knows(domain string) bool { return c != nil && c.domains[domain] != nil }

// Domains lists the domains of c.
func (c *Config) Domains() []string {
	if c == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.domains))
}

// Metrics lists the names in metrics of the limits of c, without those which have
// the values of requests in them.
func (c *Config) Metrics() []string {
	if c == nil {
		return nil
	}
	var names []string
	for _, n := range c.domains {
		n.metrics(&names)
	}
	slices.Sort(names)
	return names
}

func (n *node) metrics(names *[]string) {
	for _, d := range n.children {
		if d.valueToMetric {
			continue // and so has what is below it
		}
		if d.limit != nil && !d.limit.detailed {
			*names = append(*names, d.limit.metric)
		}
		d.below.metrics(names)
	}
}

// A Match is the limit that applies to a request's descriptor.
type Match struct {
	*Limit            // nil if no limit applies
	Identifier string // of the counter, within the domain
	Metric     string // the limit's name in metrics
	// Overdraw is that of the limit, or else of its domain. "": neither has one.
	Overdraw Overdraw
}

// Match returns the limit that applies to a descriptor of domain. It walks down
// the tree of configured descriptors, one level for each entry, and returns the
// limit of the one that matches the last entry. Where several match an entry, it
// takes the one with the same value; then the first in the file with a * that
// matches; then the one without a value. A * stands for any bytes, or none. In a key
// it is matched against key_value, as envoyproxy/ratelimit does.
func (c *Config) Match(domain string, entries []Entry) Match {
	if !c.Knows(domain) {
		return Match{}
	}
	tree := c.domains[domain]
	at := &tree.node
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
			id = appendShared(id, e.Key, d.parts)
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
		m := Match{Limit: d.limit, Identifier: bounded(id), Metric: d.limit.metric, Overdraw: cmp.Or(d.limit.overdraw, tree.overdraw)}
		if byValue || d.limit.detailed {
			m.Metric = metric(domain, entries, path)
		}
		return m
	}
	return Match{}
}

// metric returns the name in metrics of the limit of the last descriptor of path:
// the entry of each descriptor, with the request's value where the file asks for
// it.
func metric(domain string, entries []Entry, path []*descriptor) string {
	detailed := path[len(path)-1].limit.detailed
	var b strings.Builder
	b.WriteString(domain)
	for i, d := range path {
		value := d.Value
		if (detailed || d.valueToMetric) && !d.shareThreshold {
			value = entries[i].Value
		}
		appendMetric(&b, entries[i].Key, value)
	}
	return b.String()
}

// Overdraw returns that of the limits of domain which have none. "": the domain has none
// either, or c does not know it.
func (c *Config) Overdraw(domain string) Overdraw {
	if !c.Knows(domain) {
		return ""
	}
	return c.domains[domain].overdraw
}

// Override returns the match of a request's descriptor that has its own limit, and the
// Overdraw of its domain.
func Override(domain string, entries []Entry, l *Limit, o Overdraw) Match {
	return Match{Limit: l, Identifier: Identifier(entries), Metric: domain + ".override", Overdraw: o}
}

// Identifier returns the identifier of the counter of a descriptor whose limit shares it with
// no other.
func Identifier(entries []Entry) string {
	id := make([]byte, 0, 128)
	for _, e := range entries {
		id = appendEntry(id, e.Key, e.Value)
	}
	return bounded(id)
}

// find returns the descriptor that matches e best, or nil: see Match.
func (n *node) find(e Entry) *descriptor {
	if d := n.children[e]; d != nil && e.Value != "" {
		return d
	}
	for _, w := range n.wildcards {
		if w.matches(e) {
			return w
		}
	}
	return n.children[Entry{Key: e.Key}]
}

// matches reports whether d, which has a star, matches e.
func (d *descriptor) matches(e Entry) bool {
	if d.starInKey {
		return glob.Match(d.parts, e.Key+"_"+e.Value)
	}
	return d.Key == e.Key && glob.Match(d.parts, e.Value)
}

// appendEntry appends an entry to the identifier of a counter: key=value, after a
// comma if it is not the first. It writes as %XX each byte that has a meaning here,
// so that no two descriptors share an identifier. That includes a star: an
// unescaped star stands for all values that match there.
func appendEntry(id []byte, key, value string) []byte {
	if len(id) > 0 {
		id = append(id, ',')
	}
	id = store.AppendEscaped(id, key, "=,")
	id = append(id, '=')
	return store.AppendEscaped(id, value, ",*")
}

// appendShared appends to the identifier of a counter the entry for all values that
// match a pattern, which is cut into parts.
func appendShared(id []byte, key string, parts []string) []byte {
	id = appendEntry(id, key, parts[0])
	for _, part := range parts[1:] {
		id = store.AppendEscaped(append(id, '*'), part, ",*")
	}
	return id
}

// bounded returns id. If id is longer than an identifier may be, it returns its
// beginning and its hash: a value may be a header of any length. No other
// identifier contains %s, because that is not an escaped byte.
func bounded(id []byte) string {
	switch {
	case len(id) == 0: // a store needs an identifier
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

// Replaced returns the names of all limits that the limits of matches replace.
func Replaced(matches []Match) []string {
	var names []string
	for i := range matches {
		if matches[i].Limit != nil {
			names = append(names, matches[i].Replaces...)
		}
	}
	return names
}

// String lists all limits, one per line, in alphabetical order.
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
		if d.limit != nil {
			for i := range d.limit.Parts {
				*lines = append(*lines, d.limit.line(&d.limit.Parts[i])+"\n")
			}
		}
		d.below.list(lines)
	}
}

// line shows a part of l.
func (l *Limit) line(p *Part) string {
	unit := strings.ToUpper(cmp.Or(units[p.Unit].name, "unknown"))
	line := fmt.Sprintf("%s: unit=%s requests_per_unit=%d, shadow_mode: %t", l.metric, unit, p.RequestsPerUnit, l.ShadowMode)
	if p.Rate.IsUnlimited() {
		line += ", unlimited: true"
	} else if p.Strategy != strategy.FixedWindow || p.Multiplier > 1 || p.OnCalendar() {
		line += fmt.Sprintf(", strategy: %s, rate: %s, burst: %d", p.Strategy, p.AppendCalendar(p.Rate.Append(nil)), p.Capacity)
	}
	if debt, ok := p.MaxDebt.Units(); ok {
		line += fmt.Sprintf(", max_debt: %d", debt)
	}
	if l.overdraw != "" {
		line += ", overdraw: " + string(l.overdraw)
	}
	return line
}
