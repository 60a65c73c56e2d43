// Package xds receives limits from an xDS server: the state of the world of
// ratelimit.config.ratelimit.v3.RateLimitConfig, over one aggregated stream. Envoy Gateway
// and Envoy AI Gateway are such servers.
//
// The protocol is https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol.
package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/sleep"
)

// TypeURL is the type of the resources.
const TypeURL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

const (
	// silence is after how long without any configuration the log says so. Servers
	// answer at once, unless they do not know the node.
	silence = 30 * time.Second
	// pingEvery finds a server that vanished. Servers take more frequent pings for an
	// attack, unless they are told otherwise: gRPC's own does from below five minutes.
	pingEvery   = 5*time.Minute + 10*time.Second
	pingTimeout = 20 * time.Second
	// maxRepeatPause is the longest that the reply to one refused configuration after
	// another is held back, from a second on. Servers may send again at once what was
	// refused.
	maxRepeatPause = 5 * time.Second
	// maxDetailBytes is how much of an error the server is told.
	maxDetailBytes = 4000
)

// Options say how to make a Client. Server, MaxMessageBytes, both waits, Take, Logger
// and Registry are required.
type Options struct {
	Server   string            // host:port
	NodeID   string            // what the server knows the daemon by
	Metadata map[string]string // of the node
	Headers  map[string]string // of each stream
	TLS      *TLS              // nil: none

	MaxMessageBytes     int
	Backoff, MaxBackoff time.Duration // before connecting again: from, to
	CacheFile           string        // "": none

	// Take puts resources in force, which are all that there are, each an encoded
	// RateLimitConfig. The error says why it refuses them; then what was in force stays.
	// It is called by one goroutine at a time.
	Take func(resources [][]byte) error

	Logger   *slog.Logger
	Registry prometheus.Registerer
	Panics   *crash.Log // may be nil
}

// A Client receives limits. What is lost with a stream is only news: what is in force
// stays, and the client connects again. New makes it; Restore, if it is called, comes
// before Run, which is called once.
type Client struct {
	o       Options
	first   chan struct{} // closed when something has come in force
	came    sync.Once
	lost    lograte.Gate
	foreign lograte.Gate

	version  string // the server's, of what is in force
	cache    cache
	refusals int // since something was in force

	metrics metrics
}

// New returns a Client.
func New(o Options) *Client {
	return &Client{
		o: o, first: make(chan struct{}), metrics: newMetrics(o.Registry),
		cache: cache{file: o.CacheFile, server: o.Server, nodeID: o.NodeID, most: o.MaxMessageBytes},
	}
}

// First returns a channel that is closed once limits are in force.
func (c *Client) First() <-chan struct{} { return c.first }

// Restore puts in force what the cache file holds, if it is whole.
func (c *Client) Restore() {
	if c.o.CacheFile == "" {
		return
	}
	m, data, err := c.cache.read()
	if m == nil && err == nil {
		c.o.Logger.Info("there is no cache of limits yet", "file", c.o.CacheFile)
		return
	}
	if err == nil {
		_, err = c.take(m)
	}
	if err != nil {
		c.o.Logger.Error("the cache of limits cannot be used; the xDS server is waited for", "file", c.o.CacheFile, "error", err)
		return
	}
	c.cache.held = data
	c.o.Logger.Info("limits are in force from the cache, until the xDS server sends others", "file", c.o.CacheFile, "xds_version", shown(c.version))
}

// Run receives limits until ctx ends.
func (c *Client) Run(ctx context.Context) {
	wait := c.o.Backoff
	for {
		received, err := c.stream(ctx)
		c.metrics.connected.Set(0)
		if ctx.Err() != nil {
			return
		}
		if received {
			wait = c.o.Backoff
		}
		pause := time.Duration((0.5 + rand.Float64()) * float64(wait)) //nolint:gosec // spreads the daemons, and is no secret
		if n := c.lost.Pass(time.Now()); n > 0 {
			c.o.Logger.Warn("there is no stream from the xDS server; the limits in force stay, and the daemon connects again", "server", c.o.Server, "error", quote.Error(err), "wait", pause.Round(time.Millisecond).String(), "times", n)
		}
		if !sleep.For(ctx, pause) {
			return
		}
		wait = min(2*wait, c.o.MaxBackoff)
	}
}

