package attack

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// frameAttacks cut messages into frames that cost the daemon far more than their bytes.
func frameAttacks() []attack {
	// How much comes in time depends on the machine, so here it may take all the time that
	// it needs.
	patient := func(*testing.T) setup { return setup{flags: []string{"--message-timeout=" + longest.String()}} }
	return []attack{
		{name: "messages byte by byte", prepare: patient, do: byteByByte(0)},
		{name: "messages in padding", prepare: patient, do: byteByByte(255)},
		{name: "messages and resets", do: messagesAndResets},
		{name: "deadlines", do: deadlines},
		{name: "windows", do: windows},
		{name: "headers in place of messages", do: headersAgain},
		{name: "answers that are not needed", do: answersNotNeeded},
	}
}

// framed is a request that asks for another counter than the innocent caller's, as gRPC sends it.
func framed(t *testing.T) []byte {
	t.Helper()
	message, err := proto.Marshal(&ratelimitv1.ShouldAllowRequest{Namespace: "others", Identifier: "x", Limits: []*ratelimitv1.Limit{{Rate: "1/h"}}})
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...) //nolint:gosec // it is short
}

// messagesAndResets asks, and goes away at once, so that the daemon works for nobody.
func messagesAndResets(ctx context.Context, t *testing.T, d *daemon) {
	text := framed(t)
	untilRefused(ctx, t, d, often{size(2, 8), size(5000, 100_000)}, func(w *wire) error {
		id, err := w.begin(unary)
		if err == nil {
			err = w.WriteData(id, true, text)
		}
		if err == nil {
			err = w.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		return err
	})
}

// deadlines has calls end before they begin, or never.
func deadlines(ctx context.Context, t *testing.T, d *daemon) {
	text := framed(t)
	for _, timeout := range []string{"1n", "0n", "99999999H", "-1S", "1", "999999999999n", "\x00"} {
		untilRefused(ctx, t, d, often{2, size(300, 10_000)}, func(w *wire) error {
			id, err := w.beginWith(unary, hpack.HeaderField{Name: "grpc-timeout", Value: timeout})
			if err == nil {
				err = w.WriteData(id, true, text)
			}
			return err
		})
	}
}

// windows changes what the daemon may send on a thousand calls, again and again, and lets it
// send more than there is.
func windows(ctx context.Context, t *testing.T, d *daemon) {
	text := framed(t)
	untilRefused(ctx, t, d, often{size(2, 8), size(3000, 50_000)}, func(w *wire) error {
		if w.next == 1 {
			if err := w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
				return err
			}
			for range 900 {
				id, err := w.begin(unary)
				if err == nil {
					err = w.WriteData(id, true, text)
				}
				if err != nil {
					return err
				}
			}
		}
		w.flips++
		return w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(w.flips % 2)}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 14}) //nolint:gosec // 0 or 1
	})
	for _, more := range [][]uint32{{0, 1<<31 - 1}, {1, 1<<31 - 1}} { // twice this is more than a window may be
		untilRefused(ctx, t, d, often{2, 1000}, func(w *wire) error {
			if w.next == 1 {
				if _, err := w.begin(many); err != nil {
					return err
				}
			}
			return w.WriteWindowUpdate(more[0], more[1])
		})
	}
}

// headersAgain sends headers of a call that has begun, where its message is expected.
func headersAgain(ctx context.Context, t *testing.T, d *daemon) {
	for _, end := range []bool{true, false} {
		untilRefused(ctx, t, d, often{2, size(1000, 30_000)}, func(w *wire) error {
			id, err := w.begin(batch)
			for range 3 {
				if err == nil {
					err = w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.headers(batch), EndHeaders: true, EndStream: end})
				}
			}
			return err
		})
	}
}

// answersNotNeeded makes frames that need no answer, or have no sense where they are: those
// of priorities, pushes, unknown kinds, and calls that are over.
func answersNotNeeded(ctx context.Context, t *testing.T, d *daemon) {
	for _, frame := range [][]byte{
		frameOf(http2.FramePriority, 0, 7, make([]byte, 5)), frameOf(0xaa, 0xff, 1, make([]byte, 100)), frameOf(http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, make([]byte, 8)),
		frameOf(http2.FrameRSTStream, 0, 99, make([]byte, 4)), frameOf(http2.FrameData, 0, 99, make([]byte, 10)), frameOf(http2.FrameGoAway, 0, 0, make([]byte, 8)),
		frameOf(http2.FrameData, 0, 0, []byte{1}), frameOf(http2.FrameHeaders, 0, 0, []byte{0x82}), frameOf(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 2, []byte{0x82}),
		frameOf(http2.FrameData, http2.FlagDataPadded, 1, []byte{255}), frameOf(http2.FrameContinuation, 0, 1, nil), frameOf(http2.FrameSettings, http2.FlagSettingsAck, 0, nil),
		frameOf(http2.FrameSettings, 0, 0, bytes.Repeat([]byte{0, 1, 0, 0, 0, 0}, 2000)),
	} {
		untilRefused(ctx, t, d, often{2, size(300, 30_000)}, func(w *wire) error {
			if w.next == 1 {
				if _, err := w.begin(many); err != nil {
					return err
				}
			}
			_, err := w.Write(frame)
			return err
		})
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
