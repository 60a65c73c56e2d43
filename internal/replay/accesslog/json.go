package accesslog

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep the objects of a line may be. A line that is deeper is refused.
const maxDepth = 64

// aliases say where the fields of a format are, the best first.
type aliases map[string][]string

var jsonAliases = map[Format]aliases{
	Caddy: {
		timeField: {"ts"}, ClientAddress: {"request.client_ip", "request.remote_ip", "request.remote_addr"},
		"method": {"request.method"}, Path: {"request.uri"}, "url": {"request.uri"}, "host": {"request.host"}, "user": {"user_id"},
		"user_agent": {"request.headers.User-Agent"}, "bytes_sent": {"size"},
	},
	Traefik: {
		timeField: {"StartUTC", "StartLocal", "time"}, ClientAddress: {"ClientHost", "ClientAddr"}, "method": {"RequestMethod"},
		Path: {"RequestPath"}, "url": {"RequestPath"}, "host": {"RequestHost", "RequestAddr"}, "user": {"ClientUsername"}, "status": {"DownstreamStatus"},
		"user_agent": {"request_User-Agent"}, "bytes_sent": {"DownstreamContentSize"}, "duration": {"Duration"},
	},
	EnvoyJSON: generalAliases,
	JSON:      generalAliases,
	CSV:       generalAliases,
}

// generalAliases are names that many logs have.
var generalAliases = aliases{
	timeField:     {"time", "timestamp", "@timestamp", "ts", "start_time", "time_iso8601", "time_local", "date", "datetime"},
	ClientAddress: {"client_address", "client_ip", "remote_addr", "remote_ip", "clientip", "ip", "x_forwarded_for", "x-forwarded-for", "downstream_remote_address", "client"},
	"method":      {"method", ":method", "request_method"},
	Path:          {"path", ":path", "x_envoy_origin_path", "uri", "request_uri", "url"},
	"url":         {"url", "path", ":path", "uri", "request_uri"},
	"host":        {"host", "authority", ":authority"},
	"user":        {"user", "remote_user", "user_id"},
	"status":      {"status", "response_code", "status_code"},
	"user_agent":  {"user_agent", "user-agent", "http_user_agent"},
	"referer":     {"referer", "http_referer", "referrer"},
	"bytes_sent":  {"bytes_sent", "body_bytes_sent", "size"},
}

// places returns the names under which a field may be, the best first.
func places(field string, o *Options) []string {
	if name, ok := o.Names[field]; ok {
		return []string{name}
	}
	if names, ok := jsonAliases[o.Format][field]; ok {
		return names
	}
	switch o.Format { // it may be a header of the request
	case Caddy:
		return []string{field, "request.headers." + http.CanonicalHeaderKey(field)}
	case Traefik:
		return []string{field, "request_" + http.CanonicalHeaderKey(field)}
	default:
		return []string{field, strings.ReplaceAll(field, "-", "_")}
	}
}

// A jsonNode is where a key leads to that somebody wants.
type jsonNode struct {
	children *[64][]jsonChild // by how long their keys are, but for multiples of 64; nil: none
	uses     []jsonUse        // of the value itself
}

type jsonChild struct {
	key string
	*jsonNode
}

// A jsonUse puts a value into a slot. The time has slot -1.
type jsonUse struct {
	slot, rank int // of several names of a field, that with the least rank counts
	meaning    meaning
}

// child returns the node that a key leads to, which it makes if there is none.
func (n *jsonNode) child(key string) *jsonNode {
	if n.children == nil {
		n.children = new([64][]jsonChild)
	}
	if known := n.find([]byte(key)); known != nil {
		return known
	}
	some := &n.children[uint(len(key))%64]
	*some = append(*some, jsonChild{key, new(jsonNode)})
	return (*some)[len(*some)-1].jsonNode
}

// find returns the node that a key leads to, or nil.
func (n *jsonNode) find(key []byte) *jsonNode {
	some := n.children[uint(len(key))%64]
	for i := range some {
		if some[i].key == string(key) {
			return some[i].jsonNode
		}
	}
	return nil
}

// A jsonParser reads lines that are JSON objects.
type jsonParser struct {
	root  jsonNode
	times *timeReader
	ranks []int // of what each slot has; the last is that of the time

	// Of the line:
	r    *Record
	line []byte
	at   []byte
}

func newJSONParser(o *Options) func([]byte, *Record) Problem {
	p := &jsonParser{times: newTimeReader(o.Zone), ranks: make([]int, len(o.Fields)+1)}
	p.want(timeField, -1, o)
	for slot, field := range o.Fields {
		p.want(field, slot, o)
	}
	return p.parse
}

