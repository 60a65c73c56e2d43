package replay

import (
	"errors"
	"fmt"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/replay/mapping"
)

// maxShownBytes is how much of a line is shown that cannot be read.
const maxShownBytes = 200

// A chunk is what a block of a file asks, in the order of its lines. Its memory is used again.
type chunk struct {
	name    string // of the file
	mapping *mapping.Mapping
	parser  *accesslog.Parser
	record  accesslog.Record
	block   accesslog.Block
	done    chan struct{} // gets one when the block is parsed

	// What the block asks, and what was wrong with other lines of it:
	asks     mapping.Asks
	problems []unread
	noZone   uint64
	err      error // why the file could not be read on; there is no block then
}

// parse finds what the block asks.
func (c *chunk) parse() {
	c.asks.Reset()
	c.problems, c.noZone = c.problems[:0], 0
	switch {
	case c.err != nil:
	case c.block.TooLong:
		c.unread(string(accesslog.TooLong), c.block.Bytes, c.block.First)
	default:
		for number, line := range c.block.Lines() {
			c.line(line, number)
		}
	}
	c.done <- struct{}{}
}

// line adds the record of a line.
func (c *chunk) line(line []byte, number int64) {
	switch problem := c.parser.Parse(line, &c.record); problem {
	case accesslog.None:
	case accesslog.Nothing:
		return
	default:
		c.unread(string(problem), line, number)
		return
	}
	if kind := c.mapping.Append(&c.asks, &c.record); kind != "" {
		c.unread(kind, line, number)
		return
	}
	if c.record.NoZone {
		c.noZone++
	}
}

// unread counts a line that gives no record.
func (c *chunk) unread(kind string, line []byte, number int64) {
	for i := range c.problems {
		if p := &c.problems[i]; p.kind == kind {
			p.count++
			return
		}
	}
	text := quote.Error(errors.New(string(line[:min(len(line), maxShownBytes)]))).Error()
	c.problems = append(c.problems, unread{kind: kind, count: 1, example: fmt.Sprintf("%s:%d: %s", c.name, number, text)})
}
