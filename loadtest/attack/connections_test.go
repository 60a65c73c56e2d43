package attack

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// connectionAttacks use connections as no client should.
func connectionAttacks() []attack {
	few := func(*testing.T) setup {
		return setup{flags: []string{fmt.Sprintf("--max-connections=%d", size(100, 2000))}}
	}
	return []attack{
		{name: "calls without a message", do: callsWithoutMessage},
		{name: "calls begun and cancelled", do: callsCancelled},
		{name: "header lists", do: headerLists},
		{name: "endless headers", do: endlessHeaders},
		{name: "frames without end", do: frames},
		{name: "replies not read", do: repliesNotRead},
		{name: "slow headers", do: slow([]string{
			"POST /v1/should-allow HTTP/1.1\r\nHost: a\r\nX: ", http2.ClientPreface, http2.ClientPreface[:10],
			http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x3e\x80\x01\x04\x00\x00\x00\x01", // of 16,000 bytes
		})},
		{name: "slow bodies", do: slow([]string{"POST /v1/should-allow HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", "POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"})},
		{name: "slow messages", do: slowMessages},
		{name: "idle connections", do: idle(size(400, 8000), "127.0.0.1")},
		{name: "more connections than allowed", prepare: few, do: idle(size(400, 6000), "127.0.0.1")},
		{name: "connections of one address", prepare: func(*testing.T) setup {
			return setup{flags: []string{"--max-connections=1000", "--max-connections-per-address=50"}}
		}, do: idle(size(400, 6000), "127.0.0.2")},
		{name: "no file descriptors", prepare: func(*testing.T) setup { return setup{files: 64} }, do: idle(size(400, 4000), "127.0.0.1")},
		{name: "half handshakes", prepare: withTLS, do: halfHandshakes},
	}
}

// A wire is an HTTP/2 connection that keeps to no rule.
type wire struct {
	net.Conn
	*http2.Framer
	block   bytes.Buffer // of headers
	encoder *hpack.Encoder
	next    uint32 // stream
	flips   int    // of its settings
	// answered gets what the daemon answers to a ping, and is closed when it says nothing
	// more. ended is closed when it ends a call.
	answered, ended chan struct{}
}

// connectWire connects to the gRPC port, and reads what it says.
func connectWire(ctx context.Context, d *daemon, settings ...http2.Setting) (*wire, error) {
	c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", d.GRPC)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c, Framer: http2.NewFramer(c, nil), next: 1, answered: make(chan struct{}, 1), ended: make(chan struct{})}
	w.encoder = hpack.NewEncoder(&w.block)
	_ = c.SetDeadline(time.Now().Add(longest))
	go w.listen(c)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, err
	}
	return w, w.WriteSettings(settings...)
}

// listen reads what the daemon says.
func (w *wire) listen(c io.Reader) {
	defer close(w.answered)
	in, ended := http2.NewFramer(nil, c), false
	for {
		switch f, err := in.ReadFrame(); f := f.(type) {
		case *http2.PingFrame:
			if f.IsAck() {
				select {
				case w.answered <- struct{}{}:
				default: // nobody waits for it
				}
			}
		case *http2.RSTStreamFrame:
			if !ended {
				ended = true
				close(w.ended)
			}
		case nil:
			if err != nil {
				return
			}
		}
	}
}

// awaitAll waits until the daemon has read all that was sent, or ends the connection.
func (w *wire) awaitAll(ctx context.Context) {
	if w.WritePing(false, [8]byte{}) != nil {
		return
	}
	select {
	case <-w.answered:
	case <-ctx.Done():
	}
}

// headers returns those of a call, compressed.
func (w *wire) headers(method string, more ...hpack.HeaderField) []byte {
	w.block.Reset()
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method}, {Name: ":authority", Value: "a"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more...) {
		_ = w.encoder.WriteField(f)
	}
	return w.block.Bytes()
}

