// Package glob matches texts with patterns in which a star stands for any bytes,
// or none.
package glob

import "strings"

// Match reports whether s matches a pattern that was cut at each of its stars
// into parts: the first part is at the start of s, the last at its end, and the
// others lie between them in order. One part is a pattern without a star.
func Match(parts []string, s string) bool {
	first, last := parts[0], parts[len(parts)-1]
	if len(parts) == 1 {
		return s == first
	}
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range parts[1 : len(parts)-1] { // each as far left as it goes
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}
