// Package accesslog reads the access logs that people have: those of web servers, proxies
// and load balancers, CSV and JSON lines. A Parser turns one line into a Record with the
// fields that its user wants, without allocating memory for it.
//
// Whoever sends requests writes much of a log. So a line, and what is kept of it, is bounded,
// and no line stops the reading: it is a Problem, which the user counts.
package accesslog

import (
	"time"
)

// A Parser reads the lines of one log. NewParser makes it. It is for one goroutine.
type Parser struct {
	slots int
	parse func(line []byte, r *Record) Problem
}

// NewParser returns a Parser. The error says which field the format does not have.
func NewParser(o Options) (*Parser, error) {
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	p := &Parser{slots: len(o.Fields)}
	var err error
	switch o.Format {
	case Combined:
		p.parse, err = newTextParser(&o, combinedColumns, vhostColumns, nil)
	case Envoy:
		p.parse, err = newTextParser(&o, envoyColumns, istioColumns, isOfIstio)
	case ALB:
		p.parse, err = newTextParser(&o, albColumns, nil, nil)
	case CSV:
		p.parse, err = newCSVParser(&o)
	default:
		p.parse = newJSONParser(&o)
	}
	return p, err
}

// Parse sets r to the record of a line, which has no end of line. The values of r are good
// until the line changes, or r is used again.
func (p *Parser) Parse(line []byte, r *Record) Problem {
	if cap(r.Values) < p.slots {
		r.Values = make([][]byte, p.slots)
	}
	r.Values = r.Values[:p.slots]
	clear(r.Values)
	r.At, r.NoZone, r.scratch = 0, false, r.scratch[:0]
	if len(line) > 0 && line[len(line)-1] == '\r' {
		line = line[:len(line)-1]
	}
	if len(line) == 0 {
		return Nothing
	}
	return p.parse(line, r)
}
