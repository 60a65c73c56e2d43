// Package mapping says what the records of an access log ask: which policy, for whom and how
// much; or which descriptors, as the rate_limits of Envoy's routes do.
package mapping

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

// maxDescriptorBytes is how long a descriptor may be.
const maxDescriptorBytes = 8 << 10

// Options say how to make a Mapping, as flags do.
type Options struct {
	// Namespace, Policy and Identifier are texts with fields, as in user:{user}. An
	// Identifier without braces is a field.
	Namespace, Policy, Identifier string
	// Domain is that of Envoy's descriptors. With it, the three above count for nothing.
	Domain      string
	Descriptors []string // each is remote_address={client_address},path=/login
	File        *File    // which has further descriptors; may be nil
	Cost        string   // a number, or a field in braces
	Fields      []string // NAME=PLACE
	Zone        *time.Location

	// Problem notes what is wrong with the value of a flag, or returns it.
	Problem func(flag, text string) error
}

// A Mapping says what a record asks. New makes it. It does not change, so it is safe for
// concurrent use.
type Mapping struct {
	Reader accesslog.Options // with the fields that records must have

	namespace, policy, identifier template
	// owner is what the keys of all records begin with, if namespace and policy have no fields.
	owner    []byte
	domain   string
	host     *virtualHost // nil: it is of policies
	cost     uint64
	costSlot int // of the field that has the cost; -1: it is cost
}

// New returns a Mapping.
func New(o Options) (*Mapping, error) {
	m := &Mapping{costSlot: -1, domain: o.Domain, Reader: accesslog.Options{Zone: o.Zone, Names: map[string]string{}}}
	var err error
	if o.Domain != "" {
		err = m.descriptors(&o)
	} else {
		err = m.names(&o)
	}
	if err != nil {
		return nil, err
	}
	if field, braced := strings.CutPrefix(o.Cost, "{"); braced && strings.HasSuffix(field, "}") {
		m.costSlot = slotOf(strings.TrimSuffix(field, "}"), &m.Reader.Fields)
	} else if m.cost, err = strconv.ParseUint(o.Cost, 10, 64); err != nil {
		if err := o.Problem("cost", fmt.Sprintf(" %s: write a whole number, or a field such as {bytes_sent}", quote.Cut(o.Cost))); err != nil {
			return nil, err
		}
	}
	for _, line := range o.Fields {
		name, place, ok := strings.Cut(line, "=")
		if !ok || name == "" || place == "" {
			if err := o.Problem("field", fmt.Sprintf(" %s: write NAME=PLACE, such as time=when", quote.Cut(line))); err != nil {
				return nil, err
			}
		}
		m.Reader.Names[name] = place
	}
	return m, nil
}

// MakesDescriptors reports whether records make descriptors of Envoy's.
func (m *Mapping) MakesDescriptors() bool { return m.host != nil }

// names makes m one of policies.
func (m *Mapping) names(o *Options) (err error) {
	identifier := o.Identifier
	if !strings.Contains(identifier, "{") {
		identifier = "{" + identifier + "}"
	}
	for _, t := range []struct {
		flag, text string
		to         *template
	}{{"namespace", o.Namespace, &m.namespace}, {"policy", o.Policy, &m.policy}, {"identifier", identifier, &m.identifier}} {
		if *t.to, err = newTemplate(t.text, &m.Reader.Fields); err != nil {
			if err := o.Problem(t.flag, err.Error()); err != nil {
				return err
			}
		}
	}
	if m.namespace.isConstant() && m.policy.isConstant() {
		if owner, problem := m.appendOwner(nil, nil); problem == "" && utf8.Valid(owner[3:]) {
			m.owner = owner
		}
	}
	return nil
}

// descriptors makes m one of descriptors.
func (m *Mapping) descriptors(o *Options) error {
	m.host = &virtualHost{path: -1}
	if o.File != nil {
		o.File.virtualHost(m.host, &m.Reader.Fields)
	}
	for _, text := range o.Descriptors {
		l, err := parseDescriptor(text, &m.Reader.Fields)
		if err != nil {
			if err := o.Problem("descriptor", err.Error()); err != nil {
				return err
			}
		}
		m.host.limits = append(m.host.limits, l)
	}
	return nil
}

