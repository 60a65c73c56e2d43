package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

const (
	// maxBatch is how many requests the daemon takes in a message.
	maxBatch = 1000
	// maxBatchBytes fits the shortest --max-message-bytes that a daemon may have, and the
	// window of HTTP/2, so that sending a message does not wait for the daemon to read.
	maxBatchBytes = 60_000
	// maxFlight is how long a message is waited for while others queue behind it, even
	// if one of its callers has more time.
	maxFlight = time.Second
	// unaryFor is how long calls go on their own after a daemon, or a proxy before it,
	// has said that it has no streams.
	unaryFor = time.Minute
)

// A batcher has calls share the messages of one stream. A call that finds nothing under
// way is sent at once. Those that are made until its answer comes go together in the next
// message. So the busier the client is, the larger its messages are, and no call waits for
// others to come.
type batcher struct {
	api  ratelimitv1.RateLimitServiceClient
	runs sync.WaitGroup // the goroutine of the stream

	mu      sync.Mutex // protects the following
	closed  bool
	queue   []*call
	flight  []*call                                              // of the message that is under way
	overdue time.Time                                            // when that has been waited for long enough
	stream  ratelimitv1.RateLimitService_ShouldAllowStreamClient // nil: none is open
	cancel  context.CancelFunc                                   // of the stream that is open, or is being opened; nil: none is
	unary   time.Time                                            // until then calls go on their own
}

func newBatcher(api ratelimitv1.RateLimitServiceClient) *batcher { return &batcher{api: api} }

// A call is one request that waits for its answer.
type call struct {
	request  *ratelimitv1.ShouldAllowRequest
	bytes    int
	deadline time.Time
	done     chan struct{} // receives once the answer is there; has room for it
	timer    *time.Timer

	// The lock of the batcher protects the following until done has received.
	at       int  // the place in the queue, or one of the following
	again    bool // it has been sent before, on a stream that ended without deciding it
	response *ratelimitv1.ShouldAllowResponse
	err      error
}

// The places of a call that is in no queue.
const (
	sent     = -1 // it is in the message that is under way
	left     = -2 // its caller has gone
	answered = -3
)

var errUnary = errors.New("send the call on its own")

var calls = sync.Pool{New: func() any {
	c := &call{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	c.timer.Stop()
	return c
}}

// do returns the answer to r, which is about so many bytes long, within timeout.
func (b *batcher) do(ctx context.Context, r *ratelimitv1.ShouldAllowRequest, bytes int, timeout time.Duration) (*ratelimitv1.ShouldAllowResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, err // nobody waits, so that nothing is to be consumed
	}
	now := time.Now()
	c := calls.Get().(*call)
	c.request, c.bytes, c.deadline = r, bytes, now.Add(timeout)
	c.again, c.response, c.err = false, nil, nil
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(c.deadline) {
		c.deadline = deadline
	}
	if !b.begin(c, now) {
		return b.alone(ctx, c)
	}
	c.timer.Reset(c.deadline.Sub(now))
	var gone error
	select {
	case <-c.done:
	case <-c.timer.C:
		gone = status.Errorf(codes.DeadlineExceeded, "no answer in %v", timeout)
	case <-ctx.Done():
		gone = ctx.Err()
	}
	if gone != nil && b.leave(c) {
		return nil, gone // c is not used again: its message may be under way
	}
	if gone != nil {
		<-c.done // the answer has just come
	}
	c.timer.Stop()
	if errors.Is(c.err, errUnary) {
		return b.alone(ctx, c)
	}
	response, err := c.response, c.err
	calls.Put(c)
	return response, err
}

// alone sends c as a call of its own.
func (b *batcher) alone(ctx context.Context, c *call) (*ratelimitv1.ShouldAllowResponse, error) {
	ctx, cancel := context.WithDeadline(ctx, c.deadline)
	defer cancel()
	r := c.request
	calls.Put(c)
	return b.api.ShouldAllow(ctx, r)
}

// begin queues c, and sends it if nothing is under way. It is false if c is to go alone.
func (b *batcher) begin(c *call, now time.Time) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		c.at, c.err = answered, ErrClosed
		c.done <- struct{}{}
		return true
	}
	if now.Before(b.unary) {
		b.mu.Unlock()
		return false
	}
	c.at = len(b.queue)
	b.queue = append(b.queue, c)
	if b.cancel == nil {
		ctx, cancel := context.WithCancel(context.Background())
		b.cancel = cancel
		b.runs.Go(func() { b.run(ctx, cancel) })
	}
	send := b.nextLocked(now)
	b.mu.Unlock()
	send()
	return true
}

// nothing is there to send.
func nothing() {}

// nextLocked puts what is queued under way, if a stream is open and nothing is, and returns
// what sends it. b.mu is held, and must not be when the message is sent. Sending does not
// wait for the daemon: no message is sent before the one before it was answered, so that
// there is always room for it.
func (b *batcher) nextLocked(now time.Time) (send func()) {
	if b.stream == nil || len(b.flight) > 0 || len(b.queue) == 0 {
		return nothing
	}
	n, bytes := 0, 0
	b.overdue = now
	requests := make([]*ratelimitv1.ShouldAllowRequest, 0, len(b.queue))
	for n < len(b.queue) && n < maxBatch {
		c := b.queue[n]
		if bytes += c.bytes; n > 0 && bytes > maxBatchBytes {
			break
		}
		if c.deadline.After(b.overdue) {
			b.overdue = c.deadline
		}
		c.at = sent
		requests = append(requests, c.request)
		n++
	}
	if latest := now.Add(maxFlight); b.overdue.After(latest) {
		b.overdue = latest
	}
	b.flight = append(b.flight[:0], b.queue[:n]...)
	rest := copy(b.queue, b.queue[n:])
	clear(b.queue[rest:])
	b.queue = b.queue[:rest]
	for i, c := range b.queue {
		c.at = i
	}
	stream := b.stream
	return func() {
		// An error is that of the stream, which run receives too.
		_ = stream.Send(&ratelimitv1.ShouldAllowBatchRequest{Requests: requests})
	}
}

