package utf8text

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValid(t *testing.T) {
	for _, end := range []string{"", "a", "\x7f", "é", "\U0001f600", "\x80", "\xff", "\xc3", "\xed\xa0\x80"} {
		for n := range 40 { // around the length up to which it looks by itself
			for _, s := range []string{strings.Repeat("a", n) + end, end + strings.Repeat("a", n)} {
				if got, want := Valid(s), utf8.ValidString(s); got != want {
					t.Errorf("Valid(%q) is %v, want %v", s, got, want)
				}
			}
		}
	}
}
