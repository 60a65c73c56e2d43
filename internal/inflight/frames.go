package inflight

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// frames follow the frames of one direction of a connection of HTTP/2. They know no more
// of them than where each ends: what is wrong with one, gRPC finds.
type frames struct {
	prefix [9]byte
	have   int // bytes of the prefix

	// Of the frame that has begun last.
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
	left   uint32 // bytes that are still to come

	header uint32 // the stream whose headers have begun last
	opened bool   // whether these headers have not ended yet
}

// between reports whether no frame has begun, nor headers, that has not ended.
func (f *frames) between() bool { return f.have == 0 && f.left == 0 && !f.opened }

// next returns the rest of p without its first piece. That is the prefix of a frame, or
// what p has of it; then began says whether the frame has begun with it. Or it is a part
// of the frame, which is returned too.
func (f *frames) next(p []byte) (part, rest []byte, began bool) {
	if f.left > 0 {
		n := min(uint64(f.left), uint64(len(p)))
		f.left -= uint32(n) //nolint:gosec // at most left
		return p[:n], p[n:], false
	}
	n := copy(f.prefix[f.have:], p)
	f.have += n
	if f.have < len(f.prefix) {
		return nil, p[n:], false
	}
	f.have = 0
	f.kind, f.flags = http2.FrameType(f.prefix[3]), http2.Flags(f.prefix[4])
	const reserved = 1 << 31
	f.stream = binary.BigEndian.Uint32(f.prefix[5:]) &^ reserved
	f.left = binary.BigEndian.Uint32(f.prefix[:4]) >> 8
	switch f.kind {
	case http2.FrameHeaders:
		f.header, f.opened = f.stream, !f.flags.Has(http2.FlagHeadersEndHeaders)
	case http2.FrameContinuation:
		f.opened = !f.flags.Has(http2.FlagContinuationEndHeaders)
	default: // it says nothing of headers
	}
	return nil, p[n:], true
}
