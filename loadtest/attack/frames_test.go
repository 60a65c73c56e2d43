package attack

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"golang.org/x/net/http2"
)

// frameAttacks cut messages into frames that cost the daemon far more than their bytes.
func frameAttacks() []attack {
	// How much comes in time depends on the machine, so here it may take all the time that
	// it needs.
	patient := func(*testing.T) setup { return setup{flags: []string{"--message-timeout=" + longest.String()}} }
	return []attack{
		{name: "messages byte by byte", prepare: patient, do: byteByByte(0)},
		{name: "messages in padding", prepare: patient, do: byteByByte(255)},
	}
}

// byteByByte sends the largest message in frames of one byte, each with so much padding, until
// the daemon ends the call. It never sends all of it.
func byteByByte(padding byte) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		together(ctx, size(2, 8), size(2, 8), func(int) {
			w, err := connectWire(ctx, d)
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			id, err := w.begin(batch)
			if err != nil {
				t.Error(err)
				return
			}
			begin := make([]byte, 5)
			binary.BigEndian.PutUint32(begin[1:], mostBytes)
			if w.WriteData(id, false, begin) != nil {
				return
			}
			frame := frameOf(http2.FrameData, 0, id, []byte{0})
			if padding > 0 {
				frame = frameOf(http2.FrameData, http2.FlagDataPadded, id, append([]byte{padding, 0}, make([]byte, padding)...))
			}
			const atOnce = 200
			many := bytes.Repeat(frame, atOnce)
			for sent := atOnce; sent < size(200_000, mostBytes) && ctx.Err() == nil; sent += atOnce {
				select {
				case <-w.ended:
					return
				default:
				}
				if sent == 50*atOnce { // until the daemon wants more of it than the first 64 KiB
					w.awaitAll(ctx)
				}
				if _, err := w.Write(many); err != nil {
					return
				}
			}
			w.awaitAll(ctx)
		})
	}
}

// frameOf returns a frame as it is sent.
func frameOf(kind http2.FrameType, flags http2.Flags, stream uint32, payload []byte) []byte {
	n := len(payload)
	frame := []byte{byte(n >> 16), byte(n >> 8), byte(n), byte(kind), byte(flags)}
	return append(binary.BigEndian.AppendUint32(frame, stream), payload...)
}
