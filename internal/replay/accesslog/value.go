package accesslog

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// A meaning is what the value of a field is.
type meaning uint8

const (
	anything meaning = iota
	ofAddress
	ofPath
)

func meaningOf(field string) meaning {
	switch field {
	case ClientAddress:
		return ofAddress
	case Path:
		return ofPath
	default:
		return anything
	}
}

// tidy makes of a value what its meaning says it is.
func (m meaning) tidy(v []byte) []byte {
	if len(v) == 1 && v[0] == '-' {
		return nil // which is how logs say that there is none
	}
	switch m {
	case ofAddress:
		return address(v)
	case ofPath:
		return path(v)
	default:
		return v
	}
}

// Eight bytes at a time are looked at as one number.
const (
	each    = 0x0101010101010101 // times a byte: that byte eight times
	highest = 0x80 * each
)

// index returns where c is in b, from i on, or how long b is. For a few bytes it is faster than
// what the library has, which is made for many.
func index(b []byte, i int, c byte) int {
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:]) ^ uint64(c)*each
		if found := (x - each) &^ x & highest; found != 0 { // the lowest of which is of a byte that is 0
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for ; i < len(b) && b[i] != c; i++ {
	}
	return i
}

// address returns the address of a client without its port. Of several, as in
// X-Forwarded-For, it returns the last: the proxy that wrote the log has added that, and
// clients may write the others.
func address(v []byte) []byte {
	if isPlain(v) {
		return v
	}
	if i := bytes.LastIndexByte(v, ','); i >= 0 {
		v = v[i+1:]
	}
	v = bytes.TrimSpace(v)
	if len(v) > 0 && v[0] == '[' {
		if end := bytes.IndexByte(v, ']'); end > 0 {
			return v[1:end]
		}
		return v
	}
	if i := bytes.IndexByte(v, ':'); i >= 0 && bytes.IndexByte(v[i+1:], ':') < 0 {
		return v[:i] // an IPv6 address has two colons or more
	}
	return v
}

// isPlain reports whether v has nothing but digits, dots and slashes.
func isPlain(v []byte) bool {
	const digitsAndDots, above = (0x80 - '.') * each, (0x80 - '9' - 1) * each
	i := 0
	for ; i+8 <= len(v); i += 8 {
		x := binary.LittleEndian.Uint64(v[i:])
		if (x|(x+above)|^(x+digitsAndDots))&highest != 0 {
			return false
		}
	}
	for _, c := range v[i:] {
		if c < '.' || c > '9' {
			return false
		}
	}
	return true
}

// path returns the path of a URL or of the target of a request, without its query.
func path(v []byte) []byte {
	_, v = splitURL(v)
	if i := bytes.IndexByte(v, '?'); i >= 0 {
		v = v[:i]
	}
	return v
}

// splitURL returns the host of a URL, if it has one, and what follows.
func splitURL(v []byte) (host, rest []byte) {
	if len(v) == 0 || v[0] == '/' {
		return nil, v
	}
	i := bytes.Index(v, []byte("://"))
	if i < 0 {
		return nil, v
	}
	v = v[i+3:]
	if slash := bytes.IndexByte(v, '/'); slash >= 0 {
		return v[:slash], v[slash:]
	}
	return v, nil
}
