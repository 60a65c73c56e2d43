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
