package respapi

import (
	"math"
	"strconv"
)

func appendHeader(b []byte, kind byte, n int) []byte {
	b = strconv.AppendInt(append(b, kind), int64(n), 10)
	return append(b, "\r\n"...)
}

func appendArray(b []byte, n int) []byte { return appendHeader(b, '*', n) }

func appendMap(b []byte, n int) []byte { return appendHeader(b, '%', n) }

func appendInt(b []byte, n int64) []byte {
	b = strconv.AppendInt(append(b, ':'), n, 10)
	return append(b, "\r\n"...)
}

func appendUint(b []byte, n uint64) []byte { return appendInt(b, whole(n)) }

func appendBit(b []byte, is bool) []byte {
	if is {
		return append(b, ":1\r\n"...)
	}
	return append(b, ":0\r\n"...)
}

// appendPairs appends the beginning of n pairs: a map of RESP 3, and a flat array of
// RESP 2.
func appendPairs(b []byte, protocol, n int) []byte {
	if protocol == 3 {
		return appendMap(b, n)
	}
	return appendArray(b, 2*n)
}

// whole returns n, or the greatest number that a reply may have.
func whole(n uint64) int64 { return int64(min(n, math.MaxInt64)) } //nolint:gosec // it fits

// appendBool appends a boolean of RESP 3.
func appendBool(b []byte, is bool) []byte {
	if is {
		return append(b, "#t\r\n"...)
	}
	return append(b, "#f\r\n"...)
}

func appendText(b []byte, text string) []byte {
	b = appendHeader(b, '$', len(text))
	b = append(b, text...)
	return append(b, "\r\n"...)
}

func appendNull(b []byte, protocol int) []byte {
	if protocol == 3 {
		return append(b, "_\r\n"...)
	}
	return append(b, "$-1\r\n"...)
}
