package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ratelimitd/ratelimitd/internal/server/httpapi"
	"github.com/ratelimitd/ratelimitd/internal/server/respapi"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// fuzzed are the ways to ask: methods of gRPC, paths of HTTP, and the protocol of Redis.
var fuzzed = []string{
	ratelimitv1.RateLimitService_ShouldAllow_FullMethodName, ratelimitv1.RateLimitService_ShouldAllowBatch_FullMethodName,
	ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName, ratelimitv1.RateLimitService_Reset_FullMethodName,
	ratelimitv1.RateLimitService_Reserve_FullMethodName, ratelimitv1.RateLimitService_Commit_FullMethodName, ratelimitv1.RateLimitService_Cancel_FullMethodName,
	rlsv3.RateLimitService_ShouldRateLimit_FullMethodName, "/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	respapi.Method, httpapi.PathShouldAllow, "/v1/reset", "/v1/reserve", "/v1/commit", "/v1/cancel", "/json", httpapi.PathAuthorize, "/",
}

// FuzzCall sends bytes to a whole server, in each way. It always answers, nothing
// panics, and the counter of somebody else stays as it is.
func FuzzCall(f *testing.F) {
	c := policyConfig(f, "checkout: {policies: {gold: {limits: [{name: a, rate: 5/s, strategy: token_bucket}]}}}")
	c.Envoy = envoyConfig(f, edge).Envoy
	d := startRESP(f, Options{Config: c})
	seed := func(m proto.Message) {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		text, err := protojson.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for way := range fuzzed {
			f.Add(byte(way), data)
			f.Add(byte(way), text)
		}
	}
	one := ask("alice", limit("5/s"), &ratelimitv1.Limit{Rate: "2 per 5 seconds", Strategy: ratelimitv1.Strategy_GCRA, Burst: 3, Name: "a"})
	seed(one)
	seed(&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{one, askPolicy("bob", "gold"), {}}})
	seed(&ratelimitv1.ResetRequest{Namespace: "checkout", Identifier: "alice", Policy: "gold"})
	charged := proto.CloneOf(one)
	charged.Mode, charged.Limits[0].MaxDebt = ratelimitv1.Mode_CHARGE, new(uint64(3))
	refunded := proto.CloneOf(charged)
	refunded.Mode, refunded.ConsumedAt = ratelimitv1.Mode_REFUND, timestamppb.Now()
	seed(&ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{charged, refunded}})
	reserved, err := d.client.Reserve(context.Background(), &ratelimitv1.ReserveRequest{Request: one})
	if err != nil {
		f.Fatal(err)
	}
	seed(&ratelimitv1.ReserveRequest{Request: one})
	seed(&ratelimitv1.CommitRequest{Reservation: reserved.GetReservation(), Actual: 2})
	seed(envoyAsk(1, "user=alice", "plan=gold"))
	f.Add(byte(len(fuzzed)-2), []byte("namespace=checkout&identifier=alice&rate=5/s&cost=2&identifier_from=client_ip"))
	f.Add(byte(len(fuzzed)-1), []byte("metrics"))
	for _, text := range []string{
		"*4\r\n$8\r\nRL.ALLOW\r\n$8\r\ncheckout\r\n$5\r\nalice\r\n$3\r\n5/s\r\n*1\r\n$4\r\nPING\r\n", "*1\r\n$9223372036854775807\r\n",
		"RL.ALLOW checkout alice 5/s BURST 3 NAME a STRATEGY gcra LIMIT 2/h COST 2 MODE refund DRY CONSUMED_AT 5\r\nRL.POLICY checkout gold bob\r\n",
		"HELLO 3 AUTH a b SETNAME c\r\nRL.RESERVE checkout alice 5/s\r\nRL.COMMIT AAAA 5\r\nRL.CANCEL AAAA\r\nRL.RESET checkout alice POLICY gold\r\n",
		"HELLO 3\r\nCL.THROTTLE a 15 30 60 -1\r\nTHROTTLE a 10 100 60\r\nCOMMAND INFO x\r\nCLIENT ID\r\nINFO\r\nSELECT 0\r\nRESET\r\nQUIT\r\n",
	} {
		f.Add(byte(slices.Index(fuzzed, respapi.Method)), []byte(text))
	}

	innocent := ask("innocent, and with a name that nobody guesses: 6f1a0a0c", &ratelimitv1.Limit{Rate: "7/366d", Name: "own"})
	before, err := d.client.ShouldAllow(context.Background(), innocent)
	if err != nil {
		f.Fatal(err)
	}
	innocent.Cost = new(uint64) // from now on it only looks
	f.Fuzz(func(t *testing.T, way byte, data []byte) {
		how := fuzzed[int(way)%len(fuzzed)]
		switch {
		case how == respapi.Method:
			fuzzRESP(t, d, data)
		case strings.Count(how, "/") == 2 && !strings.HasPrefix(how, "/v1/"):
			fuzzGRPC(t, d, how, data)
		default:
			fuzzHTTP(t, d, how, data)
		}
		if n := d.book.Panics.Load(); n > 0 {
			t.Fatalf("%s panics", how)
		}
		after, err := d.client.ShouldAllow(t.Context(), innocent)
		if err != nil || after.GetStatuses()[0].GetRemaining() != before.GetStatuses()[0].GetRemaining() {
			t.Fatalf("the counter of somebody else is %v, %v; want %v", after, err, before)
		}
	})
}

func fuzzGRPC(t *testing.T, d *daemon, method string, data []byte) {
	t.Helper()
	stream, err := d.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(rawCodec{}))
	if err == nil {
		err = stream.SendMsg(data)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var reply []byte
		err = stream.RecvMsg(&reply)
	}
	if code := status.Code(err); code == codes.Internal || code == codes.Unavailable || err.Error() != "EOF" && code == codes.Unknown {
		t.Errorf("%s answers %v", method, err)
	}
}

func fuzzRESP(t *testing.T, d *daemon, data []byte) {
	t.Helper()
	conn := d.raw(t)
	defer conn.Close()
	_, err := conn.Write(data)
	if err == nil {
		err = conn.(*net.TCPConn).CloseWrite()
	}
	reply, readErr := io.ReadAll(conn)
	// It closes the connection at what is no protocol, though there is more to read.
	if err = cmp.Or(err, readErr); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ENOTCONN) {
		t.Fatal(err)
	}
	if bytes.Contains(reply, []byte("-INTERNAL")) {
		t.Errorf("%q gets %q", data, reply)
	}
}

func fuzzHTTP(t *testing.T, d *daemon, path string, data []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+d.HTTPAddr()+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if path == "/" || path == httpapi.PathAuthorize { // the bytes are in the URL
		r.Method, r.Body, r.ContentLength = http.MethodGet, http.NoBody, 0
		text := strings.Map(func(c rune) rune {
			if c <= ' ' || c > '~' {
				return -1
			}
			return c
		}, string(data))
		if r.URL.RawQuery = text; path == "/" {
			r.URL.RawQuery, r.URL.Opaque = "", "//"+d.HTTPAddr()+"/"+text
		}
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 499 {
		t.Errorf("%s answers %d", path, answer.StatusCode)
	}
}
