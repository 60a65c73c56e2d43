package accesslog

import (
	"bytes"
	"slices"
)

// A column is one part of a line whose parts have spaces between them.
type column struct {
	kind  columnKind
	field string // "": nobody can want it
}

type columnKind uint8

const (
	word    columnKind = iota
	bracket            // [in brackets]
	quoted             // "in quotation marks", in which a backslash escapes
	request            // "GET /path HTTP/1.1": the fields method and url, and what these have
	rest               // the line may end here, and what follows is of no interest if it is of another form
)

// requestFields are the fields of a request.
var requestFields = []string{"method", "url", "path", "host"}

var combinedColumns = []column{
	{word, ClientAddress}, {word, ""}, {word, "user"}, {bracket, timeField}, {request, ""}, {word, "status"}, {word, "bytes_sent"},
	{rest, ""}, {quoted, "referer"}, {quoted, "user_agent"},
}

// vhostColumns are those of Apache's vhost_combined: the host is before the client.
var vhostColumns = append([]column{{word, "vhost"}}, combinedColumns...)

// hasVhost reports whether a line has four words before its time, in place of three.
func hasVhost(line []byte) bool {
	before, _, found := bytes.Cut(line, []byte(" ["))
	return found && bytes.Count(before, space) == 3
}

var envoyColumns = []column{
	{bracket, timeField}, {request, ""}, {word, "status"}, {word, "flags"},
	{rest, ""}, {word, "bytes_received"}, {word, "bytes_sent"}, {word, "duration"}, {word, "upstream_service_time"},
	{quoted, ClientAddress}, {quoted, "user_agent"}, {quoted, "request_id"}, {quoted, "host"}, {quoted, "upstream_host"},
}

// istioColumns are those of Istio, which writes why a call ended before its bytes.
var istioColumns = []column{
	{bracket, timeField}, {request, ""}, {word, "status"}, {word, "flags"},
	{word, "response_code_details"}, {word, "connection_termination_details"}, {quoted, "upstream_transport_failure_reason"},
	{rest, ""}, {word, "bytes_received"}, {word, "bytes_sent"}, {word, "duration"}, {word, "upstream_service_time"},
	{quoted, "x_forwarded_for"}, {quoted, "user_agent"}, {quoted, "request_id"}, {quoted, "host"}, {quoted, "upstream_host"},
	{word, "upstream_cluster"}, {word, "upstream_local_address"}, {word, "downstream_local_address"}, {word, ClientAddress},
	{word, "requested_server_name"}, {word, "route_name"},
}

// isOfIstio reports whether a line of Envoy goes on with a reason behind its flags, in place of
// a number.
func isOfIstio(line []byte) bool {
	for _, kind := range []columnKind{bracket, request, word, word} {
		_, after, ok := cut(line, kind)
		if !ok {
			return false
		}
		line = after
	}
	return len(line) > 0 && !isDigit(line[0])
}

var albColumns = []column{
	{word, "type"}, {word, timeField}, {word, "elb"}, {word, ClientAddress}, {word, "target"},
	{word, ""}, {word, "duration"}, {word, ""}, {word, "status"}, {word, "target_status"}, {word, "bytes_received"}, {word, "bytes_sent"},
	{request, ""}, {quoted, "user_agent"},
	{rest, ""}, {word, "ssl_cipher"}, {word, "ssl_protocol"}, {word, "target_group"}, {quoted, "trace_id"}, {quoted, "domain"},
}

// A textParser reads lines of columns.
type textParser struct {
	columns []column
	slots   []int // of each column; -1: nobody wants it
	parts   [4]int
	options *Options

	// isOther reports whether a line is of other instead. nil: none is.
	isOther func(line []byte) bool
	other   *textParser
}

// newTextParser returns a parser of lines of columns, and of other columns where isOther says
// so of a line.
func newTextParser(o *Options, columns, other []column, isOther func([]byte) bool) (func([]byte, *Record) Problem, error) {
	p := newColumns(o, columns)
	known := slices.Clone(requestFields)
	for _, c := range slices.Concat(columns, other) {
		if c.field != "" && c.field != timeField {
			known = append(known, c.field)
		}
	}
	if other != nil {
		p.isOther, p.other = isOther, newColumns(o, other)
	}
	for _, field := range o.Fields {
		if !slices.Contains(known, field) {
			return nil, unknownField(o.Format, field, known)
		}
	}
	return p.parse, nil
}

func newColumns(o *Options, columns []column) *textParser {
	p := &textParser{columns: columns, options: o}
	for _, c := range columns {
		p.slots = append(p.slots, slices.Index(o.Fields, c.field))
	}
	for i, field := range requestFields {
		p.parts[i] = slices.Index(o.Fields, field)
	}
	return p
}

func (p *textParser) parse(line []byte, r *Record) Problem {
	if p.isOther != nil && p.isOther(line) {
		p = p.other
	}
	var at []byte
	optional := false
	for i := range p.columns {
		c := &p.columns[i]
		if c.kind == rest {
			optional = true
			continue
		}
		value, after, ok := cut(line, c.kind)
		if !ok {
			if optional {
				break
			}
			return NotFormat
		}
		line = after
		switch {
		case c.field == timeField:
			at = value
		case c.kind == request:
			p.request(value, r)
		case p.slots[i] >= 0 && c.field != "":
			if value = tidy(c.field, value); value != nil {
				r.Values[p.slots[i]] = value
			}
		}
	}
	return setTime(r, at, p.options.Zone)
}

// request sets the fields of a request.
func (p *textParser) request(value []byte, r *Record) {
	if p.parts == [4]int{-1, -1, -1, -1} {
		return
	}
	method, url, found := bytes.Cut(value, space)
	if !found {
		return // whoever asked sent something else, and the log says so
	}
	if i := bytes.LastIndexByte(url, ' '); i >= 0 {
		url = url[:i]
	}
	host, _ := splitURL(url)
	for i, v := range [4][]byte{method, url, nil, host} {
		if slot := p.parts[i]; slot >= 0 {
			if requestFields[i] == Path {
				v = path(url)
			}
			r.Values[slot] = v
		}
	}
}

var space = []byte{' '}

// cut cuts the first column off a line.
func cut(line []byte, kind columnKind) (value, after []byte, ok bool) {
	end := 0
	switch kind {
	case word:
		if end = bytes.IndexByte(line, ' '); end < 0 {
			end = len(line)
		}
		if end == 0 || line[0] == '"' || line[0] == '[' {
			return nil, line, false
		}
		value, line = line[:end], line[end:]
	case bracket:
		if end = bytes.IndexByte(line, ']'); end < 0 || line[0] != '[' {
			return nil, line, false
		}
		value, line = line[1:end], line[end+1:]
	default:
		if len(line) == 0 || line[0] != '"' {
			return nil, line, false
		}
		if end = endOfString(line[1:]); end < 0 {
			return nil, line, false
		}
		value, line = line[1:1+end], line[end+2:]
	}
	if len(line) > 0 {
		if line[0] != ' ' {
			return nil, line, false
		}
		line = line[1:]
	}
	return value, line, true
}

// endOfString returns where the quotation mark is that ends a string, or -1. A backslash
// escapes what follows it.
func endOfString(b []byte) int {
	from := 0
	for {
		i := bytes.IndexByte(b[from:], '"')
		if i < 0 {
			return -1
		}
		end := from + i
		slashes := 0
		for end-slashes > from && b[end-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return end
		}
		from = end + 1
	}
}
