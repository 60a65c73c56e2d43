// Package quote quotes values and errors in messages, so that a reader sees where a value
// begins and ends and a long value cannot fill a message.
package quote

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxBytes is how many bytes of a value a message shows.
const MaxBytes = 64

// MaxErrorBytes is how many bytes of an error a message shows.
const MaxErrorBytes = 500

// Error returns err with a text that is fit for a log, a status or a terminal,
// whoever wrote it: it is UTF-8 on one line and at most MaxErrorBytes long, with
// three dots where it was cut. What err wraps can still be found.
func Error(err error) error {
	if err == nil {
		return nil
	}
	return cutError{err}
}

type cutError struct{ error }

// Unwrap returns the error with its whole text.
func (e cutError) Unwrap() error { return e.error }

// Error returns the text that is cut.
func (e cutError) Error() string {
	text, dots := e.error.Error(), ""
	if len(text) > MaxErrorBytes {
		text, dots = text[:MaxErrorBytes], "..."
	}
	text = strings.ToValidUTF8(text, "\ufffd")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text) + dots
}

// Cut returns s in double quotes, with a backslash before what cannot stand
// there as it is. If s is longer than MaxBytes, it returns only the beginning
// of s, up to the end of a character, and three dots after the closing quote.
func Cut(s string) string {
	if len(s) <= MaxBytes {
		return strconv.Quote(s)
	}
	end := MaxBytes
	for end > MaxBytes-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return strconv.Quote(s[:end]) + "..."
}
