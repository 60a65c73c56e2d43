package grpclimit

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/internal/testdaemon"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// An echo is a service with a unary method and a stream, which any would do for.
type echo struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
}

func (echo) ShouldAllow(context.Context, *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
	return &ratelimitv1.ShouldAllowResponse{}, nil
}

func (echo) ShouldAllowStream(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer) error {
	for {
		if _, err := stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := stream.Send(&ratelimitv1.ShouldAllowBatchResponse{}); err != nil {
			return err
		}
	}
}

// serve returns a client of the service behind limits.
func serve(t *testing.T, limits *Limits) ratelimitv1.RateLimitServiceClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(limits.Unary), grpc.StreamInterceptor(limits.Stream))
	ratelimitv1.RegisterRateLimitServiceServer(server, echo{})
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return ratelimitv1.NewRateLimitServiceClient(conn)
}

func TestUnary(t *testing.T) {
	d, limits := testdaemon.NewClient(t)
	service := serve(t, Limit(limits.Limiter("shop", client.Limit{Rate: "1/min", Name: "calls"}), FirstOf(APIKey("x-api-key"), ClientAddress())))
	call := func(md ...string) (metadata.MD, error) {
		var trailer metadata.MD
		_, err := service.ShouldAllow(metadata.AppendToOutgoingContext(t.Context(), md...), &ratelimitv1.ShouldAllowRequest{}, grpc.Trailer(&trailer))
		return trailer, err
	}
	trailer, err := call()
	if got := trailer.Get("ratelimit"); err != nil || len(got) != 1 || got[0] != `"calls";r=0;t=60` {
		t.Errorf("allowed: %v %v", err, trailer)
	}
	trailer, err = call()
	if got := trailer.Get("retry-after"); status.Code(err) != codes.ResourceExhausted || len(got) != 1 || got[0] != "60" {
		t.Errorf("denied: %v %v", err, trailer)
	}
	retry := time.Duration(0)
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			retry = info.GetRetryDelay().AsDuration()
		}
	}
	if retry != time.Minute {
		t.Errorf("RetryInfo: %v", retry)
	}
	if _, err := call("x-api-key", "secret"); err != nil {
		t.Errorf("another caller: %v", err)
	}
	d.Kill()
	short := Limit(limits.Limiter("shop", client.Rate("1/h")).Timeout(100*time.Millisecond), ClientAddress())
	if _, err := serve(t, short).ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a daemon: %v", err)
	}
}

// say sends messages on a new stream until one is not answered, and returns how many were
// and why not.
func say(t *testing.T, service ratelimitv1.RateLimitServiceClient, messages int) (int, error) {
	t.Helper()
	stream, err := service.ShouldAllowStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		_ = stream.Send(&ratelimitv1.ShouldAllowBatchRequest{}) // what is wrong, Recv says
		if _, err := stream.Recv(); err != nil {
			return i, err
		}
	}
	return messages, stream.CloseSend()
}

func TestStreams(t *testing.T) {
	_, limits := testdaemon.NewClient(t)
	rule := func(perMessage bool, namespace string) *Limits {
		return New(Options{Rules: []Rule{
			{Method: "/ratelimit.v1.RateLimitService/Reset", By: ClientAddress(), Steps: []Step{{Limiter: limits.Limiter("other", client.Rate("0/h"))}}},
			{Method: "/ratelimit.v1.RateLimitService/", PerMessage: perMessage, By: ClientAddress(), Steps: []Step{{Limiter: limits.Limiter(namespace, client.Rate("3/h"))}}},
		}})
	}
	perMessage := serve(t, rule(true, "messages"))
	if n, err := say(t, perMessage, 5); n != 3 || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("per message: %d messages, then %v", n, err)
	}
	perCall := serve(t, rule(false, "calls"))
	for range 3 {
		if n, err := say(t, perCall, 5); n != 5 || err != nil {
			t.Errorf("per call: %d messages, then %v", n, err)
		}
	}
	if n, err := say(t, perCall, 5); n != 0 || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("per call, the fourth: %d messages, then %v", n, err)
	}
}
