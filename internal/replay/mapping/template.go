package mapping

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// A template makes a text of the fields of a record: "user:{user}".
type template []part

// A part is a text, or what a field has.
type part struct {
	text  string
	bytes []byte // the same
	slot  int    // of the field; -1: text
}

// newTemplate reads a template. fields are those that are wanted so far, to which it adds.
func newTemplate(text string, fields *[]string) (template, error) {
	var t template
	for whole := text; text != ""; {
		before, after, found := strings.Cut(text, "{")
		if before != "" {
			t = append(t, part{before, []byte(before), -1})
		}
		if !found {
			break
		}
		name, rest, closed := strings.Cut(after, "}")
		if !closed || name == "" {
			return nil, fmt.Errorf(" %s: a field is a name in braces, as in user:{user}", quote.Cut(whole))
		}
		t, text = append(t, part{name, nil, slotOf(name, fields)}), rest
	}
	return t, nil
}

// slotOf returns the slot of a field, which it adds to fields if it is new.
func slotOf(name string, fields *[]string) int {
	slot := slices.Index(*fields, name)
	if slot < 0 {
		slot = len(*fields)
		*fields = append(*fields, name)
	}
	return slot
}

// isConstant reports whether t has no fields.
func (t template) isConstant() bool {
	return !slices.ContainsFunc(t, func(p part) bool { return p.slot >= 0 })
}

// append appends what t makes of values to b. It is not ok if a field is empty.
func (t template) append(b []byte, values [][]byte) (out []byte, empty string, ok bool) {
	for _, p := range t {
		if p.slot < 0 {
			b = append(b, p.text...)
			continue
		}
		if len(values[p.slot]) == 0 {
			return b, p.text, false
		}
		b = append(b, values[p.slot]...)
	}
	return b, "", true
}
