package target_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// asIs is a codec of messages that somebody else encodes.
type asIs struct{}

func (asIs) Name() string { return "proto" }
func (asIs) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (asIs) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// TestPeersOverGRPC asks as other services are asked. The messages are those of their
// published definitions, byte by byte.
func TestPeersOverGRPC(t *testing.T) {
	for _, tt := range []struct {
		protocol, method, request, answer string
		want                              []target.Verdict
	}{
		{target.Throttlecrab, "/throttlecrab.RateLimiter/Throttle", "\n\x01a\x10\x05\x18\x0a\x20\x3c\x28\x02", "\x08\x01\x10\x05", []target.Verdict{target.Allowed}},
		{target.Throttlecrab, "/throttlecrab.RateLimiter/Throttle", "\n\x01a\x10\x05\x18\x0a\x20\x3c\x28\x02", "\x10\x05", []target.Verdict{target.Denied}},
		{
			target.Gubernator, "/pb.gubernator.V1/GetRateLimits", "\n\x0e\n\x01n\x12\x01a\x18\x02\x20\x0a\x28\xe0\xd4\x03" + "\n\x0e\n\x01n\x12\x01b\x18\x02\x20\x0a\x28\xe0\xd4\x03",
			"\n\x02\x10\x0a" + "\n\x04\x08\x01\x10\x0a",
			[]target.Verdict{target.Allowed, target.Denied},
		},
		{target.Gubernator, "/pb.gubernator.V1/GetRateLimits", "\n\x0e\n\x01n\x12\x01a\x18\x02\x20\x0a\x28\xe0\xd4\x03", "\n\x05\x2a\x03bad", nil},
		{target.Gubernator, "/pb.gubernator.V1/GetRateLimits", "\n\x0e\n\x01n\x12\x01a\x18\x02\x20\x0a\x28\xe0\xd4\x03", "", nil},
	} {
		var method, request string
		server := grpc.NewServer(grpc.ForceServerCodecV2(asIs{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			var in []byte
			if err := stream.RecvMsg(&in); err != nil {
				return err
			}
			method, _ = grpc.MethodFromServerStream(stream)
			request = string(in)
			out := []byte(tt.answer)
			return stream.SendMsg(&out)
		}))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = server.Serve(l) }()
		got, err := ask(t, tt.protocol, l.Addr().String(), "", max(1, len(tt.want)))
		server.Stop()
		if method != tt.method || request != tt.request {
			t.Errorf("%s asks %s %q, want %s %q", tt.protocol, method, request, tt.method, tt.request)
		}
		if (err != nil) != (tt.want == nil) || err == nil && !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q is read as %v, %v, want %v", tt.protocol, tt.answer, got, err, tt.want)
		}
	}
}

// TestPeersOverHTTP is TestPeersOverGRPC for JSON.
func TestPeersOverHTTP(t *testing.T) {
	for _, tt := range []struct {
		protocol, body, answer string
		code                   int
		want                   target.Verdict
	}{
		{target.ThrottlecrabHTTP, `{"key":"a","max_burst":5,"count_per_period":10,"period":60,"quantity":2}`, `{"allowed":true,"limit":5}`, http.StatusOK, target.Allowed},
		{target.ThrottlecrabHTTP, `{"key":"a","max_burst":5,"count_per_period":10,"period":60,"quantity":2}`, `{"allowed":false,"limit":5}`, http.StatusOK, target.Denied},
		{target.LimitadorHTTP, `{"namespace":"n","values":{"user":"a"},"delta":2}`, "null", http.StatusOK, target.Allowed},
		{target.LimitadorHTTP, `{"namespace":"n","values":{"user":"a"},"delta":2}`, "null", http.StatusTooManyRequests, target.Denied},
	} {
		var asked string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			asked = r.Method + " " + r.URL.Path + " " + string(body)
			w.WriteHeader(tt.code)
			fmt.Fprint(w, tt.answer)
		}))
		got, err := ask(t, tt.protocol, server.Listener.Addr().String(), "/path", 1)
		server.Close()
		if want := "POST /path " + tt.body; asked != want {
			t.Errorf("%s asks %s, want %s", tt.protocol, asked, want)
		}
		if err != nil || got[0] != tt.want {
			t.Errorf("%s: %d %s is read as %v, %v, want %v", tt.protocol, tt.code, tt.answer, got, err, tt.want)
		}
	}
}

// ask asks about the first n identifiers, of a, b and so on.
func ask(t *testing.T, protocol, addr, path string, n int) ([]target.Verdict, error) {
	t.Helper()
	to, err := target.Dial(t.Context(), target.Options{
		Protocol: protocol, Addr: addr, Path: path, Connections: 1, Sessions: 1, Namespace: "n", DescriptorKey: "user", Cost: 2,
		Limits: []*ratelimitv1.Limit{{Rate: "10/m", Burst: 5}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	var identifiers []string
	for i := range n {
		identifiers = append(identifiers, string(rune('a'+i)))
	}
	verdicts := make([]target.Verdict, n)
	return verdicts, to.Session().Ask(t.Context(), identifiers, verdicts)
}