// begin begins a call without its message.
func (w *wire) begin(method string) (id uint32, err error) { return w.beginWith(method) }

// beginWith is begin with more headers.
func (w *wire) beginWith(method string, more ...hpack.HeaderField) (id uint32, err error) {
	id, w.next = w.next, w.next+2
	return id, w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.headers(method, more...), EndHeaders: true})
}

// often says how often something is done, on how many connections.
type often struct{ connections, times int }

// untilRefused runs step so often, or until the daemon ends the connection.
func untilRefused(ctx context.Context, t *testing.T, d *daemon, how often, step func(w *wire) error) {
	together(ctx, how.connections, how.connections, func(int) {
		w, err := connectWire(ctx, d)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		for range how.times {
			if step(w) != nil || ctx.Err() != nil {
				return
			}
		}
	})
}

func callsWithoutMessage(ctx context.Context, t *testing.T, d *daemon) {
	for range size(1, 4) {
		untilRefused(ctx, t, d, often{1, 100_000}, func(w *wire) error {
			_, err := w.begin(many)
			return err
		})
	}
}

func callsCancelled(ctx context.Context, t *testing.T, d *daemon) {
	untilRefused(ctx, t, d, often{size(1, 8), size(10_000, 100_000)}, func(w *wire) error {
		id, err := w.begin(unary)
		if err != nil {
			return err
		}
		return w.WriteRSTStream(id, http2.ErrCodeCancel)
	})
}

// headerLists sends long headers once, and then refers to them with a byte each.
func headerLists(ctx context.Context, t *testing.T, d *daemon) {
	untilRefused(ctx, t, d, often{size(2, 10), 20}, func(w *wire) error {
		block := bytes.Clone(w.headers(many, hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 3900)}))
		const newest = 0x80 | 62 // in the table of headers
		block = append(block, bytes.Repeat([]byte{newest}, 15_000)...)
		id := w.next
		w.next += 2
		return w.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
	})
}

// endlessHeaders sends headers in one piece after the other, and no last one.
func endlessHeaders(ctx context.Context, t *testing.T, d *daemon) {
	untilRefused(ctx, t, d, often{size(2, 10), size(1000, 10_000)}, func(w *wire) error {
		if w.next == 1 {
			w.next = 3
			return w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.headers(many)})
		}
		w.block.Reset()
		_ = w.encoder.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 10_000), Sensitive: true})
		return w.WriteContinuation(1, false, w.block.Bytes())
	})
}

// frames sends frames that need an answer, or none, and no call.
func frames(ctx context.Context, t *testing.T, d *daemon) {
	untilRefused(ctx, t, d, often{size(2, 8), size(2000, 50_000)}, func(w *wire) error { return w.WritePing(false, [8]byte{}) })
	untilRefused(ctx, t, d, often{size(2, 8), size(2000, 50_000)}, func(w *wire) error {
		return w.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 30})
	})
	untilRefused(ctx, t, d, often{size(2, 8), size(2000, 50_000)}, func(w *wire) error {
		if w.next == 1 {
			if _, err := w.begin(many); err != nil {
				return err
			}
		}
		return w.WriteData(1, false, nil)
	})
	untilRefused(ctx, t, d, often{size(2, 8), size(2000, 50_000)}, func(w *wire) error { return w.WriteWindowUpdate(0, 1) })
}

