package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/config"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// eventually waits until a metric is what it has to be.
func (d *daemon) eventually(t *testing.T, what string, is func(float64) bool, name string, labels ...string) {
	t.Helper()
	deadline := time.Now().Add(patient)
	for !is(d.metric(t, name, labels...)) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s is %v", what, name, d.metric(t, name, labels...))
		}
		time.Sleep(time.Millisecond)
	}
}

func isNothing(n float64) bool { return n == 0 }
func isOne(n float64) bool     { return n == 1 }

// A frameClient makes calls frame by frame, and notes how they end.
type frameClient struct {
	*http2.Framer
	net.Conn
	next uint32

	mu    sync.Mutex // protects the following
	reset map[uint32]http2.ErrCode
	gone  bool
}

// dialFrames connects to d with settings of HTTP/2.
func dialFrames(t *testing.T, d *daemon, secure *tls.Config, settings ...http2.Setting) *frameClient {
	t.Helper()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", d.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		secure.NextProtos, secure.ServerName = []string{"h2"}, "127.0.0.1"
		raw = tls.Client(raw, secure)
	}
	c := &frameClient{Framer: http2.NewFramer(raw, raw), Conn: raw, next: 1, reset: map[uint32]http2.ErrCode{}}
	t.Cleanup(func() { _ = raw.Close() })
	if _, err := io.WriteString(raw, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			f, err := c.ReadFrame()
			c.mu.Lock()
			if r, ok := f.(*http2.RSTStreamFrame); ok {
				c.reset[r.StreamID] = r.ErrCode
			}
			c.gone = err != nil
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c
}

// begin begins a call, and sends the first bytes of what it has to say.
func (c *frameClient) begin(t *testing.T, method string, said []byte) (id uint32) {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "a"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	id, c.next = c.next, c.next+2
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteDataPadded(id, false, said, make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	return id
}

// ended waits until a call is reset, and returns the code.
func (c *frameClient) ended(t *testing.T, id uint32) http2.ErrCode {
	t.Helper()
	for deadline := time.Now().Add(patient); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		c.mu.Lock()
		code, ok := c.reset[id]
		c.mu.Unlock()
		if ok {
			return code
		}
	}
	t.Fatalf("call %d goes on", id)
	return 0
}

// framed returns the beginning of a message of n bytes.
func framed(n int, begin []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(n)), begin...) //nolint:gosec // of a test
}

const (
	batchMethod  = ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName
	streamMethod = ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName
)

// TestBytesInFlight has connections hold as much as there is, with and without TLS: what
// ends is theirs, others are answered, and at the end nothing is held.
func TestBytesInFlight(t *testing.T) {
	authority := authtest.NewAuthority(t, "servers")
	for name, o := range map[string]Options{
		"plain": {},
		"tls":   {Trust: Trust{GRPC: true, TLS: pairOf(t, authority.Issue(t, "127.0.0.1"), authority, 0)}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Bounds = bounds(func(b *config.Bounds) { b.BytesInFlight, b.MessageBytes = 1<<20, 512<<10 })
			d := start(t, o)
			var secure *tls.Config
			if o.Trust.GRPC {
				secure = authority.Client(t, nil)
			}
			first, second := dialFrames(t, d, secure), dialFrames(t, d, secure)
			// Two messages of 400 KB fit, and a third does not: the one who asks for it has
			// most.
			one := first.begin(t, batchMethod, framed(400_000, []byte("\x0a")))
			first.begin(t, batchMethod, framed(400_000, []byte("\x0a")))
			three := first.begin(t, batchMethod, framed(400_000, []byte("\x0a")))
			if code := first.ended(t, three); code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("the third message: %v", code)
			}
			// Another connection that asks for less than the first holds gets it. The first
			// reads nothing more by then: it waits for its client.
			other := second.begin(t, batchMethod, framed(300_000, []byte("\x0a")))
			d.eventually(t, "a call of the first connection", func(n float64) bool { return n == 2 }, "ratelimitd_in_flight_shed_total")
			second.mu.Lock()
			if code, ok := second.reset[other]; ok {
				t.Errorf("the smaller one is reset: %v", code)
			}
			second.mu.Unlock()
			if code := first.ended(t, one+2); code != http2.ErrCodeEnhanceYourCalm {
				t.Errorf("the newer one of the larger ones: %v", code)
			}
			conn := d.conn
			if secure != nil {
				var err error
				if conn, err = grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(authority.Client(t, nil)))); err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			client := ratelimitv1.NewRateLimitServiceClient(conn)
			for range 100 {
				if _, err := client.ShouldAllow(t.Context(), ask("alice", limit("1000/h"))); err != nil {
					t.Fatal(err)
				}
			}
			// A client of gRPC knows what has happened.
			_, err := client.ShouldAllowBatch(t.Context(), &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{{Namespace: strings.Repeat("x", 500_000)}}})
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("a large message: %v, want RESOURCE_EXHAUSTED", err)
			}
			_, _ = first.Close(), second.Close()
			d.eventually(t, "when all is over", isNothing, "ratelimitd_in_flight_bytes")
		})
	}
}

// TestManyCallsInFlight has one connection begin calls that say nothing.
func TestManyCallsInFlight(t *testing.T) {
	d := start(t, Options{Bounds: bounds(func(b *config.Bounds) { b.BytesInFlight = 1 << 20 })})
	greedy := dialFrames(t, d, nil)
	for range 200 {
		greedy.begin(t, streamMethod, nil)
	}
	greedy.ended(t, greedy.next-2)
	if _, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("1000/h"))); err != nil {
		t.Error(err)
	}
	if n := d.metric(t, "ratelimitd_in_flight_bytes"); n > 1<<20 {
		t.Errorf("%v bytes are held", n)
	}
}

