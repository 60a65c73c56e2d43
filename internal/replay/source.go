package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/replay/mapping"
)

const (
	// headLines are looked at to find the format of a file.
	headLines = 50
	// chunkRecords are read before they are handed on.
	chunkRecords = 1024
	// stdinName stands for standard input among the names of files.
	stdinName = "-"
	// maxShownBytes is how much of a line is shown that cannot be read.
	maxShownBytes = 200
)

// A chunk is what some records of a file ask, in the order of its lines, and what was wrong
// with others.
type chunk struct {
	asks     mapping.Asks
	problems []unread
	noZone   uint64
	err      error // why the file could not be read on
}

// A source is one file.
type source struct {
	name    string
	format  accesslog.Format
	packing string
	header  string // of CSV
	first   int64  // the time of its first record
	empty   bool   // it has no lines

	file  io.ReadCloser
	lines *accesslog.Lines
	head  []string // lines that were read already, if the file cannot be read again
}

// open opens a file, finds its format, and the time of its first record.
func open(name string, stdin io.Reader, m *mapping.Mapping, format accesslog.Format) (*source, error) {
	s := &source{name: name, format: format}
	if err := s.start(stdin, nil); err != nil {
		return nil, err
	}
	head, err := s.lines.Head(headLines)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.head = head
	if len(head) == 0 {
		s.close()
		s.empty = true
		return s, nil
	}
	if s.format == "" {
		if s.format, err = accesslog.Detect(head, m.Reader.Names); err != nil {
			s.close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if s.format == accesslog.CSV {
		s.header = head[0]
	}
	p, err := s.parser(m)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var r accesslog.Record
	for _, line := range head {
		if p.Parse([]byte(line), &r) == accesslog.None {
			s.first = r.At
			break
		}
	}
	if f, ok := s.file.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			s.close() // until its turn comes: there may be many
			s.file, s.head = nil, nil
		}
	}
	return s, nil
}

// start opens the file of s, whose bytes it counts in read.
func (s *source) start(stdin io.Reader, read *atomic.Int64) error {
	in := io.NopCloser(stdin)
	if s.name != stdinName {
		f, err := os.Open(s.name)
		if err != nil {
			return err
		}
		in = f
	}
	s.file = in
	var err error
	if s.lines, err = accesslog.NewLines(byteCounter{in, read}); err != nil {
		_ = in.Close()
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.packing = s.lines.Packing
	return nil
}

// byteCounter counts the bytes that are read.
type byteCounter struct {
	io.Reader
	n *atomic.Int64 // nil: nobody wants to know
}

func (c byteCounter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	if c.n != nil {
		c.n.Add(int64(n))
	}
	return n, err
}

func (s *source) close() {
	if s.file == nil {
		return
	}
	s.lines.Close()
	_ = s.file.Close()
}

func (s *source) parser(m *mapping.Mapping) (*accesslog.Parser, error) {
	o := m.Reader
	o.Format, o.Header = s.format, s.header
	return accesslog.NewParser(o)
}

// read reads all records of s and sends them to out, which it closes at the end.
func (s *source) read(ctx context.Context, m *mapping.Mapping, out chan<- *chunk, free <-chan *chunk) {
	defer close(out)
	defer s.close()
	// What waits for a pipe is woken. (A file may be closed twice.)
	defer context.AfterFunc(ctx, func() { _ = s.file.Close() })()
	p, err := s.parser(m)
	r := &reading{source: s, mapping: m, parser: p, chunk: new(chunk)}
	send := func() bool {
		select {
		case out <- r.chunk:
		case <-ctx.Done():
			return false
		}
		select {
		case c := <-free:
			c.asks.Reset()
			*c = chunk{asks: c.asks}
			r.chunk = c
		default:
			r.chunk = new(chunk)
		}
		return true
	}
	for i, line := range s.head {
		r.line([]byte(line), int64(i+1))
	}
	for err == nil {
		var line []byte
		var tooLong bool
		if line, tooLong, err = s.lines.Next(); err != nil {
			break
		}
		if tooLong {
			r.unread(string(accesslog.TooLong), line, s.lines.Number)
			continue
		}
		r.line(line, s.lines.Number)
		if len(r.chunk.asks.All) >= chunkRecords || r.chunk.asks.Bytes() > 1<<20 {
			if !send() {
				return
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		r.chunk.err = fmt.Errorf("%s: line %d: %w", s.name, s.lines.Number+1, err)
	}
	send()
}

// A reading turns the lines of a source into chunks.
type reading struct {
	source  *source
	mapping *mapping.Mapping
	parser  *accesslog.Parser
	record  accesslog.Record
	chunk   *chunk
}

// line adds the record of a line to the chunk.
func (r *reading) line(line []byte, number int64) {
	switch problem := r.parser.Parse(line, &r.record); problem {
	case accesslog.None:
	case accesslog.Nothing:
		return
	default:
		r.unread(string(problem), line, number)
		return
	}
	if kind := r.mapping.Append(&r.chunk.asks, &r.record); kind != "" {
		r.unread(kind, line, number)
		return
	}
	if r.record.NoZone {
		r.chunk.noZone++
	}
}

// unread counts a line that gives no record.
func (r *reading) unread(kind string, line []byte, number int64) {
	for i := range r.chunk.problems {
		if p := &r.chunk.problems[i]; p.kind == kind {
			p.count++
			return
		}
	}
	text := quote.Error(errors.New(string(line[:min(len(line), maxShownBytes)]))).Error()
	r.chunk.problems = append(r.chunk.problems, unread{kind: kind, count: 1, example: fmt.Sprintf("%s:%d: %s", r.source.name, number, text)})
}
