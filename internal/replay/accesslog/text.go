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
func isOfIstio(rest []byte) bool { return len(rest) > 0 && !isDigit(rest[0]) }

var albColumns = []column{
	{word, "type"}, {word, timeField}, {word, "elb"}, {word, ClientAddress}, {word, "target"},
	{word, ""}, {word, "duration"}, {word, ""}, {word, "status"}, {word, "target_status"}, {word, "bytes_received"}, {word, "bytes_sent"},
	{request, ""}, {quoted, "user_agent"},
	{rest, ""}, {word, "ssl_cipher"}, {word, "ssl_protocol"}, {word, "target_group"}, {quoted, "trace_id"}, {quoted, "domain"},
}

// A textParser reads lines of columns.
type textParser struct {
	steps []step // up to the last column that must be there, or that somebody wants
	parts [4]int // the slots of requestFields; -1: nobody wants it
	times *timeReader

	// other reads the lines that are not of columns. nil: none does. isOther reports whether
	// a line is of other by what it has where columns may end; both begin alike. nil: it is
	// of other if it does not have what columns must have.
	other   *textParser
	isOther func(rest []byte) bool
}

// A step is what a parser does with a column.
type step struct {
	kind  columnKind
	use   use
	slot  int
	field string
}

type use uint8

const (
	skipped use = iota
	asTime
	asRequest
	asValue
)

// newTextParser returns a parser of lines of columns, or of other columns.
func newTextParser(o *Options, columns, other []column, isOther func([]byte) bool) (func([]byte, *Record) Problem, error) {
	times := newTimeReader(o.Zone)
	p := newColumns(o, columns, times)
	known := slices.Clone(requestFields)
	for _, c := range slices.Concat(columns, other) {
		if c.field != "" && c.field != timeField {
			known = append(known, c.field)
		}
	}
	if other != nil {
		p.isOther, p.other = isOther, newColumns(o, other, times)
	}
	for _, field := range o.Fields {
		if !slices.Contains(known, field) {
			return nil, unknownField(o.Format, field, known)
		}
	}
	return p.parse, nil
}

func newColumns(o *Options, columns []column, times *timeReader) *textParser {
	p := &textParser{times: times}
	for i, field := range requestFields {
		p.parts[i] = slices.Index(o.Fields, field)
	}
	needed := 0
	for i, c := range columns {
		s := step{kind: c.kind, slot: slices.Index(o.Fields, c.field), field: c.field}
		switch {
		case c.field == timeField:
			s.use = asTime
		case c.kind == request && p.parts != [4]int{-1, -1, -1, -1}:
			s.use = asRequest
		case c.field != "" && s.slot >= 0:
			s.use = asValue
		}
		if s.use != skipped || c.kind == rest {
			needed = i + 1
		}
		p.steps = append(p.steps, s)
	}
	p.steps = p.steps[:needed]
	return p
}

func (p *textParser) parse(line []byte, r *Record) Problem {
	at, ok := p.read(line, r)
	if !ok && p.other != nil && p.isOther == nil {
		clear(r.Values)
		at, ok = p.other.read(line, r)
	}
	if !ok {
		return NotFormat
	}
	return p.times.set(r, at)
}

// read sets the values of r, and returns the time of the line. It is not ok if the line is not
// of the columns.
func (p *textParser) read(line []byte, r *Record) (at []byte, ok bool) {
	optional := false
	for i := 0; i < len(p.steps); i++ {
		s := &p.steps[i]
		if s.kind == rest {
			optional = true
			if p.isOther != nil && p.isOther(line) {
				p, optional = p.other, false
				i-- // which has another column here
			}
			continue
		}
		value, after, ok := cut(line, s.kind)
		if !ok {
			return at, optional
		}
		line = after
		switch s.use {
		case asTime:
			at = value
		case asRequest:
			p.request(value, r)
		case asValue:
			if value = tidy(s.field, value); value != nil {
				r.Values[s.slot] = value
			}
		default:
		}
	}
	return at, true
}

// request sets the fields of a request.
func (p *textParser) request(value []byte, r *Record) {
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
		if len(line) > 1 && line[1] == ' ' { // mostly a -
			end = 1
		} else if end = bytes.IndexByte(line, ' '); end < 0 {
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
	end := bytes.IndexByte(b, '"')
	for from := 0; end > from && b[end-1] == '\\'; {
		slashes := 0
		for end-slashes > from && b[end-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return end
		}
		from = end + 1
		i := bytes.IndexByte(b[from:], '"')
		if i < 0 {
			return -1
		}
		end = from + i
	}
	return end
}
