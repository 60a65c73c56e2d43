package accesslog

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// maxColumns is how many columns of a CSV are read.
const maxColumns = 1000

// A csvParser reads lines of CSV, none of which has an end of line in a value.
type csvParser struct {
	header  string
	comma   byte
	columns [][]csvUse // what each column is for
	times   *timeReader
}

// A csvUse puts a value into a slot; -1 is the time.
type csvUse struct {
	slot    int
	meaning meaning
}

func newCSVParser(o *Options) (func([]byte, *Record) Problem, error) {
	header := strings.TrimPrefix(strings.TrimSuffix(o.Header, "\r"), "\ufeff")
	p := &csvParser{header: header, comma: commaOf(header), times: newTimeReader(o.Zone)}
	var names []string
	var scratch []byte
	for line := []byte(header); len(names) < maxColumns; {
		value, after, more := cutCSV(line, p.comma, &scratch)
		names = append(names, string(value))
		if line = after; !more {
			break
		}
	}
	p.columns = make([][]csvUse, len(names))
	for slot, field := range append([]string{timeField}, o.Fields...) {
		place := -1
		for _, name := range places(field, o) {
			if place = slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(strings.TrimSpace(n), name) }); place >= 0 {
				break
			}
		}
		if place < 0 {
			for i := range names {
				names[i] = quote.Cut(names[i])
			}
			return nil, fmt.Errorf("field %s: no column is called so; the columns are %s. Name one, as in --field=%s=COLUMN",
				quote.Cut(field), strings.Join(names[:min(len(names), 20)], ", "), field)
		}
		p.columns[place] = append(p.columns[place], csvUse{slot - 1, meaningOf(field)})
	}
	return p.parse, nil
}

// commaOf returns what is between the columns of a header.
func commaOf(header string) byte {
	best, most := byte(','), 0
	for _, c := range []byte{',', ';', '\t'} {
		if n := strings.Count(header, string(rune(c))); n > most {
			best, most = c, n
		}
	}
	return best
}

func (p *csvParser) parse(line []byte, r *Record) Problem {
	if line[0] == p.header[0] && string(line) == p.header || bytes.HasPrefix(line, []byte("\ufeff")) {
		return Nothing // files may have been joined
	}
	var at []byte
	for _, uses := range p.columns {
		if line == nil {
			return NotFormat
		}
		value, after, more := cutCSV(line, p.comma, &r.scratch)
		if line = after; !more {
			line = nil
		}
		for _, u := range uses {
			if u.slot < 0 {
				at = value
			} else {
				r.Values[u.slot] = u.meaning.tidy(value)
			}
		}
	}
	return p.times.set(r, at)
}

// cutCSV cuts the first value off a line. more is whether another follows. A value with
// doubled quotation marks is put into scratch.
func cutCSV(line []byte, comma byte, scratch *[]byte) (value, after []byte, more bool) {
	if len(line) == 0 || line[0] != '"' {
		return cutAt(line, comma)
	}
	from, plain := len(*scratch), true
	out := *scratch
	line = line[1:]
	for {
		end := bytes.IndexByte(line, '"')
		if end < 0 { // it does not end: what is there counts
			return line, nil, false
		}
		if end+1 < len(line) && line[end+1] == '"' {
			out, plain = append(out, line[:end+1]...), false
			line = line[end+2:]
			continue
		}
		value = line[:end]
		if !plain {
			out = append(out, value...)
			*scratch = out
			value = out[from:]
		}
		_, after, more = cutAt(line[end+1:], comma)
		return value, after, more
	}
}

func cutAt(line []byte, comma byte) (value, after []byte, more bool) {
	i := bytes.IndexByte(line, comma)
	if i < 0 {
		return line, nil, false
	}
	return line[:i], line[i+1:], true
}
