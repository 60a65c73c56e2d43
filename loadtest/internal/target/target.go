// Package target asks servers for decisions, with each of the protocols to measure.
package target

import (
	"context"
	"fmt"
	"net/http"

	envoyv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A Target is a server to ask. Close it after the last call of its sessions.
type Target struct {
	options Options
	conns   []*grpc.ClientConn
	streams []*stream
	http    *http.Client
	client  *client.Client
	sockets sockets // of the protocol of Redis
	opened  int
}

// windowBytes is how much a connection receives before it says that there is room for more.
const windowBytes = 1 << 20

// Dial returns the target. Connections are opened when they are needed. Only streams are
// opened at once; they live until ctx ends or Close is called.
func Dial(ctx context.Context, o Options) (*Target, error) {
	t := &Target{options: o}
	if IsHTTP(o.Protocol) {
		t.http = &http.Client{Transport: o.Link.HTTP(&http.Transport{MaxIdleConnsPerHost: o.Sessions, MaxConnsPerHost: o.Sessions, DisableCompression: true})}
		return t, nil
	}
	if IsRESP(o.Protocol) {
		return t, nil
	}
	if o.Protocol == Client {
		var err error
		t.client, err = newClient(&o)
		return t, err
	}
	for range o.Connections {
		options := o.Link.GRPC()
		if !o.BDPProbe {
			options = append(options, grpc.WithStaticStreamWindowSize(windowBytes), grpc.WithStaticConnWindowSize(windowBytes))
		}
		conn, err := grpc.NewClient("passthrough:///"+o.Addr, append(options,
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec.New(nil)), grpc.MaxCallRecvMsgSize(64<<20)))...)
		if err != nil {
			t.Close()
			return nil, fmt.Errorf("connect to %q: %w", o.Addr, err)
		}
		t.conns = append(t.conns, conn)
	}
	if o.Protocol == Stream {
		for i := range o.Streams {
			s, err := newStream(ctx, t.conns[i%len(t.conns)])
			if err != nil {
				t.Close()
				return nil, err
			}
			t.streams = append(t.streams, s)
		}
	}
	return t, nil
}

// Close closes the connections and waits for the goroutines that read from them.
func (t *Target) Close() {
	for _, conn := range t.conns {
		_ = conn.Close()
	}
	for _, s := range t.streams {
		<-s.done
	}
	if t.client != nil {
		_ = t.client.Close()
	}
	if t.http != nil {
		t.http.CloseIdleConnections()
	}
	t.sockets.close()
}

// Session returns a session. Sessions share the connections and streams evenly. Session
// is not safe for concurrent use, but different sessions can be used at the same time.
func (t *Target) Session() Session {
	i, o := t.opened, &t.options
	t.opened++
	switch o.Protocol {
	case Unary:
		return &unary{client: ratelimitv1.NewRateLimitServiceClient(t.conns[i%len(t.conns)]), request: o.request()}
	case Batch:
		return &batch{client: ratelimitv1.NewRateLimitServiceClient(t.conns[i%len(t.conns)]), batchRequest: batchRequest{prototype: o.request()}}
	case Stream:
		return &streamSession{stream: t.streams[i%len(t.streams)], batchRequest: batchRequest{prototype: o.request()}, reply: make(chan *ratelimitv1.ShouldAllowBatchResponse, 1)}
	case Client:
		return &clientSession{limiterOf(t.client, o), o.Cost}
	case Envoy:
		in, entry := o.envoyRequest()
		return &envoy{client: envoyv3.NewRateLimitServiceClient(t.conns[i%len(t.conns)]), request: in, entry: entry}
	case RESP, Throttle:
		return newRedis(o, &t.sockets)
	case Throttlecrab:
		return newThrottlecrab(o, t.conns[i%len(t.conns)])
	case Gubernator:
		return newGubernator(o, t.conns[i%len(t.conns)])
	default:
		return newHTTP(o, t.http)
	}
}
