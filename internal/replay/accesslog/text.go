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
	word       columnKind = iota
	user                  // up to the bracket of the time: it may have spaces, as clients choose it
	peer                  // a word that may begin with a bracket, as an IPv6 address with a port does
	bracket               // [in brackets]
	quoted                // "in quotation marks", in which a backslash escapes
	raw                   // "in quotation marks", which Envoy writes as they are where clients send some: it ends at one before a space
	rawRequest            // likewise a request, up to one before a status
	request               // "GET /path HTTP/1.1": the fields method and url, and what these have
	rest                  // the line may end here, and what follows is of no interest if it is of another form
)

// requestFields are the fields of a request.
var requestFields = []string{"method", "url", "path", "host"}

var combinedColumns = []column{
	{word, ClientAddress}, {word, ""}, {user, "user"}, {bracket, timeField}, {request, ""}, {word, "status"}, {word, "bytes_sent"},
	{rest, ""}, {quoted, "referer"}, {quoted, "user_agent"},
}

// vhostColumns are those of Apache's vhost_combined: the host is before the client.
var vhostColumns = append([]column{{word, "vhost"}}, combinedColumns...)

var envoyColumns = []column{
	{bracket, timeField}, {rawRequest, ""}, {word, "status"}, {word, "flags"},
	{rest, ""}, {word, "bytes_received"}, {word, "bytes_sent"}, {word, "duration"}, {word, "upstream_service_time"},
	{raw, ClientAddress}, {raw, "user_agent"}, {raw, "request_id"}, {raw, "host"}, {raw, "upstream_host"},
}

// istioColumns are those of Istio, which writes why a call ended before its bytes.
var istioColumns = []column{
	{bracket, timeField}, {rawRequest, ""}, {word, "status"}, {word, "flags"},
	{word, "response_code_details"}, {word, "connection_termination_details"}, {raw, "upstream_transport_failure_reason"},
	{rest, ""}, {word, "bytes_received"}, {word, "bytes_sent"}, {word, "duration"}, {word, "upstream_service_time"},
	{raw, "x_forwarded_for"}, {raw, "user_agent"}, {raw, "request_id"}, {raw, "host"}, {raw, "upstream_host"},
	{word, "upstream_cluster"}, {word, "upstream_local_address"}, {word, "downstream_local_address"}, {word, ClientAddress},
	{word, "requested_server_name"}, {word, "route_name"},
}

// isOfIstio reports whether a line of Envoy goes on with a reason behind its flags, in place of
// a number.
func isOfIstio(rest []byte) bool { return len(rest) > 0 && !isDigit(rest[0]) }

var albColumns = []column{
	{word, "type"}, {word, timeField}, {word, "elb"}, {peer, ClientAddress}, {peer, "target"},
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
	kind    columnKind
	use     use
	slot    int
	meaning meaning
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
		s := step{kind: c.kind, slot: slices.Index(o.Fields, c.field), meaning: meaningOf(c.field)}
		switch {
		case c.field == timeField:
			s.use = asTime
		case (c.kind == request || c.kind == rawRequest) && p.parts != [4]int{-1, -1, -1, -1}:
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
	return p.readFrom(line, 0, 0, r)
}

// readFrom reads on with a step, whose column begins at i. All but few columns are cut off here: a
// function for each kind would take more time to call than to do.
func (p *textParser) readFrom(line []byte, i, first int, r *Record) (at []byte, ok bool) {
	optional, afterDash := false, false
	steps := p.steps[first:]
	for n := range steps {
		s := &steps[n]
		from, to, next := i, i, 0
		switch {
		case s.kind == rest:
			optional = true
			if p.isOther != nil && p.isOther(line[i:]) { // which has another column here
				_, ok = p.other.readFrom(line, i, first+n, r)
				return at, ok
			}
			continue
		case i >= len(line):
			return at, optional
		case s.kind == word && line[i] != '"' && line[i] != '[':
			if to++; to == len(line) || line[to] != ' ' { // otherwise it is a -, mostly
				to = index(line, i, ' ')
			}
			next = to
		case s.kind == bracket && line[i] == '[':
			from++
			to = index(line, from, ']')
			next = to + 1
		default:
			from, to, next = cut(line, i, s.kind)
		}
		if to == i || next > len(line) || next < len(line) && line[next] != ' ' {
			return at, optional
		}
		i = min(next+1, len(line))
		switch s.use {
		case asTime:
			at = line[from:to]
		case asRequest:
			p.request(line[from:to], r)
		case asValue:
			r.Values[s.slot] = s.meaning.tidy(line[from:to])
		default:
		}
		// A client has no - behind it where it is one that stands behind its virtual host.
		if s.kind == user && !afterDash && p.other != nil && bytes.IndexByte(line[from:to], ' ') >= 0 {
			return at, false
		}
		afterDash = to == from+1 && line[from] == '-'
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

// cut returns where a column is that begins at i, and where it ends with its quotation marks. If there
// is no such column, all is i. A word and a bracket are cut by readFrom, where there is one.
func cut(line []byte, i int, kind columnKind) (from, to, next int) {
	from = i
	switch kind {
	case word, bracket:
		return i, i, i
	case peer:
		if to = index(line, i, ' '); to == len(line) || line[i] == '"' {
			return i, i, i
		}
		return i, to, to
	case user:
		for to = i; ; to++ {
			if to = index(line, to, ' '); to+1 >= len(line) {
				return i, i, i
			}
			if line[to+1] == '[' {
				return i, to, to
			}
		}
	default: // in quotation marks
	}
	if line[i] != '"' {
		return i, i, i
	}
	from++
	switch kind {
	case raw:
		to = endOfRaw(line[from:], nil)
	case rawRequest:
		to = endOfRaw(line[from:], isStatus)
	default:
		to = endOfString(line[from:])
	}
	if to < 0 {
		return i, i, i
	}
	return from, from + to, from + to + 1
}

// endOfRaw returns where the quotation mark is that ends a string without escapes, or -1: the
// first before a space and something that follows says yes to, or at the end.
func endOfRaw(b []byte, follows func([]byte) bool) int {
	for end := 0; ; end++ {
		i := bytes.IndexByte(b[end:], '"')
		if i < 0 {
			return -1
		}
		end += i
		if after := b[end+1:]; len(after) == 0 || after[0] == ' ' && (follows == nil || follows(after[1:])) {
			return end
		}
	}
}

// isStatus reports whether b begins with a status, or with what stands for none.
func isStatus(b []byte) bool {
	return len(b) > 1 && b[1] == ' ' || len(b) > 3 && isDigit(b[0]) && isDigit(b[1]) && isDigit(b[2]) && b[3] == ' '
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
