package accesslog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	// bufferBytes is how much of a file is read at a time.
	bufferBytes = 256 << 10
	// maxZstdWindow bounds the memory that a zstd file can ask for. It is what the program
	// zstd itself takes without being told to.
	maxZstdWindow = 128 << 20
)

// A Lines reads a file line by line, whether it is compressed or not. NewLines makes it. It
// is for one goroutine.
type Lines struct {
	in      *bufio.Reader
	zstd    *zstd.Decoder // nil: it is not of zstd
	long    []byte        // a line that is longer than the buffer of in
	Number  int64         // of the last line
	Packing string        // "gzip", "zstd" or ""
}

// NewLines returns the lines of r. Close it.
func NewLines(r io.Reader) (*Lines, error) {
	in := bufio.NewReaderSize(r, bufferBytes)
	l := &Lines{in: in}
	magic, _ := in.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		l.Packing, l.in = "gzip", bufio.NewReaderSize(unpacked, bufferBytes)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		unpacked, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		l.Packing, l.zstd, l.in = "zstd", unpacked, bufio.NewReaderSize(unpacked, bufferBytes)
	}
	return l, nil
}

// Close releases what l holds. It does not close the reader of NewLines.
func (l *Lines) Close() {
	if l.zstd != nil {
		l.zstd.Close()
	}
}

// Next returns the next line without its end, which is good until the next call. If it is too
// long, tooLong is true, and the line is its beginning. The error is io.EOF behind the last.
func (l *Lines) Next() (line []byte, tooLong bool, err error) {
	line, err = l.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line, tooLong, err = l.nextLong(line)
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
		return nil, false, err
	}
	l.Number++
	return bytes.TrimSuffix(line, []byte{'\n'}), tooLong, nil
}

// nextLong reads on in a line that begins with start.
func (l *Lines) nextLong(start []byte) (line []byte, tooLong bool, err error) {
	l.long = append(l.long[:0], start...)
	for {
		part, err := l.in.ReadSlice('\n')
		if tooLong = tooLong || len(l.long)+len(part) > MaxLineBytes+1; !tooLong {
			l.long = append(l.long, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if tooLong {
				return l.long[:min(len(l.long), MaxLineBytes)], true, err
			}
			return l.long, false, err
		}
	}
}

// Head returns the first lines of a log: at most max, none of them empty or too long.
func (l *Lines) Head(most int) ([]string, error) {
	var head []string
	for range 10 * most {
		line, tooLong, err := l.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return head, err
		}
		if line = bytes.TrimSuffix(line, []byte{'\r'}); len(line) > 0 && !tooLong {
			head = append(head, string(line))
		}
		if len(head) == most {
			break
		}
	}
	return head, nil
}