func (p *jsonParser) want(field string, slot int, o *Options) {
	for rank, name := range places(field, o) {
		use := jsonUse{slot, rank, meaningOf(field)}
		whole := p.root.child(name) // some logs have keys with dots in them
		whole.uses = append(whole.uses, use)
		if strings.Contains(name, ".") {
			n := &p.root
			for part := range strings.SplitSeq(name, ".") {
				n = n.child(part)
			}
			n.uses = append(n.uses, use)
		}
	}
}

func (p *jsonParser) parse(line []byte, r *Record) Problem {
	for i := range p.ranks {
		p.ranks[i] = 1 << 30
	}
	p.r, p.line, p.at = r, line, nil
	i := skipSpace(line, 0)
	if i >= len(line) || line[i] != '{' {
		return NotJSON
	}
	if i = p.object(i+1, &p.root, 0); i < 0 || skipSpace(line, i) != len(line) {
		return NotJSON
	}
	return p.times.set(r, p.at)
}

// object reads an object from behind its brace, and returns where it ends, or -1.
func (p *jsonParser) object(i int, n *jsonNode, depth int) int {
	b := p.line
	if depth > maxDepth {
		return -1
	}
	i = skipSpace(b, i)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for i < len(b) && b[i] == '"' {
		end := endOfText(b, i+1)
		if end < 0 {
			return -1
		}
		key := b[i+1 : end]
		i = skipSpace(b, end+1)
		if i >= len(b) || b[i] != ':' {
			return -1
		}
		i = p.value(skipSpace(b, i+1), n.find(key), depth)
		if i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		switch {
		case i >= len(b):
			return -1
		case b[i] == '}':
			return i + 1
		case b[i] != ',':
			return -1
		}
		i = skipSpace(b, i+1)
	}
	return -1
}

// value reads a value, which n wants if n is not nil, and returns where it ends, or -1.
func (p *jsonParser) value(i int, n *jsonNode, depth int) int {
	b := p.line
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		end := endOfText(b, i+1)
		if end < 0 {
			return -1
		}
		if n != nil {
			p.use(n, p.unescape(b[i+1:end]))
		}
		return end + 1
	case '{':
		if n != nil && n.children != nil {
			return p.object(i+1, n, depth+1)
		}
		return skipNested(b, i)
	case '[':
		if n == nil || len(n.uses) == 0 {
			return skipNested(b, i)
		}
		if first := skipSpace(b, i+1); first < len(b) && b[first] == '"' { // as Caddy writes a header
			p.value(first, n, depth)
		}
		return skipNested(b, i)
	}
	end := i
	for end < len(b) && b[end] != ',' && b[end] != '}' && b[end] != ']' && b[end] > ' ' {
		end++
	}
	if end == i {
		return -1
	}
	if n != nil && string(b[i:end]) != "null" {
		p.use(n, b[i:end])
	}
	return end
}

// use puts a value where n says.
func (p *jsonParser) use(n *jsonNode, v []byte) {
	for _, u := range n.uses {
		slot := u.slot
		if slot < 0 {
			slot = len(p.ranks) - 1
		}
		tidied := v
		if u.slot >= 0 {
			tidied = u.meaning.tidy(v)
		}
		if p.ranks[slot] <= u.rank || len(tidied) == 0 {
			continue
		}
		p.ranks[slot] = u.rank
		if u.slot < 0 {
			p.at = v
		} else {
			p.r.Values[slot] = tidied
		}
	}
}

// skipNested returns where an object or array ends that nobody wants, or -1.
func skipNested(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			if i = endOfText(b, i+1); i < 0 {
				return -1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// endOfText returns where the quotation mark is that ends a string which begins at i, or -1.
func endOfText(b []byte, i int) int {
	end := index(b, i, '"')
	if end == len(b) {
		return -1
	}
	if b[end-1] != '\\' { // as mostly. What is before the string is a quotation mark
		return end
	}
	if end = endOfString(b[i:]); end < 0 {
		return -1
	}
	return i + end
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	return i
}

// unescape returns what a JSON string says.
func (p *jsonParser) unescape(v []byte) []byte {
	slash := bytes.IndexByte(v, '\\')
	if slash < 0 {
		return v
	}
	from := len(p.r.scratch)
	out := append(p.r.scratch, v[:slash]...)
	for i := slash; i < len(v); i++ {
		if v[i] != '\\' || i+1 >= len(v) {
			out = append(out, v[i])
			continue
		}
		i++
		switch v[i] {
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'u':
			c, ok := hex4(v[i+1:])
			if !ok {
				out = append(out, '\\', 'u')
				continue
			}
			i += 4
			if utf16.IsSurrogate(c) && i+2 < len(v) && v[i+1] == '\\' && v[i+2] == 'u' {
				if low, ok := hex4(v[i+3:]); ok {
					c = utf16.DecodeRune(c, low)
					i += 6
				}
			}
			out = utf8.AppendRune(out, c)
		default:
			out = append(out, v[i])
		}
	}
	p.r.scratch = out
	return out[from:]
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 32)
	return rune(n), err == nil
}
