package quote_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

func TestCut(t *testing.T) {
	x := strings.Repeat("x", 60)
	for s, want := range map[string]string{
		"":                       `""`,
		"a\"b\n":                 `"a\"b\n"`,
		"\xff":                   `"\xff"`,
		x + "1234":               `"` + x + `1234"`,
		x + "12345":              `"` + x + `1234"...`,
		x + "123é":               `"` + x + `123"...`,
		x + "12é3":               `"` + x + `12é"...`,
		x + "1😀2":                `"` + x + `1"...`,
		strings.Repeat("é", 100): `"` + strings.Repeat("é", 32) + `"...`,
	} {
		if got := quote.Cut(s); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
	if got := quote.Cut(strings.Repeat("\x80", 1000)); len(got) > 4*quote.MaxBytes+5 {
		t.Errorf("bytes that are no text: %d bytes", len(got))
	}
}

func TestError(t *testing.T) {
	if quote.Error(nil) != nil {
		t.Error("no error became one")
	}
	for text, want := range map[string]string{
		"ERR no":                         "ERR no",
		"a\x1b[31m\nb\xffc é" + "\u202e": "a [31m b\ufffdc é ",
		strings.Repeat("x", 500):         strings.Repeat("x", 500),
		strings.Repeat("x", 10_000):      strings.Repeat("x", 500) + "...",
	} {
		err := errors.New(text)
		if got := quote.Error(err); got.Error() != want || !errors.Is(got, err) {
			t.Errorf("%.50q: got %q, want %q", text, got, want)
		}
	}
}

// FuzzQuote quotes anything: what comes out is short, printable text on one line.
func FuzzQuote(f *testing.F) {
	f.Add("alice")
	f.Add(strings.Repeat("é", 100) + "\xff\x1b[31m\n")
	f.Fuzz(func(t *testing.T, text string) {
		for what, got := range map[string]string{"a value": quote.Cut(text), "an error": quote.Error(errors.New(text)).Error()} {
			if len(got) > 2*quote.MaxErrorBytes || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !strconv.IsPrint(r) && r != '\ufffd' && r != ' ' }) {
				t.Errorf("%s %q is shown as %q", what, text, got)
			}
		}
		if len(text) <= quote.MaxBytes {
			if back, err := strconv.Unquote(quote.Cut(text)); err != nil || back != text {
				t.Errorf("%q is quoted as %s", text, quote.Cut(text))
			}
		}
	})
}