// Append appends what r asks, or returns why it asks nothing that could be decided.
func (m *Mapping) Append(a *Asks, r *accesslog.Record) (problem string) {
	ask := Ask{At: r.At, Cost: m.cost}
	if m.costSlot >= 0 {
		var ok bool
		if ask.Cost, ok = parseCost(r.Values[m.costSlot]); !ok {
			return "no cost in " + m.Reader.Fields[m.costSlot]
		}
	}
	asks, names := len(a.All), len(a.names)
	if m.host != nil {
		problem = m.appendDescriptors(a, ask, r.Values)
	} else {
		problem = m.appendNames(a, ask, r.Values)
	}
	if problem != "" {
		a.All, a.names = a.All[:asks], a.names[:names]
	}
	return problem
}

func (m *Mapping) appendNames(a *Asks, ask Ask, values [][]byte) (problem string) {
	b := append(a.names, m.owner...)
	valid := len(b)
	if m.owner == nil {
		if b, problem = m.appendOwner(b, values); problem != "" {
			return problem
		}
		valid += 3
	}
	identifier := len(b)
	b, empty, ok := m.identifier.append(b, values)
	switch {
	case !ok:
		return "no " + empty
	case len(b)-identifier > store.MaxIdentifierBytes:
		return "an identifier that is too long"
	case !utf8.Valid(b[valid:]):
		return "a name that is not UTF-8"
	}
	a.add(ask, b)
	return ""
}

// appendOwner appends the beginning of a key to b: up to the identifier.
func (m *Mapping) appendOwner(b []byte, values [][]byte) (out []byte, problem string) {
	start := len(b)
	b, empty, ok := m.namespace.append(append(b, ofPolicy, 0, 0), values)
	if !ok {
		return nil, "no " + empty
	}
	namespace := len(b) - start - 3
	if b, empty, ok = m.policy.append(b, values); !ok {
		return nil, "no " + empty
	}
	name := len(b) - start - 3 - namespace
	switch {
	case namespace > store.MaxNamespaceBytes:
		return nil, "a namespace that is too long"
	case name > policy.MaxNameBytes:
		return nil, "the name of a policy that is too long"
	}
	b[start+1], b[start+2] = byte(namespace), byte(name)
	return b, ""
}

// add adds an ask whose key is what b has beyond the names of a.
func (a *Asks) add(ask Ask, b []byte) {
	ask.start, ask.end = uint32(len(a.names)), uint32(len(b)) //nolint:gosec // a chunk has a few MB
	ask.Sum = sumOf(b[ask.start:])
	a.names = b
	a.All = append(a.All, ask)
}

func (m *Mapping) appendDescriptors(a *Asks, ask Ask, values [][]byte) (problem string) {
	made := 0
	for _, limits := range m.host.of(values) {
		for i := range limits {
			start := len(a.names)
			b, ok := limits[i].append(appendText(append(a.names, ofDescriptor), m.domain), values)
			if !ok {
				continue
			}
			if len(b)-start > maxDescriptorBytes {
				return "a descriptor that is too long"
			}
			if made++; made > 1 {
				a.All[len(a.All)-1].More = true
			}
			a.add(ask, b)
		}
	}
	if made == 0 { // Envoy does not ask either
		a.add(ask, appendText(append(a.names, ofDescriptor), m.domain))
	}
	return ""
}

// parseCost reads a cost. A part of a unit counts as a whole one.
func parseCost(v []byte) (cost uint64, ok bool) {
	if len(v) == 0 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' || cost > 1<<50 {
			f, err := strconv.ParseFloat(string(v), 64)
			if err != nil || !(f >= 0 && f < 1<<53) {
				return 0, false
			}
			cost = uint64(f)
			if float64(cost) < f {
				cost++
			}
			return cost, true
		}
		cost = cost*10 + uint64(c-'0')
	}
	return cost, true
}
