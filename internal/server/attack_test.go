package server

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/config"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// What one caller can send to take all memory, or to hold up the rest.

// allocated returns how many bytes were allocated, in all goroutines, while f ran.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestSmallMessagesStaySmall sends messages of empty elements, each of which
// takes two or three bytes and could take a hundred times that. The client's own
// share is in what is allocated.
func TestSmallMessagesStaySmall(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge)})
	const size = 2 << 20
	repeated := func(element string) []byte { return []byte(strings.Repeat(element, size/len(element))) }
	for name, attack := range map[string]struct {
		method  string
		message []byte
		want    codes.Code
	}{
		"requests":    {ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName, repeated("\x0a\x00"), codes.InvalidArgument},
		"limits":      {ratelimitv1.RateLimitService_ShouldAllow_FullMethodName, repeated("\x1a\x00"), codes.InvalidArgument},
		"of a reset":  {ratelimitv1.RateLimitService_Reset_FullMethodName, repeated("\x1a\x00"), codes.InvalidArgument},
		"descriptors": {rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, append([]byte("\x0a\x04edge"), repeated("\x12\x00")...), codes.InvalidArgument},
		"entries":     {rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, append([]byte("\x0a\x04edge\x12\x80\x80\x80\x01"), repeated("\x0a\x00")...), codes.InvalidArgument},
	} {
		var reply []byte
		var err error
		bytes := allocated(func() {
			err = d.conn.Invoke(t.Context(), attack.method, attack.message, &reply, grpc.ForceCodec(rawCodec{}))
		})
		if status.Code(err) != attack.want || bytes > 12*size {
			t.Errorf("%s: %v, and %d bytes on the wire take %d; want %s, and at most %d", name, err, size, bytes, attack.want, 12*size)
		}
	}
	for path, body := range map[string]string{
		"/v1/should-allow": `{"namespace":"n","identifier":"i","limits":[{}` + strings.Repeat(",{}", 20_000) + `]}`,
		"/json":            `{"domain":"edge","descriptors":[{}` + strings.Repeat(",{}", 300_000) + `]}`,
	} {
		var code int
		bytes := allocated(func() { code, _ = request(t, http.MethodPost, d, path, body) })
		if code < 400 || code > 499 || bytes > uint64(12*len(body)) {
			t.Errorf("%s: %d, and %d bytes take %d", path, code, len(body), bytes)
		}
	}
}

// TestNoCompression sends a message that a few kilobytes of gzip are.
func TestNoCompression(t *testing.T) {
	d := start(t, Options{})
	message := bytes.Repeat([]byte("\x0a\x00"), 3<<20)
	var reply []byte
	err := d.conn.Invoke(t.Context(), ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName, message, &reply, grpc.ForceCodec(rawCodec{}), grpc.UseCompressor(gzip.Name))
	if err == nil || !strings.Contains(err.Error(), "no compressed messages") {
		t.Errorf("%v, want it refused", err)
	}
}

// TestConnectionsAreBounded begins more calls on one connection than it may
// have, and sends more headers: other connections are answered all the while.
func TestConnectionsAreBounded(t *testing.T) {
	d := start(t, Options{})
	greedy, err := grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = greedy.Close() }()
	client := ratelimitv1.NewRateLimitServiceClient(greedy)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range config.DefaultBounds().Streams {
		if _, err := client.ShouldAllowStream(ctx); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	// The client knows the bound once the server has said it, and then waits.
	late, stop := context.WithTimeout(ctx, 100*time.Millisecond)
	defer stop()
	if _, err := client.ShouldAllow(late, ask("alice", limit("1/h"))); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one call more on the same connection: %v, want it to wait", err)
	}
	if _, err := d.client.ShouldAllow(t.Context(), ask("alice", limit("1/h"))); err != nil {
		t.Errorf("another connection: %v", err)
	}
	cancel()

	var many []string
	for i := range 40 {
		many = append(many, fmt.Sprintf("x-%d", i), strings.Repeat("y", 1000))
	}
	long := metadata.AppendToOutgoingContext(t.Context(), many...)
	if _, err := d.client.ShouldAllow(long, ask("alice", limit("1/h"))); err == nil {
		t.Error("40 KB of headers are taken, want them refused")
	}
	if _, err := d.client.ShouldAllow(t.Context(), ask("bob", limit("1/h"))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestBytesInDescriptors has clients of Envoy send bytes that are not UTF-8 in
// the header that they are limited by: each is held to its own limit.
func TestBytesInDescriptors(t *testing.T) {
	d := start(t, Options{Config: envoyConfig(t, edge)})
	for _, value := range []string{"\xff", "\xfe", "\xff\xfe"} {
		message := []byte("\x0a\x04edge\x12" + string(rune(len(value)+10)) + "\x0a" + string(rune(len(value)+8)) + "\x0a\x04user\x12" + string(rune(len(value))) + value)
		for i := range 5 {
			var reply []byte
			if err := d.conn.Invoke(t.Context(), rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, message, &reply, grpc.ForceCodec(rawCodec{})); err != nil {
				t.Fatalf("%q: %v", value, err)
			}
			over := bytes.HasPrefix(reply, []byte{0x08, byte(rlsv3.RateLimitResponse_OVER_LIMIT)})
			if over != (i >= 3) {
				t.Errorf("%q, call %d: over the limit is %t; it is 3 a day", value, i, over)
			}
		}
	}
}

// TestEnvoyExemptions has a domain of Envoy with exemptions of its namespace.
func TestEnvoyExemptions(t *testing.T) {
	c := envoyConfig(t, edge)
	c.Policies = policyConfig(t, `edge: {exempt: ["user=staff-*"]}`).Policies
	d := start(t, Options{Config: c})
	client := rlsv3.NewRateLimitServiceClient(d.conn)
	for i := range 5 {
		for user, exempt := range map[string]bool{"staff-1": true, "alice": false} {
			out, err := client.ShouldRateLimit(t.Context(), envoyAsk(0, "user="+user))
			if err != nil {
				t.Fatal(err)
			}
			if over := out.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT; over != (!exempt && i >= 3) {
				t.Errorf("%s, call %d: %s", user, i, shown(out))
			}
		}
	}
	if n := d.metric(t, "ratelimitd_decisions_total", "namespace=edge", "outcome=exempt"); n != 5 {
		t.Errorf("%v are counted as exempt, want 5", n)
	}
}
