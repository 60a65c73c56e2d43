// Package quote quotes values in messages, so that a reader sees where a value
// begins and ends and a long value cannot fill a message.
package quote

import (
	"strconv"
	"unicode/utf8"
)

// MaxBytes is how many bytes of a value a message shows.
const MaxBytes = 64

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
