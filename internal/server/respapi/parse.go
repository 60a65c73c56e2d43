package respapi

import (
	"fmt"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

const (
	// maxCommandBytes is how long a command may be: twice the longest that is valid, of
	// 16 limits with the longest names.
	maxCommandBytes = 16 << 10
	// maxArgs is how many arguments it may have: more than 16 limits with all their
	// options.
	maxArgs = 320
)

// A protocolError says that what a client sends is not the protocol. Nothing after it
// can be read.
type protocolError string

// Error says what is wrong.
func (e protocolError) Error() string { return "protocol error: " + string(e) }

// parse takes the first command off text, which is what a connection has received. It
// returns the arguments, which are parts of text, in args, and how long the command is:
// 0 if not all of it is there. An inline command is a line, as people type it.
//
// It reads no length that it does not check first, keeps nothing, and looks at each byte
// of the lengths once: what a client announces costs nothing.
func parse(text string, args []string) (_ []string, size int, inline bool, err error) {
	args = args[:0]
	if text == "" {
		return args, 0, false, nil
	}
	if text[0] != '*' {
		args, size, err = parseInline(text, args)
		return args, size, true, err
	}
	count, at := shortLength(text, 1)
	if at == 0 {
		if count, at, err = longLength(text, 1, maxArgs, "arguments"); at == 0 {
			return args, 0, false, err
		}
	}
	for range count {
		if at == len(text) {
			return args, 0, false, nil
		}
		if text[at] != '$' {
			return args, 0, false, protocolError("expected '$', got " + quote.Cut(text[at:at+1]))
		}
		n, start := shortLength(text, at+1)
		if start == 0 {
			if n, start, err = longLength(text, at+1, maxCommandBytes, "bytes in an argument"); start == 0 {
				return args, 0, false, err
			}
		}
		end := start + n
		switch at = end + len("\r\n"); {
		case at > maxCommandBytes:
			return args, 0, false, errLong
		case at > len(text):
			return args, 0, false, nil
		case text[end:at] != "\r\n":
			return args, 0, false, protocolError("an argument is longer than its length")
		}
		args = append(args, text[start:end])
	}
	return args, at, false, nil
}

// errLong is the error of a command that is too long, whether all of it is there or not.
var errLong = protocolError(fmt.Sprintf("a command has more than %d bytes; no valid one has", maxCommandBytes))

// shortLength reads the number that is at a place in text, ends with a new line and has
// one or two digits, as most have: such a one is never too much. It returns where the rest
// begins, or 0 if the number is not one, or is not followed by enough.
func shortLength(text string, at int) (n, next int) {
	if len(text)-at < len("12\r\n") {
		return 0, 0
	}
	four := text[at : at+len("12\r\n")]
	n = int(four[0] - '0') // below 0 it is a great number
	if n > 9 {
		return 0, 0
	}
	if four[1:3] == "\r\n" {
		return n, at + len("1\r\n")
	}
	second := int(four[1] - '0')
	if second > 9 || four[2:] != "\r\n" {
		return 0, 0
	}
	return 10*n + second, at + len("12\r\n")
}

// longLength is shortLength for any number up to most: of what, an error says. It returns 0
// for next if the number is not all there, or an error.
func longLength(text string, at, most int, of string) (n, next int, err error) {
	for i := at; i < len(text); i++ {
		switch c := text[i]; {
		case '0' <= c && c <= '9':
			if n = n*10 + int(c-'0'); n > most {
				return 0, 0, protocolError(fmt.Sprintf("more than %d %s", most, of))
			}
		case c == '\r' && i > at:
			if i+1 == len(text) {
				return 0, 0, nil
			}
			if text[i+1] != '\n' {
				return 0, 0, protocolError("a number of " + of + " does not end with a new line")
			}
			return n, i + 2, nil
		default:
			return 0, 0, protocolError("a number of " + of + " has " + quote.Cut(text[i:i+1]))
		}
	}
	return 0, 0, nil
}

// parseInline is parse for an inline command. It knows no quotes: who needs them sends an
// array, as all client libraries do.
func parseInline(text string, args []string) (_ []string, size int, err error) {
	end := strings.IndexByte(text, '\n')
	if end < 0 {
		return args, 0, nil
	}
	line := text[:end]
	if quoted := strings.IndexAny(line, `"'`); quoted >= 0 {
		return args, 0, protocolError("an inline command has a quote; send the command as an array, as redis-cli does")
	}
	for arg := range strings.FieldsSeq(line) {
		if len(args) == maxArgs {
			return args, 0, protocolError(fmt.Sprintf("more than %d arguments", maxArgs))
		}
		args = append(args, arg)
	}
	return args, end + 1, nil
}
