package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"github.com/ratelimitd/ratelimitd/internal/replay/accesslog"
	"github.com/ratelimitd/ratelimitd/internal/replay/mapping"
)

const (
	// headLines are looked at to find the format of a file, which must be in its first
	// headBlocks.
	headLines, headBlocks = 50, 4
	// stdinName stands for standard input among the names of files.
	stdinName = "-"
)

// A source is one file.
type source struct {
	name    string
	format  accesslog.Format
	packing string
	header  string // of CSV
	first   int64  // the time of its first record
	empty   bool   // it has no lines

	file   io.ReadCloser
	blocks *accesslog.Blocks
	head   []accesslog.Block // that were read already, if the file cannot be read again
}

// open opens a file, finds its format, and the time of its first record.
func open(name string, stdin io.Reader, m *mapping.Mapping, format accesslog.Format) (*source, error) {
	s := &source{name: name, format: format}
	if err := s.start(stdin, nil); err != nil {
		return nil, err
	}
	if err := s.look(m); err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if s.empty || isRegular(s.file) {
		s.close() // until its turn comes: there may be many
		s.file, s.head = nil, nil
	}
	return s, nil
}

// isRegular reports whether in is a file that can be read again.
func isRegular(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// look looks at the beginning of s.
func (s *source) look(m *mapping.Mapping) error {
	lines, err := s.firstLines()
	if s.empty = len(lines) == 0; err != nil || s.empty {
		return err
	}
	if s.format == "" {
		if s.format, err = accesslog.Detect(lines, m.Reader.Names); err != nil {
			return err
		}
	}
	if s.format == accesslog.CSV {
		s.header = lines[0]
	}
	p, err := s.parser(m)
	if err != nil {
		return err
	}
	var r accesslog.Record
	for _, line := range lines {
		if p.Parse([]byte(line), &r) == accesslog.None {
			s.first = r.At
			break
		}
	}
	return nil
}

// firstLines returns the first lines of s, none of which is empty.
func (s *source) firstLines() (lines []string, err error) {
	for len(lines) == 0 && len(s.head) < headBlocks {
		block, err := s.blocks.Next(nil)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if s.head = append(s.head, block); block.TooLong {
			continue
		}
		for _, line := range block.Lines() {
			if text := strings.TrimSuffix(string(line), "\r"); text != "" {
				lines = append(lines, text)
			}
			if len(lines) == headLines {
				break
			}
		}
	}
	return lines, nil
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
	if s.blocks, err = accesslog.NewBlocks(byteCounter{in, read}); err != nil {
		_ = in.Close()
		return fmt.Errorf("%s: %w", s.name, err)
	}
	s.packing = s.blocks.Packing
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
	s.blocks.Close()
	_ = s.file.Close()
}

func (s *source) parser(m *mapping.Mapping) (*accesslog.Parser, error) {
	o := m.Reader
	o.Format, o.Header = s.format, s.header
	return accesslog.NewParser(o)
}

// newChunk returns a chunk for the blocks of s.
func (s *source) newChunk(m *mapping.Mapping) *chunk {
	c := &chunk{name: s.name, mapping: m, done: make(chan struct{}, 1)}
	c.parser, c.err = s.parser(m)
	return c
}

// fill reads the next block of s into c, and reports whether there is one.
func (s *source) fill(c *chunk) (more bool) {
	if c.err != nil {
		return false
	}
	if len(s.head) > 0 {
		c.block, s.head = s.head[0], s.head[1:]
		return true
	}
	var err error
	if c.block, err = s.blocks.Next(c.block.Bytes); err != nil && !errors.Is(err, io.EOF) {
		c.err = fmt.Errorf("%s: line %d: %w", s.name, s.blocks.Number+1, err)
	}
	return err == nil
}

// read reads all of s and sends it to out, which it closes at the end. Each chunk is parsed by a
// goroutine of its own, while the next is read.
func (s *source) read(ctx context.Context, m *mapping.Mapping, out chan<- *chunk, free <-chan *chunk) {
	defer close(out)
	defer s.close()
	// What waits for a pipe is woken. (A file may be closed twice.)
	defer context.AfterFunc(ctx, func() { _ = s.file.Close() })()
	for ended := false; !ended; {
		var c *chunk
		select {
		case c = <-free:
		default:
			c = s.newChunk(m)
		}
		if ended = !s.fill(c); c.err == nil && ended {
			return
		}
		select {
		case out <- c:
			go c.parse()
		case <-ctx.Done():
			return
		}
	}
}
