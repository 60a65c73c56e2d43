package inflight

import (
	"bytes"
	"log/slog"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// FuzzReceived has a connection follow arbitrary bytes, at once and in pieces. Both count
// the same, and nothing is left when the connections are closed.
func FuzzReceived(f *testing.F) {
	var wire bytes.Buffer
	frames := http2.NewFramer(&wire, nil)
	must := func(err error) {
		if err != nil {
			f.Fatal(err)
		}
	}
	must(frames.WriteSettings())
	must(frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("headers")}))
	must(frames.WriteContinuation(1, true, []byte("more")))
	must(frames.WriteData(1, false, []byte{0, 0, 0, 0, 9, 'm', 'e', 's'}))
	must(frames.WriteDataPadded(1, true, []byte("sage..\x00\x00\x00\x00\x00"), make([]byte, 7)))
	must(frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte("h"), EndHeaders: true}))
	must(frames.WriteData(3, false, []byte{0, 0xff, 0xff, 0xff, 0xff}))
	must(frames.WriteRSTStream(3, http2.ErrCodeCancel))
	f.Add(wire.Bytes(), byte(1))
	f.Add(wire.Bytes(), byte(5))
	f.Add([]byte{0, 0, 1, byte(http2.FrameData), byte(http2.FlagDataPadded), 0, 0, 0, 1, 255}, byte(3))

	f.Fuzz(func(t *testing.T, sent []byte, piece byte) {
		b := New(Options{Bytes: 1 << 40, MessageBytes: 1 << 20, Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
		follow := func(piece int) *Conn {
			near, far := net.Pipe()
			t.Cleanup(func() { _ = far.Close() })
			c := newConn(b, near)
			for rest := append([]byte(http2.ClientPreface), sent...); len(rest) > 0; {
				n := min(piece, len(rest))
				c.received(rest[:n])
				rest = rest[n:]
			}
			return c
		}
		whole, cut := follow(len(sent)+len(http2.ClientPreface)), follow(1+int(piece))
		if whole.holding() != cut.holding() || whole.holding() < 0 || b.bytes.Load() != 2*whole.holding() {
			t.Fatalf("at once %d bytes are held, in pieces of %d: %d, and %d in all", whole.holding(), 1+int(piece), cut.holding(), b.bytes.Load())
		}
		_, _ = whole.Close(), cut.Close()
		if left := b.bytes.Load(); left != 0 {
			t.Fatalf("%d bytes are left of connections that are closed", left)
		}
	})
}

// TestSmallFrames counts what a message takes that comes byte by byte, with padding and
// without: far more than its bytes. All of it is given back when the message is decoded.
func TestSmallFrames(t *testing.T) {
	const sent = 1000
	for _, tt := range []struct {
		name    string
		padding int
		each    int64 // what a frame takes at least: buffer, slice header and interface
	}{{"bytes", -1, 8 + 24 + 16}, {"padding", 255, 257 + 24 + 16}} {
		t.Run(tt.name, func(t *testing.T) {
			var wire bytes.Buffer
			wire.WriteString(http2.ClientPreface)
			frames := http2.NewFramer(&wire, nil)
			err := frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("headers"), EndHeaders: true})
			if err == nil {
				err = frames.WriteData(1, false, []byte{0, 0, 0, sent >> 8, sent & 0xff})
			}
			b := New(Options{Bytes: 1 << 40, MessageBytes: 1 << 20, Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
			near, far := net.Pipe()
			defer far.Close()
			c := newConn(b, near)
			defer c.Close()
			c.received(wire.Bytes())
			before := c.holding()
			wire.Reset()
			for i := 0; i < sent && err == nil; i++ {
				if tt.padding < 0 {
					err = frames.WriteData(1, false, []byte{'m'})
				} else {
					err = frames.WriteDataPadded(1, false, []byte{'m'}, make([]byte, tt.padding))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			c.received(wire.Bytes())
			// The bytes of the message count since its length is known.
			if n := c.holding() - before; n < sent*(tt.each-1) {
				t.Errorf("%d frames hold %d bytes, want at least %d", sent, n, sent*(tt.each-1))
			}
			(&Call{c, 1}).Decoded(sent)
			if n := c.holding(); n >= before {
				t.Errorf("%d bytes are held when the message is decoded, want less than the %d before it came", n, before)
			}
		})
	}
}
