package mapping

import (
	"bytes"
	"regexp"
)

// A text is what a value must be like, as a StringMatcher of Envoy says. The zero text
// matches all.
type text struct {
	kind   textKind
	want   []byte
	folded bool // A to Z are a to z
	regex  *regexp.Regexp
}

type textKind uint8

const (
	anyText textKind = iota
	exact
	prefix
	suffix
	contains
	pathPrefix // prefix, and behind it there is an end or a slash
	regex      // all of the value
)

func (t *text) matches(v []byte) bool {
	switch t.kind {
	case anyText:
		return true
	case regex:
		return t.regex.Match(v)
	case contains:
		if t.folded {
			return bytes.Contains(bytes.ToLower(v), bytes.ToLower(t.want))
		}
		return bytes.Contains(v, t.want)
	case exact, prefix, suffix, pathPrefix: // below
	}
	n := len(t.want)
	switch {
	case len(v) < n || t.kind == exact && len(v) != n || t.kind == pathPrefix && len(v) > n && v[n] != '/':
		return false
	case t.kind == suffix:
		return t.equal(v[len(v)-n:])
	default:
		return t.equal(v[:n])
	}
}

func (t *text) equal(v []byte) bool {
	if t.folded {
		return bytes.EqualFold(v, t.want)
	}
	return bytes.Equal(v, t.want)
}