// TestStuckConnection stops in the middle of a frame, so that no call of the connection
// can be ended alone.
func TestStuckConnection(t *testing.T) {
	d := start(t, Options{Bounds: bounds(func(b *config.Bounds) { b.BytesInFlight = 1 << 20 })})
	stuck := dialFrames(t, d, nil)
	id := stuck.begin(t, batchMethod, framed(900_000, nil))
	if err := stuck.WriteRawFrame(http2.FrameData, 0, id, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := stuck.Write([]byte{0, 16, 0, 0, 0, 0, 0, 0}); err != nil { // not the last byte
		t.Fatal(err)
	}
	d.eventually(t, "the message", func(n float64) bool { return n > 900_000 }, "ratelimitd_in_flight_bytes")
	dialFrames(t, d, nil).begin(t, batchMethod, framed(500_000, nil))
	deadline := time.Now().Add(patient)
	for gone := false; !gone; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the connection stays")
		}
		stuck.mu.Lock()
		gone = stuck.gone
		stuck.mu.Unlock()
	}
}

// TestLateCalls waits for what clients do not send, and do not read.
func TestLateCalls(t *testing.T) {
	d := start(t, Options{Bounds: bounds(func(b *config.Bounds) { b.MessageTimeout = 200 * time.Millisecond })})
	in := &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{ask("alice", limit("1000/h"))}}
	whole, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	message := framed(len(whole), whole)

	// The first message of a unary call, which gRPC ends with its deadline.
	unary := dialFrames(t, d, nil)
	unary.begin(t, batchMethod, message[:len(message)-1])
	d.eventually(t, "a unary call", isOne, "ratelimitd_calls_late_total", "wait=message")

	// The second message of a stream.
	half := dialFrames(t, d, nil)
	id := half.begin(t, streamMethod, append(bytes.Clone(message), message[:9]...))
	if code := half.ended(t, id); code != http2.ErrCodeCancel {
		t.Errorf("half a message: %v", code)
	}
	d.eventually(t, "a stream", func(n float64) bool { return n == 2 }, "ratelimitd_calls_late_total", "wait=message")

	// A reply that has no window to be sent in.
	for method, end := range map[string]bool{streamMethod: false, batchMethod: true} {
		before := d.metric(t, "ratelimitd_calls_late_total", "wait=reply")
		deaf := dialFrames(t, d, nil, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		id = deaf.begin(t, method, message)
		if end {
			if err := deaf.WriteData(id, true, nil); err != nil {
				t.Fatal(err)
			}
		}
		if code := deaf.ended(t, id); code != http2.ErrCodeCancel {
			t.Errorf("%s: a reply that is not read: %v", method, code)
		}
		if after := d.metric(t, "ratelimitd_calls_late_total", "wait=reply"); after != before+1 {
			t.Errorf("%s: %v replies are counted as late, want one", method, after-before)
		}
	}

	// An idle stream stays, as long as it likes, and what it has said is not held.
	stream, err := d.client.ShouldAllowStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := stream.Send(in); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond) // longer than a message may take
	}
	if n := d.metric(t, "ratelimitd_in_flight_bytes"); n < 16<<10 || n > 20<<10 {
		t.Errorf("an idle stream holds %v bytes", n)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF { //nolint:errorlint // as it is documented
		t.Error(err)
	}
	d.eventually(t, "when all is over", isNothing, "ratelimitd_in_flight_bytes")
}

// TestBodiesInFlight has requests over HTTP hold their bodies: the largest one ends for
// a smaller one.
func TestBodiesInFlight(t *testing.T) {
	d := start(t, Options{Bounds: bounds(func(b *config.Bounds) { b.BytesInFlight = 128 << 10 })})
	slow := func(path string, bytes int) (answer chan int, end func()) {
		answer = make(chan int, 1)
		body, write := io.Pipe()
		t.Cleanup(func() { _ = write.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		t.Cleanup(cancel)
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.HTTPAddr()+path, body)
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = int64(bytes)
		go func() {
			reply, err := http.DefaultClient.Do(r)
			if err != nil {
				answer <- -1
				return
			}
			_ = reply.Body.Close()
			answer <- reply.StatusCode
		}()
		return answer, func() { _ = write.CloseWithError(io.ErrUnexpectedEOF) }
	}
	first, _ := slow("/json", 100_000)
	d.eventually(t, "the first body", func(n float64) bool { return n == 100_000 }, "ratelimitd_in_flight_bytes")
	larger, _ := slow("/json", 200_000)
	if code := <-larger; code != http.StatusServiceUnavailable {
		t.Errorf("a body for which there is no room: %d, want 503", code)
	}
	smaller, end := slow("/v1/should-allow", 60_000)
	if code := <-first; code != http.StatusServiceUnavailable {
		t.Errorf("the larger one of two: %d, want 503", code)
	}
	if code, text := request(t, http.MethodPost, d, "/v1/should-allow", `{"namespace":"n","identifier":"i","limits":[{"rate":"5/h"}]}`); code != http.StatusOK {
		t.Errorf("a small one: %d %s", code, text)
	}
	end()
	<-smaller
	if n := d.metric(t, "ratelimitd_in_flight_shed_total"); n != 2 {
		t.Errorf("%v are counted, want 2", n)
	}
	d.eventually(t, "when all is over", isNothing, "ratelimitd_in_flight_bytes")
}