// leave takes c, whose caller waits no longer, out of the queue. It is false if c has its
// answer. The stream is given up if its message has been waited for long enough: the next
// calls are to find another, and perhaps another daemon.
func (b *batcher) leave(c *call) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.at == answered {
		return false
	}
	if c.at >= 0 {
		last := len(b.queue) - 1
		b.queue[c.at] = b.queue[last]
		b.queue[c.at].at = c.at
		b.queue[last] = nil
		b.queue = b.queue[:last]
	}
	c.at = left
	if b.stream != nil && len(b.flight) > 0 && !time.Now().Before(b.overdue) {
		b.cancel()
	}
	return true
}

// answerLocked gives c its answer, unless its caller has gone. b.mu is held.
func (c *call) answerLocked(response *ratelimitv1.ShouldAllowResponse, err error) {
	if c.at != left {
		c.at, c.response, c.err = answered, response, err
		c.done <- struct{}{}
	}
}

// run opens a stream and receives its answers, until it ends.
func (b *batcher) run(ctx context.Context, cancel context.CancelFunc) {
	defer cancel()
	stream, err := b.api.ShouldAllowStream(ctx)
	if err == nil {
		b.mu.Lock()
		b.stream = stream
		send := b.nextLocked(time.Now())
		b.mu.Unlock()
		send()
		for err == nil {
			err = b.receive(stream)
		}
	}
	b.end(err, stream == nil)
}

// receive gives the calls under way their answers, and sends those that have come since.
func (b *batcher) receive(stream ratelimitv1.RateLimitService_ShouldAllowStreamClient) error {
	message, err := stream.Recv()
	if err != nil {
		return err
	}
	send, err := b.answer(message.GetResults())
	send()
	return err
}

// answer gives the calls under way their results, and returns what sends the next ones.
func (b *batcher) answer(results []*ratelimitv1.ShouldAllowResult) (send func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	whole := len(results) == 1 && len(b.flight) != 1 && results[0].GetError() != nil // of the message itself
	if len(results) != len(b.flight) && !whole {
		return nothing, status.Errorf(codes.Internal, "the daemon answers %d requests with %d results", len(b.flight), len(results))
	}
	for i, c := range b.flight {
		if whole {
			i = 0
		}
		if e := results[i].GetError(); e != nil {
			c.answerLocked(nil, status.ErrorProto(e))
		} else {
			c.answerLocked(results[i].GetResponse(), nil)
		}
	}
	clear(b.flight)
	b.flight = b.flight[:0]
	return b.nextLocked(time.Now()), nil
}

// end answers the calls of a stream that has ended with err, or could not be opened. Those
// that the daemon has certainly not decided are sent again. Those that it may have decided
// are not, lest they are charged twice.
func (b *batcher) end(err error, unopened bool) {
	switch {
	case errors.Is(err, io.EOF):
		err = status.Error(codes.Unavailable, "the daemon has ended the stream")
	case status.Code(err) == codes.Canceled: // by leave: these callers have not cancelled
		err = status.Error(codes.Unavailable, "no answer for too long, so that the stream is given up")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stream, b.cancel = nil, nil
	flight := b.flight
	b.flight = nil
	if b.closed {
		err = ErrClosed
	}
	again, alone := undecided(err), status.Code(err) == codes.Unimplemented
	if alone {
		b.unary, err = time.Now().Add(unaryFor), errUnary
	}
	for _, c := range flight {
		if again && !c.again && c.at != left {
			c.again, c.at = true, len(b.queue)
			b.queue = append(b.queue, c)
			continue
		}
		c.answerLocked(nil, err)
	}
	if unopened || alone || b.closed {
		for i, c := range b.queue {
			c.answerLocked(nil, err)
			b.queue[i] = nil
		}
		b.queue = b.queue[:0]
	}
	if len(b.queue) > 0 {
		ctx, cancel := context.WithCancel(context.Background())
		b.cancel = cancel
		b.runs.Go(func() { b.run(ctx, cancel) })
	}
}

// undecided reports whether err says that what has no answer was not decided: a daemon
// that ends a stream, as it stops or the stream is old, says when to ask again.
func undecided(err error) bool {
	st := status.Convert(err)
	if st.Code() != codes.Unavailable {
		return false
	}
	for _, detail := range st.Details() {
		if _, ok := detail.(*errdetails.RetryInfo); ok {
			return true
		}
	}
	return false
}

// close answers all calls with ErrClosed, and ends the stream.
func (b *batcher) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.cancel != nil {
		b.cancel()
	}
}

// wait waits until the stream has ended.
func (b *batcher) wait() { b.runs.Wait() }

// ErrClosed is the error of a call after Close.
var ErrClosed = errors.New("ratelimitd: the client is closed")
