// Package client asks ratelimitd whether a caller may do something now.
//
//	limits, err := client.New(client.Options{Addresses: []string{"ratelimitd:8081"}})
//	...
//	defer limits.Close()
//	limiter := limits.Limiter("checkout", client.Rate("100/min"))
//	if result := limiter.Allow(ctx, "user:42"); !result.Allowed {
//		// come back after result.RetryAfter
//	}
//
// A request never fails because of the limiter: when there is no answer in time, the
// failure policy of Options decides, and Result.Err says why. Package httplimit has the
// middleware for net/http, and grpclimit the interceptors for gRPC.
package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
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

// ErrClosed is the error of a call after Close.
var ErrClosed = errors.New("ratelimitd: the client is closed")

// A Client has the connections to the daemons, which its limiters share. New makes it. It
// is safe for concurrent use, and a program needs one.
type Client struct {
	o       Options
	conn    *grpc.ClientConn
	api     ratelimitv1.RateLimitServiceClient
	batches *batcher // nil: each call goes on its own
	denials *denials // nil: none are remembered

	failures atomic.Int64 // since the log was last told of one
	told     atomic.Int64 // when that was, in Unix nanoseconds
}

// New returns a client. It begins to connect, and does not wait for it: the error is of the
// options alone.
func New(o Options) (*Client, error) {
	if o.Timeout < 0 {
		return nil, fmt.Errorf("ratelimitd: Options.Timeout %v: must be above 0, such as 50ms", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.OnFailure > Deny {
		return nil, fmt.Errorf("ratelimitd: Options.OnFailure %d: must be client.Allow or client.Deny", o.OnFailure)
	}
	if o.MaxDenials == 0 {
		o.MaxDenials = DefaultMaxDenials
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Addresses = slices.Clone(o.Addresses)
	conn, err := dial(&o)
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, conn: conn, api: ratelimitv1.NewRateLimitServiceClient(conn)}
	if !o.Unary {
		c.batches = newBatcher(c.api)
	}
	if o.MaxDenials > 0 {
		c.denials = newDenials(o.MaxDenials)
	}
	conn.Connect()
	return c, nil
}

// Close closes the connections. Calls under way, and later ones, are answered by the
// failure policy.
func (c *Client) Close() error {
	if c.batches != nil {
		c.batches.close()
	}
	err := c.conn.Close()
	if c.batches != nil {
		c.batches.wait()
	}
	return err
}

// Limiter returns a limiter that holds identifiers to limits, from 1 to 16: a call is
// allowed if each of them allows it. Make it once, and use it for all calls.
func (c *Client) Limiter(namespace string, limits ...Limit) *Limiter {
	l := &Limiter{client: c, namespace: namespace, limits: slices.Clone(limits), timeout: c.o.Timeout}
	for i := range limits {
		l.sent = append(l.sent, limits[i].message())
		l.bytes += limits[i].bytes()
	}
	return l
}

// Policy returns a limiter that holds identifiers to a policy of the daemon's
// configuration.
func (c *Client) Policy(namespace, policy string) *Limiter {
	return &Limiter{client: c, namespace: namespace, policy: policy, timeout: c.o.Timeout}
}

// decide returns the answer to r.
func (c *Client) decide(ctx context.Context, r *ratelimitv1.ShouldAllowRequest, bytes int, timeout time.Duration) (*ratelimitv1.ShouldAllowResponse, error) {
	if c.batches != nil {
		return c.batches.do(ctx, r, bytes, timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return c.api.ShouldAllow(ctx, r)
}

// quiet is how long the log is not told of another failure.
const quiet = 10 * time.Second

// failed returns the answer of the failure policy to a call that failed with err.
func (c *Client) failed(ctx context.Context, err error) Result {
	if gone := ctx.Err(); gone == nil || errors.Is(gone, context.DeadlineExceeded) {
		c.log(ctx, err) // and not of callers that went away
	}
	return Result{Allowed: c.o.OnFailure == Allow, Reason: ReasonFailure, Err: err}
}

func (c *Client) log(ctx context.Context, err error) {
	c.failures.Add(1)
	now, told := time.Now().UnixNano(), c.told.Load()
	if now-told < int64(quiet) || !c.told.CompareAndSwap(told, now) {
		return
	}
	answer := "allow"
	if c.o.OnFailure == Deny {
		answer = "deny"
	}
	c.o.Logger.WarnContext(ctx, "ratelimitd gives no answer: the failure policy decides", "answer", answer, "error", err, "calls", c.failures.Swap(0))
}
