package respapi

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		text string
		args []string
		size int
		err  string
	}{
		{"", nil, 0, ""},
		{"*2\r\n$4\r\nPING\r\n$2\r\na\n\r\n+", []string{"PING", "a\n"}, 22, ""},
		{"*2\r\n$4\r\nPING\r\n$2\r\na\n\r", nil, 0, ""},
		{"*0\r\nPING\r\n", []string{}, 4, ""},
		{"*1\r\n$0\r\n\r\n", []string{""}, 10, ""},
		{"PING  a\tb\r\nPING\r\n", []string{"PING", "a", "b"}, 11, ""},
		{"\r\n", []string{}, 2, ""},
		{"PING", nil, 0, ""},
		{"PING \"a b\"\r\n", nil, 0, "an inline command has a quote"},
		{strings.Repeat("a ", 321) + "\r\n", nil, 0, "more than 320 arguments"},
		{"*-1\r\n", nil, 0, `a number of arguments has "-"`},
		{"*\r\n", nil, 0, `a number of arguments has "\r"`},
		{"*1\rx", nil, 0, "does not end with a new line"},
		{"*321\r\n", nil, 0, "more than 320 arguments"},
		{"*99999999999999999999999999999", nil, 0, "more than 320 arguments"},
		{"*1\r\n:5\r\n", nil, 0, `expected '$', got ":"`},
		{"*1\r\n$16385\r\n", nil, 0, "more than 16384 bytes in an argument"},
		{"*1\r\n$9223372036854775807\r\n", nil, 0, "more than 16384 bytes in an argument"},
		{"*1\r\n$-9223372036854775808\r\n", nil, 0, `has "-"`},
		{"*2\r\n$16000\r\n" + strings.Repeat("x", 16000) + "\r\n$400\r\n", nil, 0, "a command has more than 16384 bytes"},
		{"*1\r\n$1\r\nabc\r\n", nil, 0, "an argument is longer than its length"},
	} {
		args, size, _, err := parse(tt.text, nil)
		if tt.err != "" {
			var wrong protocolError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), tt.err) || size != 0 {
				t.Errorf("%.50q: %d, %v; want %q", tt.text, size, err, tt.err)
			}
			continue
		}
		if err != nil || size != tt.size || size > 0 && !slices.Equal(args, tt.args) {
			t.Errorf("%.50q: %q of %d bytes, %v; want %q of %d", tt.text, args, size, err, tt.args, tt.size)
		}
	}
}

// FuzzParse parses bytes. It never panics, makes no more of them than there are, and says
// the same whatever follows; until all of a command is there, it waits for the rest.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"*2\r\n$4\r\nPING\r\n$2\r\na\n\r\n+", "PING a\r\n", "*1\r\n$9223372036854775807\r\n", "*0\r\n", "*3\r\n$-1\r\n", "\x00\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args, size, inline, err := parse(text, nil)
		if err != nil || size == 0 {
			return
		}
		bytes := 0
		for _, arg := range args {
			bytes += len(arg)
		}
		if size > len(text) || bytes >= size || len(args) > maxArgs || !inline && size > maxCommandBytes {
			t.Fatalf("%q is of %d bytes in %d", args, bytes, size)
		}
		again, sameSize, _, err := parse(text[:size], nil)
		if err != nil || sameSize != size || !slices.Equal(again, args) {
			t.Fatalf("%q without what follows: %q, %d, %v", text[:size], again, sameSize, err)
		}
		for n := range min(size, 200) {
			if _, early, _, err := parse(text[:n], nil); early != 0 || err != nil {
				t.Fatalf("%q of %q: %d, %v", text[:n], text[:size], early, err)
			}
		}
	})
}
