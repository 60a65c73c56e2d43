package memory

import "encoding/binary"

// fields are what is left to read of a frame. After one that is not there, all are 0 and
// empty, and ok is false.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) ok() bool   { return !f.bad }
func (f *fields) more() bool { return len(f.b) > 0 }

// take returns the next n bytes.
func (f *fields) take(n uint64) []byte {
	if n > uint64(len(f.b)) {
		f.b, f.bad = nil, true
		return nil
	}
	taken := f.b[:n]
	f.b = f.b[n:]
	return taken
}

func (f *fields) byte() byte {
	if b := f.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (f *fields) fixed() uint64 {
	if b := f.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (f *fields) fixed32() uint32 {
	if b := f.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// text returns what appendText has written.
func (f *fields) text() []byte { return f.take(f.uvarint()) }

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	f.skip(n)
	return v
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.b)
	f.skip(n)
	return v
}

// skip skips a number of n bytes, which is none if n is not positive.
func (f *fields) skip(n int) {
	if n <= 0 {
		f.b, f.bad = nil, true
		return
	}
	f.b = f.b[n:]
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}
