package store

import "strings"

// AppendEscaped appends s to b, as a part of a key in a remote store. It writes as
// %XX every byte that is not printable ASCII, every percent sign, and every byte
// of reserved, which are the bytes with a meaning in the key. So if a separator is
// reserved, the part ends at the first separator.
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
