package config

import (
	"fmt"
	"math"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// Bounds bound what callers may have of the daemon, beside connections.
type Bounds struct {
	MessageBytes int // of a message, and of a body over HTTP
	HeaderBytes  int // of the headers of a gRPC call
	Streams      int // calls under way on one gRPC connection
	Calls        int // gRPC calls that are no streams, and turns of the protocol of Redis, under way in all
	// BytesInFlight is what all calls and requests may hold together, on all ports.
	BytesInFlight int

	MessageTimeout time.Duration // until a call's message, or a command, has arrived

	ConnectionAge, ConnectionGrace time.Duration // of a gRPC connection; Grace is for the calls on it
	ConnectionIdle                 time.Duration // without a call, or a command of the protocol of Redis
}

// DefaultBounds returns the Bounds of a daemon that nobody configures.
func DefaultBounds() Bounds {
	return Bounds{
		// The largest valid batch, 1,000 requests of 16 limits with the longest names, has
		// 4.5 MB.
		MessageBytes: 8 << 20,
		// Enough for tracing, and for tokens of any usual size.
		HeaderBytes: 32 << 10,
		// A call without a message holds about 13 KB. A client with more calls waits, or
		// connects again.
		Streams: 1000,
		// Far more than a daemon answers in the time that a caller waits.
		Calls: 10_000,
		// An eighth of the memory of deploy/kubernetes: under attack the process took up to
		// 341 MB with it, as loadtest/results/attack.md has it. It is 4,000 calls that wait.
		BytesInFlight:  64 << 20,
		MessageTimeout: 10 * time.Second,
		// So that clients find new replicas.
		ConnectionAge:   10 * time.Minute,
		ConnectionGrace: time.Minute,
		ConnectionIdle:  5 * time.Minute,
	}
}

// minMessageBytes fits any valid request, as JSON too.
const minMessageBytes = 64 << 10

func (c *Config) boundFlags() []flags.Flag {
	b := &c.Bounds
	return inGroup(boundsGroup, []flags.Flag{
		{Name: "max-message-bytes", Value: flags.Number(&b.MessageBytes), Help: "The longest message over gRPC, and the longest body over HTTP."},
		{Name: "max-header-bytes", Value: flags.Number(&b.HeaderBytes), Help: "The longest headers of a gRPC call, as HTTP/2 counts them."},
		{Name: "max-streams", Value: flags.Number(&b.Streams), Help: "The most calls under way on one gRPC connection. A client waits with further ones."},
		{Name: "max-calls", Value: flags.Number(&b.Calls), Help: "The most gRPC calls under way in all, without streams and health, and of connections of the protocol of Redis whose commands are being decided. Further ones get RESOURCE_EXHAUSTED."},
		{Name: "max-bytes-in-flight", Value: flags.Number(&b.BytesInFlight), Help: "The most bytes that all calls hold together: messages that arrive, replies that nobody reads, and 16 KiB for each gRPC call. Beyond it, the call that holds most ends with RESOURCE_EXHAUSTED."},
		{Name: "message-timeout", Value: flags.Duration(&b.MessageTimeout), Help: "How long a gRPC call may take to bring its message, or a stream its first one, or one that has begun; and how long a reply may wait to be read. Also how long a command of the protocol of Redis may take to be all there."},
		{Name: "connection-age", Value: flags.Duration(&b.ConnectionAge), Help: "How old a gRPC connection, or a stream, becomes before its client has to connect again."},
		{Name: "connection-grace", Value: flags.Duration(&b.ConnectionGrace), Help: "How long calls may go on after that."},
		{Name: "connection-idle", Value: flags.Duration(&b.ConnectionIdle), Help: "How long a connection, over gRPC or the protocol of Redis, may be without a call before its client has to connect again."},
	})
}

// bounds checks the Bounds.
func (k *check) bounds() {
	b := &k.c.Bounds
	number := func(flag string, n, least, most, example int) {
		k.must(n >= least && n <= most, flag, n, fmt.Sprintf("%d to %d, such as %d", least, most, example))
	}
	standard := DefaultBounds()
	number("max-message-bytes", b.MessageBytes, minMessageBytes, math.MaxInt32, standard.MessageBytes)
	number("max-header-bytes", b.HeaderBytes, 1<<10, 1<<20, standard.HeaderBytes)
	number("max-streams", b.Streams, 1, 1_000_000, standard.Streams)
	number("max-bytes-in-flight", b.BytesInFlight, 2*minMessageBytes, math.MaxInt, standard.BytesInFlight)
	number("max-calls", b.Calls, 1, 10_000_000, standard.Calls)
	k.duration("message-timeout", b.MessageTimeout, "10s")
	k.duration("connection-age", b.ConnectionAge, "10m")
	k.duration("connection-grace", b.ConnectionGrace, "1m")
	k.duration("connection-idle", b.ConnectionIdle, "5m")
}
