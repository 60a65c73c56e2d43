package client

import (
	"crypto/tls"
	"log/slog"
	"time"

	"google.golang.org/grpc"
)

const (
	// DefaultAddress is where a daemon on this machine serves gRPC.
	DefaultAddress = "127.0.0.1:8081"
	// DefaultTimeout is the longest that a call waits for its answer. It is as long as
	// the daemon waits for its store.
	DefaultTimeout = 50 * time.Millisecond
	// DefaultMaxDenials is how many denials a client remembers: about 4 MB of them.
	DefaultMaxDenials = 10_000
)

// A FailurePolicy is what a call is answered when there is no answer of a daemon.
type FailurePolicy uint8

// The failure policies.
const (
	// Allow lets everybody pass while no daemon answers: fail open.
	Allow FailurePolicy = iota
	// Deny lets nobody pass: fail closed.
	Deny
)

// Options say how to reach the daemons, and what to do when none answers. The zero Options
// are for a daemon on this machine.
type Options struct {
	// Addresses are those of the daemons, as host:port. A call goes to the next of those
	// that are healthy, and so it does to the addresses that one name has in DNS. None is
	// DefaultAddress.
	Addresses []string
	// TLS is nil for a connection without TLS.
	TLS *tls.Config
	// Token is sent as a bearer token, if it is not empty. Without TLS it can be read on
	// the way.
	Token string
	// Dial has further options of the gRPC connection.
	Dial []grpc.DialOption

	// Timeout is the longest that a call waits for its answer; the context of a call can
	// only shorten it. 0 is DefaultTimeout.
	Timeout time.Duration
	// OnFailure answers a call that gets no answer in time.
	OnFailure FailurePolicy

	// MaxDenials is how many denials are remembered: see Limiter.Allow. 0 is
	// DefaultMaxDenials, and below 0 none is.
	MaxDenials int
	// Unary sends each call on its own. Otherwise calls that are made at the same time
	// share the messages of one stream.
	Unary bool

	// OnResult is told every result, for metrics and logs. Nil is nobody. It must be
	// quick, and is called from many goroutines.
	OnResult func(Event)
	// Logger is told, once every 10 s at most, that the failure policy answers. Nil is
	// slog.Default().
	Logger *slog.Logger
}

// An Event is one call and its result.
type Event struct {
	Operation  string // "allow", "check", "charge", "refund", "reserve", "commit", "cancel" or "reset"
	Namespace  string
	Policy     string // "": the limiter has limits of its own
	Identifier string // as it was given. A label of a metric must not have it: there may be any number
	Result     Result
	Took       time.Duration
}
