package envoy

import (
	"errors"
	"fmt"
	"strings"

	rlsconfv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

const (
	// maxMetadataBytes is for the metadata in all messages together, of which a value
	// takes two bytes, and much more once it is decoded.
	maxMetadataBytes = 1 << 20
	// maxMessageNesting is how deep messages may be nested in one. Each descriptor is
	// one in another, and what is in its metadata.
	maxMessageNesting = 500
	// maxMessageProblems is how many problems of one message are told.
	maxMessageProblems = 10
)

// ReadMessage adds a ratelimit.config.ratelimit.v3.RateLimitConfig to the configuration,
// by the rules of files. name is what problems call it if it has no name itself. The
// error is all that is wrong with it; then the Config is of no use.
func (r *Reader) ReadMessage(name string, data []byte) error {
	if err := r.measure(data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	m := new(rlsconfv3.RateLimitConfig)
	if err := (proto.UnmarshalOptions{RecursionLimit: maxMessageNesting}).Unmarshal(data, m); err != nil {
		return fmt.Errorf("%s: %w", name, quote.Error(err))
	}
	if m.GetName() != "" {
		name = "resource " + quote.Cut(m.GetName())
	}
	problems := &messageProblems{name: name}
	root := &messagePlace{problems: problems, domain: m.GetDomain()}
	if tree := r.domain(m.GetDomain(), name, root); tree != nil {
		r.messages(m.GetDescriptors(), &tree.node, root, m.GetDomain(), 0)
	}
	return problems.err()
}

// messages is descriptors for those of a message. at is what has them.
func (r *Reader) messages(all []*rlsconfv3.RateLimitDescriptor, tree *node, at *messagePlace, path string, depth int) {
	if depth == maxDepth && len(all) > 0 {
		at.Problem("descriptors are nested more than %d deep", maxDepth)
		return
	}
	for i, m := range all {
		place := &messagePlace{problems: at.problems, above: at, index: i, entry: Entry{m.GetKey(), m.GetValue()}}
		w := draft{
			descriptor: descriptor{Entry: place.entry}, at: place, keyAt: place,
			shadow: m.GetShadowMode(), quota: m.GetQuotaMode(), detailed: m.GetDetailedMetric(),
		}
		if m.GetMetadata() != nil {
			w.metadata = m.GetMetadata().AsMap()
		}
		if limit := m.GetRateLimit(); limit != nil {
			w.readLimit = func() *Limit { return r.messageLimit(limit, place) }
		} else if w.metadata != nil {
			r.warnText(place.String() + ": metadata has no effect here")
		}
		if d, path := r.add(&w, tree, path); d != nil {
			r.messages(m.GetDescriptors(), &d.below, place, path, depth+1)
		}
	}
}

func (r *Reader) messageLimit(m *rlsconfv3.RateLimitPolicy, at place) *Limit {
	p := newPart(at)
	p.unit, p.unlimited, p.requests = m.GetUnit().String(), m.GetUnlimited(), m.GetRequestsPerUnit()
	w := limitDraft{at: at, parts: []*partDraft{p}, ruleName: m.GetName()}
	for _, other := range m.GetReplaces() {
		if other.GetName() == "" {
			at.Problem("an item of replaces needs a name; this one has none")
		}
		w.replaces = append(w.replaces, other.GetName())
	}
	return r.newLimit(&w)
}

// messageProblems are what is wrong with a message.
type messageProblems struct {
	name  string // of the message
	wrong []error
	more  int // how many there are beyond maxMessageProblems
}

func (p *messageProblems) err() error {
	if p.more > 0 {
		return errors.Join(append(p.wrong, fmt.Errorf("%s: and %d more problems", p.name, p.more))...)
	}
	return errors.Join(p.wrong...)
}

// A messagePlace is a descriptor of a message, or the message itself, which is above
// all others.
type messagePlace struct {
	problems *messageProblems
	domain   string        // of the message
	above    *messagePlace // nil: it is the message
	index    int           // in the list of what is above
	entry    Entry
}

// Problem implements place.
func (p *messagePlace) Problem(format string, args ...any) {
	if len(p.problems.wrong) == maxMessageProblems {
		p.problems.more++
		return
	}
	p.problems.wrong = append(p.problems.wrong, fmt.Errorf("%s: %s", p, fmt.Sprintf(format, args...)))
}

// String returns the place as people find it: by its number in each list, and by the
// keys and values on the way.
func (p *messagePlace) String() string {
	var way []*messagePlace
	at := p
	for ; at.above != nil; at = at.above {
		way = append(way, at)
	}
	if way == nil {
		return p.problems.name
	}
	var lists, name strings.Builder
	name.WriteString(at.domain)
	for i := range way {
		step := way[len(way)-1-i]
		if i > 0 {
			lists.WriteByte('.')
		}
		fmt.Fprintf(&lists, "descriptors[%d]", step.index)
		appendMetric(&name, step.entry.Key, step.entry.Value)
	}
	return fmt.Sprintf("%s: %s (%s)", p.problems.name, lists.String(), quote.Cut(name.String()))
}

// measure refuses a message that would take too much memory when it is decoded, where
// an empty descriptor of two bytes takes more than a hundred.
func (r *Reader) measure(data []byte) error {
	m := measure{descriptors: r.descriptorsRead, metadataBytes: r.metadataBytes}
	if err := m.add(data, ofConfig, 0); err != nil {
		return quote.Error(err)
	}
	r.metadataBytes = m.metadataBytes
	return nil
}

// A measure counts what messages hold.
type measure struct {
	descriptors   int // and what they replace
	metadataBytes int
}

// The kinds of messages in a message, and the numbers of their fields.
type kind uint8

const (
	ofConfig kind = iota
	ofDescriptor
	ofLimit
)

const (
	configDescriptors     = 3
	descriptorLimit       = 3
	descriptorDescriptors = 4
	descriptorMetadata    = 8
	limitReplaces         = 5
)

func (m *measure) add(data []byte, k kind, depth int) error {
	if depth > maxDepth+1 {
		return fmt.Errorf("descriptors are nested more than %d deep", maxDepth)
	}
	for len(data) > 0 {
		number, wire, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(number, wire, data); n < 0 {
			return protowire.ParseError(n)
		}
		value := data[:n]
		data = data[n:]
		if wire != protowire.BytesType {
			continue
		}
		value, _ = protowire.ConsumeBytes(value)
		var err error
		switch {
		case k == ofConfig && number == configDescriptors, k == ofDescriptor && number == descriptorDescriptors:
			m.descriptors++
			err = m.add(value, ofDescriptor, depth+1)
		case k == ofDescriptor && number == descriptorLimit:
			err = m.add(value, ofLimit, depth)
		case k == ofLimit && number == limitReplaces:
			m.descriptors++
		case k == ofDescriptor && number == descriptorMetadata:
			m.metadataBytes += len(value)
		}
		switch {
		case err != nil:
			return err
		case m.descriptors > maxDescriptors:
			return fmt.Errorf("more than %d descriptors and replaced limits; configure fewer", maxDescriptors)
		case m.metadataBytes > maxMetadataBytes:
			return fmt.Errorf("more than %d bytes of metadata; configure less", maxMetadataBytes)
		}
	}
	return nil
}