// repliesNotRead has streams ask for large answers, and does not read them.
func repliesNotRead(ctx context.Context, t *testing.T, d *daemon) {
	in := &ratelimitv1.ShouldAllowBatchRequest{}
	for i := range 1000 {
		in.Requests = append(in.Requests, &ratelimitv1.ShouldAllowRequest{
			Namespace: "greedy", Identifier: fmt.Sprint(i), Limits: []*ratelimitv1.Limit{{Rate: "1/h", Name: strings.Repeat("x", 100)}},
		})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var streaming sync.WaitGroup
	for range size(1, 4) {
		client := ratelimitv1.NewRateLimitServiceClient(d.dial(t, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)))
		for range 30 {
			stream, err := client.ShouldAllowStream(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			streaming.Go(func() {
				for range 50 {
					if stream.Send(in) != nil {
						return
					}
				}
			})
		}
	}
	pause(ctx, time.Duration(size(1, 10))*time.Second)
	cancel()
	streaming.Wait()
}

// A crowd is connections from one address, to each of some ports in turn.
type crowd struct {
	connections int
	from        string
	ports       []string
}

// hold opens the connections of a crowd, says something on each, and then byte after
// byte, until it has done so for a while.
func hold(ctx context.Context, t *testing.T, of crowd, say func(i int) string) {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(of.from)}}
	for i := range of.connections {
		c, err := d.DialContext(ctx, "tcp", of.ports[i%len(of.ports)])
		if err != nil {
			continue // this is the daemon's right
		}
		open = append(open, c)
		_, _ = io.WriteString(c, say(i))
	}
	if len(open) < of.connections/2 {
		t.Errorf("%d of %d connections are open", len(open), of.connections)
	}
	for tick, rounds := time.NewTicker(200*time.Millisecond), size(5, 40); rounds > 0 && ctx.Err() == nil; rounds-- {
		<-tick.C
		for _, c := range open {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = c.Write([]byte("x"))
		}
	}
}

// slow has many connections say what they have to say as slowly as they can.
func slow(beginnings []string) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		hold(ctx, t, crowd{size(300, 5000), "127.0.0.1", []string{d.HTTP, d.GRPC}}, func(i int) string { return beginnings[i/2%len(beginnings)] })
	}
}

// idle has many connections say nothing, or the beginning of a call.
func idle(connections int, from string) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		settings := []byte{0, 0, 0, byte(http2.FrameSettings), 0, 0, 0, 0, 0}
		hold(ctx, t, crowd{connections, from, []string{d.GRPC, d.HTTP, d.RESP}}, func(i int) string {
			if i%4 == 0 {
				return http2.ClientPreface + string(settings)
			}
			return ""
		})
	}
}

// slowMessages begins messages of the largest size, and sends little of each.
func slowMessages(ctx context.Context, t *testing.T, d *daemon) {
	var open []*wire
	for range size(2, 20) {
		w, err := connectWire(ctx, d)
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		open = append(open, w)
		for range 900 {
			id, err := w.begin(batch)
			if err != nil {
				break
			}
			begin := make([]byte, 5, 6)
			binary.BigEndian.PutUint32(begin[1:], mostBytes)
			if w.WriteData(id, false, append(begin, 0x0a)) != nil {
				break
			}
		}
	}
	for range size(5, 50) {
		for _, w := range open {
			for id := uint32(1); id < w.next; id += 2 {
				_ = w.WriteData(id, false, make([]byte, 10))
			}
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// withTLS starts a daemon with a certificate.
func withTLS(t *testing.T) setup {
	authority := authtest.NewAuthority(t, "servers")
	dir := t.TempDir()
	cert, key := authority.Issue(t, "127.0.0.1").Write(t, dir)
	ca := dir + "/ca.crt"
	authtest.Write(t, ca, authority.PEM)
	return setup{flags: []string{"--tls-cert=" + cert, "--tls-key=" + key}, credentials: connect.Options{CA: ca}}
}

// halfHandshakes begins handshakes and does not end them, and makes others that fail.
func halfHandshakes(ctx context.Context, t *testing.T, d *daemon) {
	together(ctx, 8, size(100, 3000), func(i int) {
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", []string{d.GRPC, d.HTTP, d.RESP}[i%3])
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}).HandshakeContext(ctx) == nil { //nolint:gosec // it is to fail
			t.Error("TLS 1.2 is accepted")
		}
	})
	hold(ctx, t, crowd{size(200, 4000), "127.0.0.1", []string{d.GRPC, d.HTTP, d.RESP}}, func(int) string {
		return "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("r", 32)
	})
}