// stream receives limits as long as one stream lasts, and reports whether any came. Each
// has a connection of its own, so that it is made with the certificates of that time.
func (c *Client) stream(ctx context.Context) (received bool, err error) {
	defer c.o.Panics.Recover("the stream from the xDS server", func(e error) { err = e })
	secure, err := c.o.TLS.credentials()
	if err != nil {
		return false, err
	}
	conn, err := grpc.NewClient(c.o.Server,
		grpc.WithTransportCredentials(secure),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.o.MaxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }() // nothing is under way on it any more
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, metadata.New(c.o.Headers)))
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	// Without a version: the server sends what it has, even if it counts its versions
	// anew since it was started and calls other limits by the version that we have.
	if err := stream.Send(&discoveryv3.DiscoveryRequest{Node: c.node(), TypeUrl: TypeURL}); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	c.metrics.connected.Set(1)
	quiet := time.AfterFunc(silence, func() {
		c.o.Logger.Warn("the xDS server has sent no limits yet; does it know this node?", "server", c.o.Server, "node_id", quote.Cut(c.o.NodeID))
	})
	defer quiet.Stop()
	for {
		m, err := stream.Recv()
		if err != nil {
			return received, err
		}
		if m.GetTypeUrl() != TypeURL {
			if n := c.foreign.Pass(time.Now()); n > 0 {
				c.o.Logger.Warn("the xDS server sends resources that nobody asked for; they are ignored", "type", quote.Cut(m.GetTypeUrl()), "messages", n)
			}
			continue
		}
		quiet.Stop()
		received = true
		reply, ok := c.answer(ctx, m)
		if !ok {
			return true, ctx.Err()
		}
		if err := stream.Send(reply); err != nil && !errors.Is(err, io.EOF) { // Recv says why it ended
			return true, err
		}
		c.keep(m)
	}
}

// answer takes a message and returns the reply. It is false if ctx ended first.
func (c *Client) answer(ctx context.Context, m *discoveryv3.DiscoveryResponse) (*discoveryv3.DiscoveryRequest, bool) {
	reply := &discoveryv3.DiscoveryRequest{Node: c.node(), TypeUrl: TypeURL, ResponseNonce: m.GetNonce()}
	changed, err := c.take(m)
	reply.VersionInfo = c.version // after a refusal, the last that was good
	if err == nil {
		c.metrics.accepted.Inc()
		if changed {
			c.o.Logger.Info("limits have come from the xDS server", "server", c.o.Server, "xds_version", shown(c.version), "resources", len(m.GetResources()))
		}
		return reply, true
	}
	c.metrics.refused.Inc()
	reply.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: detail(err)}
	pause := time.Duration(0)
	if c.refusals > 0 {
		pause = min(time.Second<<min(c.refusals-1, 10), maxRepeatPause)
	}
	c.refusals++
	return reply, sleep.For(ctx, pause)
}

// detail returns the text of err as the server is told it.
func detail(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\ufffd")
	if len(text) > maxDetailBytes {
		text = strings.ToValidUTF8(text[:maxDetailBytes], "") + "..."
	}
	return text
}

// take puts the resources of m in force, and reports whether their version is another
// than before.
func (c *Client) take(m *discoveryv3.DiscoveryResponse) (changed bool, err error) {
	defer c.o.Panics.Recover("limits from the xDS server", func(e error) { err = e })
	resources := make([][]byte, len(m.GetResources()))
	for i, resource := range m.GetResources() {
		if resource.GetTypeUrl() != TypeURL {
			return false, fmt.Errorf("resource %d has type %s; send %s", i, quote.Cut(resource.GetTypeUrl()), TypeURL)
		}
		resources[i] = resource.GetValue()
	}
	if err := c.o.Take(resources); err != nil {
		return false, err
	}
	changed = c.version != m.GetVersionInfo()
	c.version, c.refusals = m.GetVersionInfo(), 0
	c.metrics.inForce(c.version)
	c.came.Do(func() { close(c.first) })
	return changed, nil
}

// keep writes m to the cache, if it is in force.
func (c *Client) keep(m *discoveryv3.DiscoveryResponse) {
	if c.o.CacheFile == "" || c.refusals > 0 {
		return
	}
	if err := c.cache.write(m); err != nil {
		c.o.Logger.Error("the cache of limits cannot be written; after a restart, the daemon needs the xDS server", "file", c.o.CacheFile, "error", err)
	}
}

// node says who the daemon is.
func (c *Client) node() *corev3.Node {
	n := &corev3.Node{Id: c.o.NodeID, UserAgentName: "ratelimitd"}
	if len(c.o.Metadata) > 0 {
		n.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for key, value := range c.o.Metadata {
			n.Metadata.Fields[key] = structpb.NewStringValue(value)
		}
	}
	return n
}
