package accesslog

import "bytes"

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

// isPlain reports whether v has nothing but digits and dots.
func isPlain(v []byte) bool {
	for _, c := range v {
		if c-'0' > 9 && c != '.' {
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
