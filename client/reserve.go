package client

import (
	"context"
	"time"

	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A Reservation is work whose cost is known only when it is done. Reserve makes it; Commit
// or Cancel settles it. One that nobody settles has cost its estimate.
type Reservation struct {
	// Result says whether the work may be done.
	Result Result
	// ID settles the reservation: another process may do so with Limiter.Reservation. It is
	// nil if there is nothing to settle, as the work is denied or the identifier is exempt.
	ID []byte

	limiter    *Limiter
	identifier string
}

// Reserve asks whether identifier may do now what will cost about so many units, and
// consumes them if it may.
func (l *Limiter) Reserve(ctx context.Context, identifier string, estimate uint64) *Reservation {
	began := time.Now()
	r := &Reservation{limiter: l, identifier: identifier}
	if identifier == Exempt {
		r.Result = l.told("reserve", identifier, Result{Allowed: true, Reason: ReasonExempt}, began)
		return r
	}
	id := wellFormed(identifier)
	asked, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	response, err := l.client.api.Reserve(asked, &ratelimitv1.ReserveRequest{Request: &ratelimitv1.ShouldAllowRequest{
		Namespace: l.namespace, Identifier: id, Limits: l.sent, Policy: l.policy, Cost: &estimate,
	}})
	if err != nil {
		r.Result = l.client.failed(ctx, err)
	} else {
		r.Result, r.ID = resultOf(response.GetResponse()), response.GetReservation()
	}
	l.tell("reserve", identifier, &r.Result, began)
	return r
}

// Reservation returns the reservation of an ID, so that another process than the one that
// made it can settle it.
func (l *Limiter) Reservation(identifier string, id []byte) *Reservation {
	return &Reservation{ID: id, limiter: l, identifier: identifier}
}

// Commit settles r with what was really used. It counts once, so that after an error it may
// be called again. If no daemon made the reservation, as none answered and the failure
// policy allowed the work, it charges what was used.
func (r *Reservation) Commit(ctx context.Context, actual uint64) Result {
	switch {
	case r.ID != nil:
	case r.Result.Reason == ReasonFailure && r.Result.Allowed:
		return r.limiter.Charge(ctx, r.identifier, actual)
	default:
		return r.Result
	}
	return r.settle("commit", func() Result {
		asked, cancel := context.WithTimeout(ctx, r.limiter.timeout)
		defer cancel()
		response, err := r.limiter.client.api.Commit(asked, &ratelimitv1.CommitRequest{Reservation: r.ID, Actual: actual})
		if err != nil {
			return r.limiter.client.failed(ctx, err)
		}
		return resultOf(response.GetResponse())
	})
}

// Cancel settles r, of which nothing was used. After an error it may be called again.
func (r *Reservation) Cancel(ctx context.Context) error {
	if r.ID == nil {
		return nil
	}
	return r.settle("cancel", func() Result {
		asked, cancel := context.WithTimeout(ctx, r.limiter.timeout)
		defer cancel()
		_, err := r.limiter.client.api.Cancel(asked, &ratelimitv1.CancelRequest{Reservation: r.ID})
		return Result{Allowed: err == nil, Err: err}
	}).Err
}

// settle has do settle r, which may free its identifier.
func (r *Reservation) settle(operation string, do func() Result) Result {
	began := time.Now()
	id := wellFormed(r.identifier)
	r.limiter.forget(id)
	defer r.limiter.forget(id)
	return r.limiter.told(operation, r.identifier, do(), began)
}
