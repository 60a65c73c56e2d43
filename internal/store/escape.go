package store

import "strings"

// AppendEscaped appends s to a key of a remote store. A byte that is not
// printable ASCII, a percent sign, and those that are reserved because the key
// has its own use for them, are written %XX: so what was escaped with a
// separator among the reserved ends at the first of them.
func AppendEscaped(b []byte, s, reserved string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f || c == '%' || strings.IndexByte(reserved, c) >= 0:
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}
