package decide

import (
	"fmt"
	"strings"
)

// An InvalidError says what is wrong with a request.
type InvalidError struct{ Violations []Violation }

// A Violation says what is wrong with one field of a request.
type Violation struct {
	Field   string // as the API calls it: "limits[0].rate"
	Problem string // quotes the value, and shows a right one
}

// MaxShown is how many violations an InvalidError shows.
const MaxShown = 3

// Error shows the first violations.
func (e *InvalidError) Error() string {
	var b strings.Builder
	b.WriteString("invalid request: ")
	for i, v := range e.Violations {
		switch {
		case i == MaxShown:
			fmt.Fprintf(&b, "; and %d more", len(e.Violations)-i)
			return b.String()
		case i > 0:
			b.WriteString("; ")
		}
		b.WriteString(v.Field + ": " + v.Problem)
	}
	return b.String()
}

// Add adds a violation.
func (e *InvalidError) Add(field, format string, args ...any) {
	e.Violations = append(e.Violations, Violation{field, fmt.Sprintf(format, args...)})
}

// RenameFields returns err with its fields called as rename says, if it is an
// *InvalidError: for fronts whose messages have these fields elsewhere.
func RenameFields(err error, rename func(field string) string) error {
	invalid, ok := err.(*InvalidError) //nolint:errorlint // nothing wraps it
	if !ok {
		return err
	}
	var renamed InvalidError
	for _, v := range invalid.Violations {
		renamed.Violations = append(renamed.Violations, Violation{rename(v.Field), v.Problem})
	}
	return &renamed
}

// Err returns e, or nil if nothing is wrong.
func (e *InvalidError) Err() error {
	if len(e.Violations) == 0 {
		return nil
	}
	return e
}
