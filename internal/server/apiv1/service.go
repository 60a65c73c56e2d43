package apiv1

import (
	"context"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A Service does what the methods of the API do that are not called for each request
// of a service's own callers: so it does not use memory again. The errors are those of
// the core.
type Service struct{ Core *decide.Core }

// Reset forgets what an identifier has consumed.
func (s Service) Reset(ctx context.Context, in *ratelimitv1.ResetRequest) (*ratelimitv1.ResetResponse, error) {
	var d Decoder
	var r decide.Request
	d.Reset(&r, in)
	if err := s.Core.Reset(ctx, &r); err != nil {
		return nil, err
	}
	return &ratelimitv1.ResetResponse{}, nil
}

// Reserve decides a request whose cost is an estimate.
func (s Service) Reserve(ctx context.Context, in *ratelimitv1.ReserveRequest) (*ratelimitv1.ReserveResponse, error) {
	batch := decide.NewBatch()
	defer batch.Free()
	var d Decoder
	batch.Requests = append(batch.Requests, decide.Request{})
	r := &batch.Requests[0]
	d.Request(r, in.GetRequest())
	if r.Mode != strategy.Take {
		r.Wrong = append(r.Wrong, decide.Violation{Field: "mode", Problem: r.Mode.String() + " reserves nothing; leave it out, or use ShouldAllow"})
	}
	id, err := s.Core.Reserve(ctx, batch)
	if err == nil {
		err = decide.RenameFields(batch.Answers[0].Err, func(field string) string { return "request." + field })
	}
	if err != nil {
		return nil, err
	}
	return &ratelimitv1.ReserveResponse{Reservation: id, Response: response(batch)}, nil
}

// Commit settles a reservation with what was used.
func (s Service) Commit(ctx context.Context, in *ratelimitv1.CommitRequest) (*ratelimitv1.CommitResponse, error) {
	batch := decide.NewBatch()
	defer batch.Free()
	repeated, err := s.Core.Settle(ctx, in.GetReservation(), in.GetActual(), batch)
	if err != nil {
		return nil, err
	}
	return &ratelimitv1.CommitResponse{Response: response(batch), Repeated: repeated}, nil
}

// Cancel settles a reservation of which nothing was used.
func (s Service) Cancel(ctx context.Context, in *ratelimitv1.CancelRequest) (*ratelimitv1.CancelResponse, error) {
	batch := decide.NewBatch()
	defer batch.Free()
	if _, err := s.Core.Settle(ctx, in.GetReservation(), 0, batch); err != nil {
		return nil, err
	}
	return &ratelimitv1.CancelResponse{}, nil
}

// response returns the message that says the one answer of b.
func response(b *decide.Batch) *ratelimitv1.ShouldAllowResponse {
	var e Encoder
	e.Begin(b)
	return e.Response(&b.Answers[0])
}
