package grpcapi

import (
	"context"
	"net/netip"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/ipaddr"
	"github.com/ratelimitd/ratelimitd/internal/server/apiv1"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/turns"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// An exchange is a message of requests, its answer, and the memory of both,
// which is used again for others: making it anew was most of what the handlers
// cost.
type exchange struct {
	of *exchanges
	// How gRPC has it answered, made once.
	answerSingle, answerBatch grpc.UnaryHandler

	request  ratelimitv1.ShouldAllowBatchRequest
	response ratelimitv1.ShouldAllowBatchResponse
	single   *ratelimitv1.ShouldAllowResponse // the answer to a request that came alone; nil: response is
	call     *inflight.Call                   // that of a batch
	working  int                              // bytes that it takes to decide the batch

	batch   decide.Batch
	decoder apiv1.Decoder
	encoder apiv1.Encoder
	// Of the response.
	results []ratelimitv1.ShouldAllowResult
	answers []ratelimitv1.ShouldAllowResult_Response
}

// maxKept is how many requests a message may have whose memory is kept: a few
// very large messages are not to hold on to theirs. Nor is one kept with a
// request of more limits than are valid.
const maxKept = 256

// What a request of a batch, and each of its limits, take until they are answered: on the
// wire it can be a few bytes.
const (
	requestBytes = 1500
	limitBytes   = 400
	// manyBytes is from how many on a batch is decided in a turn: those of 256 requests with
	// one limit. They take some 100 microseconds.
	manyBytes = 256 * (requestBytes + limitBytes)
)

// exchanges are those of an API.
type exchanges struct {
	core    *decide.Core
	latency *histogram.Vec
	turns   *turns.Turns
	idle    sync.Pool // of *exchange
}

func newExchanges(core *decide.Core, latency *histogram.Vec, t *turns.Turns) *exchanges {
	x := &exchanges{core: core, latency: latency, turns: t}
	x.idle.New = func() any { return newExchange(x) }
	return x
}

func newExchange(of *exchanges) *exchange {
	e := &exchange{of: of}
	single, batch := of.latency.Of(MethodUnary), of.latency.Of(MethodBatch)
	e.answerSingle = func(ctx context.Context, _ any) (any, error) {
		defer single.Since(histogram.Start())
		return e.decideSingle(ctx)
	}
	e.answerBatch = func(ctx context.Context, _ any) (any, error) {
		defer batch.Since(histogram.Start())
		if err := e.decide(ctx); err != nil {
			return nil, err
		}
		return e, nil
	}
	return e
}

// An arrival is an exchange that begins when its request has arrived: a call on
// which none does holds no memory.
type arrival struct {
	*exchange
	pool   *exchanges
	single bool  // it is one request, and no batch
	bytes  int   // of its message
	err    error // why it cannot be decoded, or nil
}

var (
	_ codec.Receiver = (*arrival)(nil)
	_ codec.Sender   = (*exchange)(nil)
)

// Undecodable implements codec.Receiver.
func (a *arrival) Undecodable(err error) { a.err = err }

// Received implements codec.Receiver.
func (a *arrival) Received(bytes int) any {
	a.bytes = bytes
	a.exchange = a.pool.idle.Get().(*exchange)
	if a.single {
		return a.first()
	}
	return &a.request
}

// first returns the request of e, which has none yet, for a message that is
// one request.
func (e *exchange) first() *ratelimitv1.ShouldAllowRequest {
	if requests := e.request.GetRequests(); cap(requests) > 0 && requests[:1][0] != nil {
		e.request.Requests = requests[:1]
	} else {
		e.request.Requests = []*ratelimitv1.ShouldAllowRequest{{}}
	}
	return e.request.Requests[0]
}

// Sending implements codec.Sender.
func (e *exchange) Sending() proto.Message {
	if e.single != nil {
		return e.single
	}
	return &e.response
}

// Sent implements codec.Sender. Nobody may use e after it.
func (e *exchange) Sent(bytes int) {
	e.call.Reply(bytes)
	e.call.Worked(e.working)
	e.call, e.working = nil, 0
	if len(e.request.GetRequests()) > maxKept {
		return
	}
	for _, r := range e.request.GetRequests() {
		if len(r.GetLimits()) > strategy.MaxLimits {
			return
		}
	}
	e.request.ResetVT()
	e.single = nil
	e.batch.Clear()
	e.decoder.Clear()
	e.encoder.Clear()
	clear(e.results)
	clear(e.answers)
	clear(e.response.GetResults())
	e.results, e.answers, e.response.Results = e.results[:0], e.answers[:0], e.response.Results[:0]
	e.of.idle.Put(e)
}

// ask has the core decide the requests of e.
func (e *exchange) ask(ctx context.Context) {
	e.batch.Requests = decide.Resized(e.batch.Requests, len(e.request.GetRequests()))
	for i, in := range e.request.GetRequests() {
		e.decoder.Request(&e.batch.Requests[i], in)
	}
	e.of.core.Decide(ctx, &e.batch)
	e.encoder.Begin(&e.batch)
}

// decideSingle decides the one request of e, and returns e as its answer.
func (e *exchange) decideSingle(ctx context.Context) (any, error) {
	e.ask(ctx)
	a := &e.batch.Answers[0]
	if a.Err != nil {
		return nil, fault.Error(a.Err)
	}
	e.single = e.encoder.Response(a)
	return e, nil
}

// decide decides the requests of e, and makes its response. The error is of a
// message that is itself invalid; those of its requests are in their results.
func (e *exchange) decide(ctx context.Context) error {
	n := len(e.request.GetRequests())
	switch {
	case n == 0:
		return e.refuse("no requests; send 1 to %d in a message", apiv1.MaxBatch)
	case n > apiv1.MaxBatch:
		return e.refuse("more than %d requests; send 1 to %[1]d in a message", apiv1.MaxBatch)
	}
	if !e.work(ctx) {
		return fault.ErrTooManyBytes
	}
	decided := false
	defer func() {
		if !decided { // a panic, or the caller is gone
			e.call.Worked(e.working)
		}
	}()
	var turn *turns.Turn
	if e.working > manyBytes {
		var err error
		if turn, err = e.of.turns.Take(ctx, clientOf(ctx)); err != nil {
			return fault.Error(err)
		}
		defer turn.End()
		ctx = turns.NewContext(ctx, turn)
	}
	e.ask(ctx)
	decided = true
	e.response.Results = decide.Resized(e.response.GetResults(), n)
	e.results, e.answers = decide.Resized(e.results, n), decide.Resized(e.answers, n)
	var overload *ratelimitv1.ShouldAllowResult
	for i := range e.batch.Answers {
		a := &e.batch.Answers[i]
		switch {
		case a.Outcome == decide.Shed && overload != nil && a.Err == e.batch.Answers[i-1].Err: //nolint:errorlint // the same one
			e.response.Results[i] = overload // those of a batch mostly share it
			continue
		case a.Err != nil:
			e.response.Results[i] = fault.Result(a.Err)
			if a.Outcome == decide.Shed {
				overload = e.response.Results[i]
			}
			continue
		}
		e.answers[i].Response = e.encoder.Response(a)
		e.results[i].Result = &e.answers[i]
		e.response.Results[i] = &e.results[i]
	}
	return nil
}

// clientOf returns the address of who makes a call.
func clientOf(ctx context.Context) netip.Prefix {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Prefix{}
	}
	return ipaddr.ClientOf(from.Addr)
}

// work counts what it takes to decide the batch, until its response is encoded. It reports
// whether there is room for that.
func (e *exchange) work(ctx context.Context) bool {
	call, bytes := inflight.CallFrom(ctx), 0
	for _, r := range e.request.GetRequests() {
		bytes += requestBytes + len(r.GetLimits())*limitBytes
	}
	if !call.Work(bytes) {
		return false
	}
	e.call, e.working = call, bytes
	return true
}

// refuse returns the status of a message that is itself invalid.
func (e *exchange) refuse(format string, args ...any) error {
	return fault.Error(e.of.core.Refuse("requests", format, args...))
}
