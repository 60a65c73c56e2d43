package target

import (
	"context"

	envoycommon "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	envoyv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/ratelimitd/ratelimitd/internal/connect"
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
	BDPProbe    bool // whether gRPC measures each connection with pings
	Streams     int  // in total over all connections
	Sessions    int  // how many are open at a time, at most

	Namespace     string // for Envoy: the domain
	Limits        []*ratelimitv1.Limit
	Policy        string
	DescriptorKey string // for Envoy: the key of the entry that has the identifier
	Cost          uint64
}

// placeholder is where the identifier goes in a text that is made once.
const placeholder = "IDENTIFIER-GOES-HERE"

// request returns a request without its identifier.
func (o *Options) request() *ratelimitv1.ShouldAllowRequest {
	in := &ratelimitv1.ShouldAllowRequest{Namespace: o.Namespace, Limits: o.Limits, Policy: o.Policy}
	if o.Cost != 1 {
		in.Cost = &o.Cost
	}
	return in
}

// envoyRequest returns a request whose entry has no value yet.
func (o *Options) envoyRequest() (*envoyv3.RateLimitRequest, *envoycommon.RateLimitDescriptor_Entry) {
	entry := &envoycommon.RateLimitDescriptor_Entry{Key: o.DescriptorKey}
	return &envoyv3.RateLimitRequest{
		Domain:      o.Namespace,
		Descriptors: []*envoycommon.RateLimitDescriptor{{Entries: []*envoycommon.RateLimitDescriptor_Entry{entry}}},
		HitsAddend:  uint32(o.Cost),
	}, entry
}
