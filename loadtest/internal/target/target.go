// Package target asks servers for decisions, with each of the protocols to measure.
package target

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"

	envoycommon "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoyv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/internal/connect"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// The protocols.
const (
	Unary     = "unary"      // ratelimit.v1 ShouldAllow
	Batch     = "batch"      // ratelimit.v1 ShouldAllowBatch
	Stream    = "stream"     // ratelimit.v1 ShouldAllowStream
	Client    = "client"     // package client, which makes batches of its own
	Envoy     = "envoy"      // Envoy's RateLimitService v3, ShouldRateLimit
	HTTP      = "http"       // POST of a ShouldAllowRequest as JSON
	EnvoyHTTP = "envoy-http" // POST of Envoy's RateLimitRequest as JSON
	RESP      = "resp"       // RL.ALLOW over the protocol of Redis
	Throttle  = "throttle"   // THROTTLE of throttlecrab over it

	// Other rate limiters, over protocols of their own.
	Throttlecrab     = "throttlecrab"      // throttlecrab's gRPC
	ThrottlecrabHTTP = "throttlecrab-http" // POST /throttle
	LimitadorHTTP    = "limitador-http"    // POST /check_and_report
	Gubernator       = "gubernator"        // gubernator's GetRateLimits
)

// IsHTTP reports whether a protocol is JSON over HTTP.
func IsHTTP(protocol string) bool {
	return protocol == HTTP || protocol == EnvoyHTTP || protocol == ThrottlecrabHTTP || protocol == LimitadorHTTP
}

// IsRESP reports whether a protocol is that of Redis.
func IsRESP(protocol string) bool { return protocol == RESP || protocol == Throttle }

// A Verdict is a server's answer to one request.
type Verdict uint8

// The verdicts.
const (
	Denied Verdict = iota
	Allowed
	StoreFailed // the server's failure policy answered
	Failed      // an error
)

// A Session is for one goroutine. It makes one call at a time.
type Session interface {
	// Ask asks about all identifiers in one call, and sets the verdict of each at the
	// same index. An error means that the whole call failed.
	Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error
}

// Options say which server to ask, and what.
type Options struct {
	Protocol    string
	Addr        string // host:port
	Path        string // for HTTP
	Link        connect.Link
	Connections int
	Streams     int // in total over all connections
	Sessions    int // how many are open at a time, at most

	Namespace     string // for Envoy: the domain
	Limits        []*ratelimitv1.Limit
	Policy        string
	DescriptorKey string // for Envoy: the key of the entry that has the identifier
	Cost          uint64
}

// A Target is a server to ask. Close it after the last call of its sessions.
type Target struct {
	options Options
	conns   []*grpc.ClientConn
	streams []*stream
	http    *http.Client
	client  *client.Client
	opened  int

	mu      sync.Mutex // protects the following
	sockets []net.Conn // of the protocol of Redis
}

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
		conn, err := grpc.NewClient("passthrough:///"+o.Addr, append(o.Link.GRPC(),
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
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, socket := range t.sockets {
		_ = socket.Close()
	}
}

// Session returns a session. Sessions share the connections and streams evenly. Session
// is not safe for concurrent use, but different sessions can be used at the same time.
func (t *Target) Session() Session {
	i := t.opened
	t.opened++
	switch t.options.Protocol {
	case Unary:
		return &unary{client: ratelimitv1.NewRateLimitServiceClient(t.conns[i%len(t.conns)]), request: t.request()}
	case Batch:
		return &batch{client: ratelimitv1.NewRateLimitServiceClient(t.conns[i%len(t.conns)]), batchRequest: batchRequest{prototype: t.request()}}
	case Stream:
		return &streamSession{stream: t.streams[i%len(t.streams)], batchRequest: batchRequest{prototype: t.request()}, reply: make(chan *ratelimitv1.ShouldAllowBatchResponse, 1)}
	case Client:
		return &clientSession{limiterOf(t.client, &t.options), t.options.Cost}
	case Envoy:
		in, entry := t.envoyRequest()
		return &envoy{client: envoyv3.NewRateLimitServiceClient(t.conns[i%len(t.conns)]), request: in, entry: entry}
	case RESP, Throttle:
		return t.newRedis()
	case Throttlecrab:
		return t.newThrottlecrab(t.conns[i%len(t.conns)])
	case Gubernator:
		return t.newGubernator(t.conns[i%len(t.conns)])
	default:
		return t.newHTTP()
	}
}

// request returns a request without its identifier.
func (t *Target) request() *ratelimitv1.ShouldAllowRequest {
	in := &ratelimitv1.ShouldAllowRequest{Namespace: t.options.Namespace, Limits: t.options.Limits, Policy: t.options.Policy}
	if t.options.Cost != 1 {
		in.Cost = &t.options.Cost
	}
	return in
}

// envoyRequest returns a request whose entry has no value yet.
func (t *Target) envoyRequest() (*envoyv3.RateLimitRequest, *envoycommon.RateLimitDescriptor_Entry) {
	entry := &envoycommon.RateLimitDescriptor_Entry{Key: t.options.DescriptorKey}
	return &envoyv3.RateLimitRequest{
		Domain:      t.options.Namespace,
		Descriptors: []*envoycommon.RateLimitDescriptor{{Entries: []*envoycommon.RateLimitDescriptor_Entry{entry}}},
		HitsAddend:  uint32(t.options.Cost),
	}, entry
}
