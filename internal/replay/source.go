package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"unicode/utf8"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/store"
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

// A mapping says what a record asks: which namespace and policy, for whom, and how much.
type mapping struct {
	namespace, policy, identifier template
	cost                          uint64
	costSlot                      int // of the field that has the cost; -1: it is cost

	fields []string // that records must have
	reader accesslog.Options
}

// A record is one request of a log as it was read. Its names are in the keys of its chunk:
// the lengths of namespace and policy in a byte each, then namespace, policy and identifier.
type record struct {
	at         int64
	cost       uint64
	start, end uint32
}

// A chunk is some records of a file, in the order of its lines, and what was wrong with
// others.
type chunk struct {
	records  []record
	keys     []byte
	problems []unread
	noZone   uint64
	err      error // why the file could not be read on
}

// Unread are lines of one kind that gave no record.
type unread struct {
	kind    string
	count   uint64
	example string // the place and the beginning of the first
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
func open(name string, stdin io.Reader, m *mapping, format accesslog.Format) (*source, error) {
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
		if s.format, err = accesslog.Detect(head, m.reader.Names); err != nil {
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
	if s.lines, err = accesslog.NewLines(counted{in, read}); err != nil {
		_ = in.Close()
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.packing = s.lines.Packing
	return nil
}

// counted counts the bytes that are read.
type counted struct {
	io.Reader
	n *atomic.Int64 // nil: nobody wants to know
}

func (c counted) Read(b []byte) (int, error) {
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

func (s *source) parser(m *mapping) (*accesslog.Parser, error) {
	o := m.reader
	o.Format, o.Header, o.Fields = s.format, s.header, m.fields
	return accesslog.NewParser(o)
}

// read reads all records of s and sends them to out, which it closes at the end.
func (s *source) read(ctx context.Context, m *mapping, out chan<- *chunk, free <-chan *chunk) {
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
			*c = chunk{records: c.records[:0], keys: c.keys[:0]}
			r.chunk = c
		default:
			r.chunk = &chunk{records: make([]record, 0, chunkRecords)}
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
		if len(r.chunk.records) >= chunkRecords || len(r.chunk.keys) > 1<<20 {
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
	mapping *mapping
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
	if kind := r.add(); kind != "" {
		r.unread(kind, line, number)
	}
}

// add adds the record to the chunk, or says why it asks nothing.
func (r *reading) add() (problem string) {
	m, c := r.mapping, r.chunk
	start, empty, ok := len(c.keys), "", false
	defer func() {
		if problem != "" {
			c.keys = c.keys[:start]
		}
	}()
	c.keys = append(c.keys, 0, 0)
	if c.keys, empty, ok = m.namespace.append(c.keys, r.record.Values); !ok {
		return "no " + empty
	}
	namespace := len(c.keys) - start - 2
	if c.keys, empty, ok = m.policy.append(c.keys, r.record.Values); !ok {
		return "no " + empty
	}
	policyName := len(c.keys) - start - 2 - namespace
	if c.keys, empty, ok = m.identifier.append(c.keys, r.record.Values); !ok {
		return "no " + empty
	}
	switch identifier := len(c.keys) - start - 2 - namespace - policyName; {
	case namespace > store.MaxNamespaceBytes:
		return "a namespace that is too long"
	case policyName > policy.MaxNameBytes:
		return "the name of a policy that is too long"
	case identifier > store.MaxIdentifierBytes:
		return "an identifier that is too long"
	case !utf8.Valid(c.keys[start:]):
		return "a name that is not UTF-8"
	}
	c.keys[start], c.keys[start+1] = byte(namespace), byte(policyName)
	cost := m.cost
	if m.costSlot >= 0 {
		if cost, ok = parseCost(r.record.Values[m.costSlot]); !ok {
			return "no cost in " + m.fields[m.costSlot]
		}
	}
	if r.record.NoZone {
		c.noZone++
	}
	c.records = append(c.records, record{r.record.At, cost, uint32(start), uint32(len(c.keys))})
	return ""
}

// parseCost reads a cost. A part of a unit counts as a whole one.
func parseCost(v []byte) (cost uint64, ok bool) {
	if len(v) == 0 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' || cost > 1<<50 {
			f, err := strconv.ParseFloat(string(v), 64)
			if err != nil || !(f >= 0 && f < 1<<53) {
				return 0, false
			}
			cost = uint64(f)
			if float64(cost) < f {
				cost++
			}
			return cost, true
		}
		cost = cost*10 + uint64(c-'0')
	}
	return cost, true
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
	r.chunk.problems = append(r.chunk.problems, unread{kind, 1, fmt.Sprintf("%s:%d: %s", r.source.name, number, text)})
}
