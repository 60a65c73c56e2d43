package plainhttp

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// found is what a text begins with.
type found int

const (
	nothing found = iota // too little to say
	part                 // the begin of a header
	short                // a plain request without the end of its body
	whole                // a plain request
	other                // anything else
)

// A request is plain if its first line is a certain one, if it has Host and Content-Length, once
// each, and if no header is of those below. Each header is a line "Name: value" with visible
// ASCII characters, and spaces within. So there is one way to read it, and net/http and all
// proxies agree.
type request struct {
	http.Request
	line   string
	size   int  // bytes, with the body; 0: its header is not read yet
	others bool // whether there were requests before

	values [maxFields]string // of the headers
	body   body
}

const (
	// bufferBytes is how long a plain request may be: as many bytes as net/http keeps for a
	// connection, and nobody has to count them.
	bufferBytes = 4 << 10
	// maxFields is how many headers it may have.
	maxFields = 32
)

// A body is that of a plain request.
type body struct{ bytes.Reader }

// Close implements io.Closer.
func (*body) Close() error { return nil }

// init prepares r for the requests of a client to POST to path.
func (r *request) init(path, client string) {
	r.line = "POST " + path + " HTTP/1.1\r\n"
	r.Method, r.URL, r.RequestURI = http.MethodPost, &url.URL{Path: path}, path
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	r.RemoteAddr, r.Body = client, &r.body
	r.Header = http.Header{}
}

// find returns what text begins with, and sets r to that if it is a request. It is called
// with a longer text if it returns nothing, part or short.
func (r *request) find(text []byte) found {
	if r.others && len(text) < 4 { // net/http waits for more too
		return nothing
	}
	if r.size == 0 {
		if is := r.findHeader(text); is != short {
			return is
		}
	}
	if r.size > bufferBytes {
		return other
	}
	r.body.Reset(text[r.size-int(r.ContentLength) : min(r.size, len(text))])
	if r.size > len(text) {
		return short
	}
	return whole
}

// findHeader is find for a text of which nothing is known. It returns short for a header.
func (r *request) findHeader(text []byte) found {
	rest := r.withoutBreaks(text)
	if n := min(len(rest), len(r.line)); string(rest[:n]) != r.line[:n] {
		return other
	}
	if len(rest) < len(r.line) {
		return part
	}
	rest = rest[len(r.line):]
	end := bytes.Index(rest, []byte("\r\n\r\n"))
	switch {
	case end < 0 && (len(text) == bufferBytes || bytes.HasPrefix(rest, []byte("\r\n")) || bytes.Count(rest, []byte("\n")) > bytes.Count(rest, []byte("\r\n"))):
		return other
	case end < 0:
		return part
	case !r.read(string(rest[:end])):
		return other
	}
	r.size = len(text) - len(rest) + end + len("\r\n\r\n") + int(r.ContentLength)
	return short
}

// withoutBreaks returns text without the line breaks that some clients send after a body.
// net/http leaves them out too.
func (r *request) withoutBreaks(text []byte) []byte {
	n := 0
	for r.others && n < min(len(text), 4) && (text[n] == '\r' || text[n] == '\n') {
		n++
	}
	return text[n:]
}

// read sets r to what a header says, and reports whether it is that of a plain request.
func (r *request) read(header string) (plain bool) {
	clear(r.Header)
	clear(r.values[:]) // each holds on to a header
	r.Host, r.ContentLength = "", -1
	rest, more := header, true
	for n := 0; more; n++ {
		var line string
		line, rest, more = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ": ")
		if !ok || n == maxFields || !httpguts.ValidHeaderFieldName(name) || !isPlain(value) {
			return false
		}
		switch key := textproto.CanonicalMIMEHeaderKey(name); key {
		case "Host":
			if r.Host != "" || !httpguts.ValidHostHeader(value) {
				return false
			}
			r.Host = value
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return false
			}
			r.set(n, key, value)
		case "Content-Length":
			length, err := strconv.ParseUint(value, 10, 16)
			if err != nil || r.ContentLength >= 0 {
				return false
			}
			r.ContentLength = int64(length)
			r.set(n, key, value)
		case "Transfer-Encoding", "Trailer", "Expect", "Upgrade", "Pragma":
			return false
		default:
			r.set(n, key, value)
		}
	}
	return r.Host != "" && r.ContentLength >= 0
}

// set sets the header that is the one of index n.
func (r *request) set(n int, key, value string) {
	if before := r.Header[key]; before != nil {
		r.Header[key] = append(before, value)
		return
	}
	r.values[n] = value
	r.Header[key] = r.values[n : n+1 : n+1]
}

// isPlain reports whether a value of a header has visible ASCII characters, and spaces
// within.
func isPlain(value string) bool {
	if value == "" || value[0] == ' ' || value[len(value)-1] == ' ' {
		return false
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
