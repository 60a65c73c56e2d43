package accesslog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// blockBytes is how long a block is, but for its last line, and for one that is longer.
	blockBytes = 128 << 10
	// maxZstdWindow bounds the memory that a zstd file can ask for. It is what the program
	// zstd itself takes without being told to.
	maxZstdWindow = 128 << 20
)

// A Block is some whole lines of a file, so that several goroutines can parse a file together.
type Block struct {
	Bytes   []byte
	First   int64 // the number of its first line
	TooLong bool  // it is the beginning of a line that is too long
}

// Lines returns the lines of b without their ends, and their numbers.
func (b *Block) Lines() iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		number, rest := b.First, b.Bytes
		for len(rest) > 0 {
			line := rest
			if end := bytes.IndexByte(rest, '\n'); end >= 0 {
				line, rest = rest[:end], rest[end+1:]
			} else {
				rest = nil
			}
			if !yield(number, line) {
				return
			}
			number++
		}
	}
}

// Blocks are those of a file, whether it is compressed or not. NewBlocks makes them. They are
// for one goroutine.
type Blocks struct {
	in      io.Reader
	zstd    *zstd.Decoder // nil: it is not of zstd
	rest    []byte        // the beginning of a line, which was read with the last block
	skips   bool          // what follows is of a line that is too long
	err     error         // why nothing more can be read
	Number  int64         // of the last line
	Packing string        // "gzip", "zstd" or ""
}

// NewBlocks returns the blocks of r. Close them.
func NewBlocks(r io.Reader) (*Blocks, error) {
	in := bufio.NewReaderSize(r, blockBytes/4)
	l := &Blocks{in: in}
	magic, _ := in.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		l.Packing, l.in = "gzip", unpacked
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		unpacked, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		l.Packing, l.zstd, l.in = "zstd", unpacked, unpacked
	}
	return l, nil
}

// Close releases what l holds. It does not close the reader of NewBlocks.
func (l *Blocks) Close() {
	if l.zstd != nil {
		l.zstd.Close()
	}
}

// Next returns the next block, for which it uses memory if that is long enough. The error is
// io.EOF behind the last. All lines before an error are in a block.
func (l *Blocks) Next(memory []byte) (Block, error) {
	if cap(memory) < blockBytes {
		memory = make([]byte, 0, blockBytes)
	}
	b := append(memory[:0], l.rest...)
	l.rest = l.rest[:0]
	end := -1 // of the last line
	for end < 0 && l.err == nil {
		if len(b) == cap(b) {
			if len(b) > MaxLineBytes {
				l.skips = true
				l.Number++
				return Block{b[:MaxLineBytes], l.Number, true}, nil
			}
			b = append(make([]byte, 0, min(2*cap(b), MaxLineBytes+1)), b...)
		}
		if b = l.fill(b); l.Number == 0 {
			b = b[:copy(b, bytes.TrimPrefix(b, byteOrderMark))]
		}
		end = bytes.LastIndexByte(b, '\n')
	}
	if errors.Is(l.err, io.EOF) {
		end = len(b) - 1
	}
	block := Block{Bytes: b[:end+1], First: l.Number + 1}
	if end < 0 {
		return block, l.err
	}
	l.rest = append(l.rest, b[end+1:]...)
	if l.Number += int64(bytes.Count(block.Bytes, newline)); b[end] != '\n' {
		l.Number++
	}
	return block, nil
}

var (
	newline = []byte{'\n'}
	// byteOrderMark is what some programs of Windows begin a file of UTF-8 with.
	byteOrderMark = []byte("\ufeff")
)

// fill reads on until b is full, or nothing more can be read.
func (l *Blocks) fill(b []byte) []byte {
	for len(b) < cap(b) && l.err == nil {
		var n int
		from := len(b)
		n, l.err = l.in.Read(b[from:cap(b)])
		b = b[:from+n]
		if l.Packing != "" && l.err != nil && !errors.Is(l.err, io.EOF) {
			l.err = fmt.Errorf("%s: %w", l.Packing, l.err)
		}
		if l.skips {
			end := bytes.IndexByte(b, '\n')
			l.skips = end < 0
			b = b[:copy(b, b[end+1:])]
			if l.skips {
				b = b[:0]
			}
		}
	}
	return b
}
