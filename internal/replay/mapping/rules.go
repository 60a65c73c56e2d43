package mapping

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
)

// A virtualHost says which descriptors a record makes, as one of Envoy does: those of the
// first route that matches, and its own.
type virtualHost struct {
	routes []route
	limits []rateLimit
	path   int // the slot of the path; -1: no route looks at it
}

// A route has descriptors of its own.
type route struct {
	path    text // "" matches all
	headers []headerMatch
	limits  []rateLimit
	host    bool // those of the virtual host are made too
}

// of returns the rate limits that make descriptors for a record.
func (h *virtualHost) of(values [][]byte) [2][]rateLimit {
	for i := range h.routes {
		r := &h.routes[i]
		if !r.matches(h.path, values) {
			continue
		}
		if r.host {
			return [2][]rateLimit{r.limits, h.limits}
		}
		return [2][]rateLimit{r.limits}
	}
	return [2][]rateLimit{h.limits}
}

func (r *route) matches(path int, values [][]byte) bool {
	if path >= 0 && !r.path.matches(values[path]) {
		return false
	}
	return all(r.headers, values)
}

// A rateLimit makes one descriptor: an entry for each action. It makes none if one of them
// has nothing to make an entry of.
type rateLimit []action

// append appends the entries to b.
func (l rateLimit) append(b []byte, values [][]byte) (out []byte, ok bool) {
	entries := 0
	for i := range l {
		a := &l[i]
		value, ok := a.valueOf(values)
		switch {
		case ok:
			b = appendText(appendText(b, a.key), value)
			entries++
		case !a.optional:
			return b, false
		}
	}
	return b, entries > 0
}

// An action makes an entry.
type action struct {
	key      string
	value    template
	optional bool    // the others make a descriptor without it
	masks    *[2]int // of an IPv4 and an IPv6 address, in bits; nil: the value is as it is
	headers  []headerMatch
	unless   bool // the headers must not match
}

func (a *action) valueOf(values [][]byte) (value []byte, ok bool) {
	if all(a.headers, values) == a.unless {
		return nil, false
	}
	if len(a.value) == 1 { // mostly: nothing has to be copied
		if p := &a.value[0]; p.slot < 0 {
			value = p.bytes
		} else {
			value = values[p.slot]
		}
		ok = len(value) > 0
	} else {
		value, _, ok = a.value.append(nil, values)
	}
	if !ok || a.masks == nil {
		return value, ok
	}
	addr, err := netip.ParseAddr(string(value))
	if err != nil {
		return nil, false
	}
	bits := a.masks[0]
	if addr = addr.Unmap(); addr.Is6() {
		bits = a.masks[1]
	}
	network, err := addr.WithZone("").Prefix(bits)
	return []byte(network.String()), err == nil
}

// A headerMatch is whether a field of a record has a value.
type headerMatch struct {
	slot    int
	value   *text // nil: any
	absent  bool  // it must have none
	inverse bool
}

func (m *headerMatch) matches(values [][]byte) bool {
	v := values[m.slot]
	switch {
	case m.value == nil:
		return (len(v) == 0) == m.absent != m.inverse
	case len(v) == 0:
		return false
	default:
		return m.value.matches(v) != m.inverse
	}
}

func all(headers []headerMatch, values [][]byte) bool {
	for i := range headers {
		if !headers[i].matches(values) {
			return false
		}
	}
	return true
}

// fieldOf returns the field of records that has what a header of a request had.
func fieldOf(header string) string {
	switch name := strings.ToLower(header); name {
	case ":path":
		return "url"
	case ":method":
		return "method"
	case ":authority", "host":
		return "host"
	case "user-agent":
		return "user_agent"
	default:
		return name
	}
}

// parseDescriptor reads remote_address={client_address},path=/login.
func parseDescriptor(text string, fields *[]string) (rateLimit, error) {
	var l rateLimit
	for entry := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(entry, "=")
		if !ok || key == "" || value == "" {
			return nil, fmt.Errorf(" %s: write key=value with commas between them, such as remote_address={%s},path=/login", quote.Cut(text), accesslog.ClientAddress)
		}
		t, err := newTemplate(value, fields)
		if err != nil {
			return nil, err
		}
		l = append(l, action{key: key, value: t})
	}
	return l, nil
}
