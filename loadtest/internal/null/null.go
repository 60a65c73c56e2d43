// Package null is a server that decides nothing. It has the messages and the transport of
// the real server, and its handlers always allow. It costs what gRPC and HTTP cost, so
// the difference to the real server is what the decisions cost.
package null

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	envoyv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	"github.com/ratelimitd/ratelimitd/internal/turns"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

const maxMessageBytes = 8 << 20 // the same as that of the real server

// Options are options of the transport, to measure what each of them is worth.
type Options struct {
	StreamWorkers uint // goroutines that serve calls one after the other; 0 starts one for each call
	StandardCodec bool // encodes messages with reflection
	ReadBuffer    int  // bytes; 0 is gRPC's default, 32 KiB
	WriteBuffer   int  // bytes; 0 is gRPC's default, 32 KiB

	RESP net.Listener // for the protocol of Redis; nil: none
}

func (o *Options) server() *grpc.Server {
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessageBytes)}
	if o.StreamWorkers > 0 {
		options = append(options, grpc.NumStreamWorkers(uint32(o.StreamWorkers)))
	}
	if !o.StandardCodec {
		options = append(options, grpc.ForceServerCodecV2(codec.New(turns.New())))
	}
	if o.ReadBuffer > 0 {
		options = append(options, grpc.ReadBufferSize(o.ReadBuffer))
	}
	if o.WriteBuffer > 0 {
		options = append(options, grpc.WriteBufferSize(o.WriteBuffer))
	}
	return grpc.NewServer(options...)
}

// Serve serves on both listeners until ctx ends, and then closes them.
func Serve(ctx context.Context, o Options, grpcListener, httpListener net.Listener) error {
	s := o.server()
	ratelimitv1.RegisterRateLimitServiceServer(s, handler{})
	envoyv3.RegisterRateLimitServiceServer(s, envoyHandler{})
	h := &http.Server{Handler: httpHandler(), ReadHeaderTimeout: 5 * time.Second}

	failed := make(chan error, 3)
	go func() { failed <- s.Serve(grpcListener) }()
	go func() { failed <- h.Serve(httpListener) }()
	var err error
	running := 2
	if o.RESP != nil {
		running++
		go func() { failed <- serveRESP(o.RESP) }()
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	s.Stop()
	_ = h.Close()
	if o.RESP != nil {
		_ = o.RESP.Close()
	}
	for range running {
		if stopErr := <-failed; !errors.Is(stopErr, http.ErrServerClosed) && !errors.Is(stopErr, grpc.ErrServerStopped) {
			err = errors.Join(err, stopErr)
		}
	}
	return err
}

type handler struct {
	ratelimitv1.UnimplementedRateLimitServiceServer
}

// answer returns the answer for every request. It has a status for each limit, as that of
// the real server does.
func answer(in *ratelimitv1.ShouldAllowRequest) *ratelimitv1.ShouldAllowResponse {
	return answers[min(len(in.GetLimits()), len(answers)-1)]
}

var answers = func() (all [17]*ratelimitv1.ShouldAllowResponse) {
	for n := range all {
		all[n] = &ratelimitv1.ShouldAllowResponse{Allowed: true, Reason: ratelimitv1.Reason_WITHIN_LIMIT}
		for range n {
			all[n].Statuses = append(all[n].Statuses, &ratelimitv1.LimitStatus{Limit: 1_000_000, Remaining: 999_999, ResetAfter: durationpb.New(123_456 * time.Microsecond), Allowed: true})
		}
	}
	return all
}()

func (handler) ShouldAllow(_ context.Context, in *ratelimitv1.ShouldAllowRequest) (*ratelimitv1.ShouldAllowResponse, error) {
	return answer(in), nil
}

func (handler) ShouldAllowBatch(_ context.Context, in *ratelimitv1.ShouldAllowBatchRequest) (*ratelimitv1.ShouldAllowBatchResponse, error) {
	out := &ratelimitv1.ShouldAllowBatchResponse{Results: make([]*ratelimitv1.ShouldAllowResult, len(in.GetRequests()))}
	for i, r := range in.GetRequests() {
		out.Results[i] = &ratelimitv1.ShouldAllowResult{Result: &ratelimitv1.ShouldAllowResult_Response{Response: answer(r)}}
	}
	return out, nil
}

func (h handler) ShouldAllowStream(stream ratelimitv1.RateLimitService_ShouldAllowStreamServer) error {
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		out, _ := h.ShouldAllowBatch(stream.Context(), in)
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func (handler) Reset(context.Context, *ratelimitv1.ResetRequest) (*ratelimitv1.ResetResponse, error) {
	return &ratelimitv1.ResetResponse{}, nil
}

type envoyHandler struct {
	envoyv3.UnimplementedRateLimitServiceServer
}

func (envoyHandler) ShouldRateLimit(_ context.Context, in *envoyv3.RateLimitRequest) (*envoyv3.RateLimitResponse, error) {
	return allowed(in), nil
}

func allowed(in *envoyv3.RateLimitRequest) *envoyv3.RateLimitResponse {
	out := &envoyv3.RateLimitResponse{OverallCode: envoyv3.RateLimitResponse_OK}
	for range in.GetDescriptors() {
		out.Statuses = append(out.Statuses, &envoyv3.RateLimitResponse_DescriptorStatus{Code: envoyv3.RateLimitResponse_OK, LimitRemaining: 999_999})
	}
	return out
}

// allowedText is what the real server answers to a request with one limit. It is made
// once, and the request is not decoded, so that this costs what HTTP costs, whatever
// decodes JSON.
const allowedText = `{"allowed":true,"reason":"WITHIN_LIMIT","statuses":[{"name":"","limit":"1000000","remaining":"999999","resetAfter":"0.123456s","allowed":true}],"decidedAt":"2026-01-01T00:00:00.123456Z"}` + "\n"

// httpHandler answers on the same paths as the two HTTP interfaces of the real server.
func httpHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/should-allow", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessageBytes)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		reply(w, []byte(allowedText), nil)
	})
	mux.HandleFunc("POST /json", func(w http.ResponseWriter, r *http.Request) {
		var in envoyv3.RateLimitRequest
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessageBytes))
		if err == nil {
			err = protojson.Unmarshal(body, &in)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := protojson.Marshal(allowed(&in))
		reply(w, out, err)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	return mux
}

func reply(w http.ResponseWriter, body []byte, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
