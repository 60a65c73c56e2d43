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
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

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
