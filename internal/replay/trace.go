package replay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxTraceBytes of a trace are kept in memory. What is longer goes to a file.
const maxTraceBytes = 64 << 20

// A trace remembers all events in their order, in a few bytes each, so that other limits can
// be tried with them. The zero trace is empty. Close it.
type trace struct {
	buffer bytes.Buffer
	file   *os.File // nil: all is in buffer
	out    *bufio.Writer
	last   int64
	word   []byte
}

// add remembers events, but for those of subjects that are not remembered either.
func (t *trace) add(events []event) error {
	for i := range events {
		e := &events[i]
		if e.who.others {
			continue
		}
		t.word = binary.AppendUvarint(t.word[:0], uint64(e.at-t.last))
		t.word = binary.AppendUvarint(t.word, uint64(e.who.number))
		t.word = binary.AppendUvarint(t.word, e.cost)
		t.last = e.at
		if t.file == nil {
			t.buffer.Write(t.word)
			continue
		}
		if _, err := t.out.Write(t.word); err != nil {
			return fmt.Errorf("--suggest: keep the records for it: %w", err)
		}
	}
	if t.file == nil && t.buffer.Len() > maxTraceBytes {
		return t.spill()
	}
	return nil
}

// spill moves the trace to a file that has no name any more.
func (t *trace) spill() error {
	f, err := os.CreateTemp("", "ratelimitd-replay-*")
	if err != nil {
		return fmt.Errorf("--suggest: keep the records for it: %w", err)
	}
	_ = os.Remove(f.Name())
	t.file, t.out = f, bufio.NewWriterSize(f, 1<<18)
	_, err = t.out.Write(t.buffer.Bytes())
	t.buffer = bytes.Buffer{}
	return err
}

// each calls f for every event of the trace.
func (t *trace) each(f func(at int64, number uint32, cost uint64)) error {
	var in io.ByteReader = bytes.NewReader(t.buffer.Bytes())
	if t.file != nil {
		if err := t.out.Flush(); err != nil {
			return err
		}
		if _, err := t.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		in = bufio.NewReaderSize(t.file, 1<<18)
	}
	at := int64(0)
	for {
		delta, err := binary.ReadUvarint(in)
		if errors.Is(err, io.EOF) {
			break
		}
		number, err1 := binary.ReadUvarint(in)
		cost, err2 := binary.ReadUvarint(in)
		if err := errors.Join(err, err1, err2); err != nil {
			return err
		}
		at += int64(delta)
		f(at, uint32(number), cost)
	}
	if t.file != nil {
		_, err := t.file.Seek(0, io.SeekEnd)
		return err
	}
	return nil
}

func (t *trace) close() {
	if t.file != nil {
		_ = t.file.Close()
	}
}
