package attack

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// inFlightAttacks keep what the daemon holds for calls as large, and for as long, as they
// can: on many connections, each of which keeps to its own bounds.
func inFlightAttacks() []attack {
	return []attack{
		{name: "messages nearly delivered", do: nearlyDelivered(nearly{connections: size(8, 40), calls: 900, bytes: 60_000})},
		{name: "messages in awkward frames", do: nearlyDelivered(nearly{connections: size(8, 40), calls: 900, bytes: 60_000, frame: 4100})},
		{name: "large messages nearly delivered", do: nearlyDelivered(nearly{connections: size(4, 20), calls: size(12, 60), bytes: mostBytes - 100})},
		{name: "calls on many connections", do: callsOnManyConnections},
		{name: "replies that nobody may send", do: repliesWithoutWindow},
		{name: "health watched", do: watches},
		{name: "reservations", do: reservations},
	}
}

// nearly says how messages are sent but for their last byte.
type nearly struct{ connections, calls, bytes, frame int }

// nearlyDelivered sends messages but for their last byte.
func nearlyDelivered(n nearly) func(context.Context, *testing.T, *daemon) {
	const window = 60_000 // what may be sent of a message at once
	return func(ctx context.Context, t *testing.T, d *daemon) {
		text := make([]byte, cmp.Or(n.frame, 16<<10))
		var mu sync.Mutex // protects the following
		var open []*wire
		defer func() {
			for _, w := range open {
				_ = w.Close()
			}
		}()
		send := func(w *wire, id uint32, bytes int) bool {
			for bytes > 0 {
				k := min(bytes, len(text))
				if w.WriteData(id, false, text[:k]) != nil {
					return false
				}
				bytes -= k
			}
			return true
		}
		together(ctx, 4, n.connections, func(int) {
			w, err := connectWire(ctx, d)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			open = append(open, w)
			mu.Unlock()
			for range n.calls {
				id, err := w.begin(batch)
				if err != nil {
					return
				}
				length := make([]byte, 5)
				binary.BigEndian.PutUint32(length[1:], uint32(n.bytes+1)) //nolint:gosec // at most 8 MiB
				if w.WriteData(id, false, length) != nil || !send(w, id, min(n.bytes, window)) {
					return
				}
			}
			if n.bytes <= window {
				return
			}
			pause(ctx, 300*time.Millisecond) // until the daemon takes more of them
			for id := uint32(1); id < w.next; id += 2 {
				if !send(w, id, n.bytes-window) {
					return
				}
			}
		})
		pause(ctx, time.Duration(size(1, 8))*time.Second)
	}
}

// callsOnManyConnections begins as many calls as each of many connections may have.
func callsOnManyConnections(ctx context.Context, t *testing.T, d *daemon) {
	untilRefused(ctx, t, d, often{size(30, 80), 1000}, func(w *wire) error {
		_, err := w.begin(many)
		if w.next > 2*1000 {
			pause(ctx, time.Duration(size(1, 8))*time.Second)
		}
		return err
	})
}

// repliesWithoutWindow asks for large replies, and lets the daemon send no byte of them.
func repliesWithoutWindow(ctx context.Context, t *testing.T, d *daemon) {
	in := &ratelimitv1.ShouldAllowBatchRequest{}
	for i := range 1000 {
		in.Requests = append(in.Requests, &ratelimitv1.ShouldAllowRequest{
			Namespace: "greedy", Identifier: fmt.Sprint(i), Limits: []*ratelimitv1.Limit{{Rate: "1/h", Name: strings.Repeat("x", 128)}},
		})
	}
	message, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	framed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // 0.2 MB
	framed = append(framed, message...)
	together(ctx, 4, size(4, 12), func(int) {
		w, err := connectWire(ctx, d, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		for range size(400, 1000) {
			id, err := w.begin(batch)
			if err != nil {
				return
			}
			if w.WriteData(id, false, framed[:5]) != nil {
				return
			}
			pause(ctx, time.Millisecond) // the daemon takes the rest as soon as it reads
			for rest := framed[5:]; len(rest) > 0; {
				k := min(len(rest), 16<<10)
				if w.WriteData(id, k == len(rest), rest[:k]) != nil {
					return
				}
				rest = rest[k:]
			}
		}
		pause(ctx, time.Duration(size(1, 8))*time.Second)
	})
}

// watches watches the health of the daemon on as many streams as it can, and has reflection
// wait for questions.
func watches(ctx context.Context, t *testing.T, d *daemon) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	together(ctx, 8, size(8, 60), func(int) {
		conn := d.dial(t)
		health, reflection := healthpb.NewHealthClient(conn), reflectionpb.NewServerReflectionClient(conn)
		for i := range size(100, 500) {
			if i%2 == 0 {
				_, _ = health.Watch(watching, &healthpb.HealthCheckRequest{Service: fmt.Sprint(i)})
			} else {
				_, _ = reflection.ServerReflectionInfo(watching)
			}
		}
	})
	pause(ctx, time.Duration(size(1, 10))*time.Second)
}

// reservations reserves, and never says what was used.
func reservations(ctx context.Context, t *testing.T, d *daemon) {
	client := ratelimitv1.NewRateLimitServiceClient(d.dial(t))
	together(ctx, size(8, 64), size(2000, 100_000), func(i int) {
		_, err := client.Reserve(ctx, &ratelimitv1.ReserveRequest{Request: &ratelimitv1.ShouldAllowRequest{
			Namespace: "greedy", Identifier: fmt.Sprint(i / 4), Limits: []*ratelimitv1.Limit{{Rate: "10/366d"}},
		}})
		if err != nil && status.Code(err) != codes.ResourceExhausted {
			t.Errorf("reservation %d gets %v", i, err)
		}
	})
}
