package attack

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// raw sends bytes as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil }
func (raw) Name() string                       { return "proto" }

// The methods that take messages.
const (
	unary = ratelimitv1.RateLimitService_ShouldAllow_FullMethodName
	batch = ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName
	reset = ratelimitv1.RateLimitService_Reset_FullMethodName
	many  = ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName
	envoy = rlsv3.RateLimitService_ShouldRateLimit_FullMethodName
)

// mostBytes is the largest message that the daemon takes.
const mostBytes = 8 << 20

// messageAttacks send messages that cost the daemon more than they cost the sender.
func messageAttacks() []attack {
	elements := func(element string, bytes int) []byte {
		return []byte(strings.Repeat(element, bytes/len(element)))
	}
	return []attack{
		{name: "empty requests in a batch", do: sends(batch, func() []byte { return elements("\x0a\x00", mostBytes) })},
		{name: "empty limits", do: sends(unary, func() []byte { return elements("\x1a\x00", mostBytes) })},
		{name: "empty limits of a reset", do: sends(reset, func() []byte { return elements("\x1a\x00", mostBytes) })},
		{name: "empty descriptors", do: sends(envoy, func() []byte { return append([]byte("\x0a\x04edge"), elements("\x12\x00", mostBytes-6)...) })},
		{name: "empty entries", do: sends(envoy, func() []byte {
			return append([]byte("\x0a\x04edge\x12\xf0\xff\xff\x03"), elements("\x0a\x00", mostBytes-16)...)
		})},
		{name: "unknown fields", do: sends(unary, func() []byte { return elements("\xf8\x07\x01", mostBytes) })},
		{name: "deep groups", do: sends(unary, func() []byte { return elements("\xfb\x07", mostBytes) })},
		{name: "gzip", do: sends(batch, func() []byte { return elements("\x0a\x00", 3<<20) }, grpc.UseCompressor(gzip.Name))},
		{name: "JSON: empty limits", do: posts("/v1/should-allow", func() string {
			return `{"namespace":"n","identifier":"i","limits":[{}` + strings.Repeat(",{}", 300_000) + `]}`
		})},
		{name: "JSON: empty descriptors", do: posts("/json", func() string {
			return `{"domain":"edge","descriptors":[{}` + strings.Repeat(",{}", 300_000) + `]}`
		})},
		{name: "JSON: deep", do: posts("/v1/should-allow", func() string {
			return strings.Repeat(`{"limits":[`, 90_000)
		})},
		{name: "JSON: deep descriptors", do: posts("/json", func() string {
			return `{"descriptors":` + strings.Repeat("[", 1_000_000)
		})},
		{name: "JSON: escapes and repetition", do: posts("/v1/should-allow", func() string {
			return `{"namespace":"` + strings.Repeat(`\u0041`, 90_000) + `"` + strings.Repeat(`,"identifier":"x"`, 20_000) + `}`
		})},
		{name: "bytes that are nothing", do: nonsense},
	}
}

// sends has several callers send one message again and again. No answer may be OK.
func sends(method string, message func() []byte, options ...grpc.CallOption) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		text := message()
		callers := size(2, 8)
		conns := make([]*grpc.ClientConn, callers)
		for i := range conns {
			conns[i] = d.dial(t)
		}
		together(ctx, callers, size(6, 200), func(i int) {
			var reply []byte
			err := conns[i%callers].Invoke(ctx, method, text, &reply, append(options, grpc.ForceCodec(raw{}), grpc.WaitForReady(true))...)
			if code := status.Code(err); code == codes.OK || code == codes.Unavailable {
				t.Errorf("the answer is %v, want the message refused", err)
			}
		})
	}
}

// posts has several callers post one body again and again. Each answer must be a 4xx; or 503,
// if others of them are being read already.
func posts(path string, body func() string) func(context.Context, *testing.T, *daemon) {
	return func(ctx context.Context, t *testing.T, d *daemon) {
		text := body()
		together(ctx, size(10, 50), size(50, 2000), func(int) {
			code, _, err := ask(ctx, d, http.MethodPost, path, text)
			if err != nil || (code < 400 || code > 499) && code != http.StatusServiceUnavailable {
				t.Errorf("the answer is %d, %v, want the body refused", code, err)
			}
		})
	}
}

// ask makes one HTTP request, and returns the status and the body of the answer.
func ask(ctx context.Context, d *daemon, method, path, body string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+d.HTTP+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

// nonsense sends what no port expects to each of them.
func nonsense(ctx context.Context, t *testing.T, d *daemon) {
	random := make([]byte, 64<<10)
	_, _ = rand.Read(random)
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	all := [][]byte{
		random, preface, append(bytes.Clone(preface), random...), bytes.Repeat([]byte{0}, 64<<10),
		[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), // the beginning of TLS
		[]byte("GET /healthz HTTP/1.1\r\n\r\n"), []byte("GET /metrics HTTP/1.0\r\n\r\n"), []byte("\xff\xfeG\x00E\x00T\x00"),
		[]byte("POST /v1/should-allow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"),
		[]byte("POST /v1/should-allow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n" + strings.Repeat("x", 1000)),
		[]byte("POST /v1/should-allow HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999\r\n\r\n\xff\xfe{\x00}\x00"),
		[]byte("GET /v1/authorize?" + strings.Repeat("limit=1/s&", 5000) + " HTTP/1.1\r\nHost: a\r\n\r\n"),
		[]byte("GET /v1/authorize?namespace=%ff%00&identifier=%zz HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\n"),
	}
	ports := []string{d.GRPC, d.HTTP, d.Admin, d.RESP}
	together(ctx, size(8, 32), size(1, 20)*len(all)*len(ports), func(i int) {
		c, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "tcp", ports[i%len(ports)])
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = c.Write(all[i/len(ports)%len(all)])
		_, _ = io.Copy(io.Discard, c)
	})
	conn := d.dial(t)
	together(ctx, size(4, 16), size(200, 20_000), func(i int) {
		from := i % (len(random) - 600)
		var reply []byte
		method := []string{unary, batch, reset, envoy}[i%4]
		if err := conn.Invoke(ctx, method, random[from:from+i%600], &reply, grpc.ForceCodec(raw{})); status.Code(err) == codes.Internal || status.Code(err) == codes.Unavailable {
			t.Errorf("%s: %v", method, err)
		}
		text := string(random[from : from+i%600])
		if code, _, err := ask(ctx, d, http.MethodPost, []string{"/v1/should-allow", "/json"}[i%2], text); err != nil || code > 499 {
			t.Errorf("%d, %v", code, err)
		}
		if code, body, err := ask(ctx, d, http.MethodPost, "/v1/should-allow", fmt.Sprintf(`{"namespace":%q,"identifier":%q}`, text, text)); err != nil || code > 499 || len(body) > 10_000 {
			t.Errorf("%d with %d bytes, %v", code, len(body), err)
		}
	})
}
