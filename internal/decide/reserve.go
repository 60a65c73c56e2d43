package decide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/reservation"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// ErrExpired is wrapped by the error of settling a reservation that is too old.
var ErrExpired = errors.New("the reservation has expired")

// Reserve decides the one request of b, a Take whose cost is an estimate, and sets its
// Answer. It returns the id that settles it, or nil if nothing is reserved: the request
// is denied or a dry run, or there is no decision. The error is one that an Answer may
// have: then nothing was decided.
//
// Where nothing was counted, as the store failed, the reservation is of nothing, and
// settling it charges all that was used.
func (c *Core) Reserve(ctx context.Context, b *Batch) (id []byte, err error) {
	r := &b.Requests[0]
	if err := c.Permit(ctx, operationOf(r), r.Namespace, r.Policy); err != nil {
		return nil, err
	}
	// First the key: once something is taken, there must be an id for it.
	key, alone := c.keys.current(ctx)
	if gone := callerGone(ctx); alone != nil && gone != nil {
		return nil, gone
	}
	// Without the store the key is one that this process alone knows, and the failure
	// policy decides.
	c.Decide(ctx, b)
	a := &b.Answers[0]
	if reserves := a.Err == nil && a.Decision.Allowed && !r.DryRun; !reserves {
		return nil, nil
	}
	made := &reservation.Reservation{
		Namespace: r.Namespace, Identifier: r.Identifier, Policy: r.Policy, Limits: a.Limits,
		At: a.Decision.At, Nonce: reservation.NewNonce(),
	}
	if made.At == 0 {
		made.At = c.now()
	}
	made.Expires = made.At + strategy.Instant(c.reservationLife/time.Microsecond)
	if a.Outcome == Allowed || a.Outcome == Shadowed { // or else nothing was counted
		made.Taken = r.Cost
	}
	if a.Outcome == Shadowed { // then nothing was taken from the limits in shadow mode
		made.Limits = slices.DeleteFunc(slices.Clone(a.Limits), func(l strategy.Limit) bool { return l.Shadow })
	}
	return key.Seal(made), nil
}

// Settle settles the reservation of an id with what was really used: it charges what
// that is more than was taken, or gives back what it is less. It decides b, which is
// empty, and sets its one Answer. It counts once: repeated says that the reservation was
// settled before, and nothing was changed. The error is one that an Answer may have, or
// wraps ErrExpired.
func (c *Core) Settle(ctx context.Context, id []byte, used uint64, b *Batch) (repeated bool, err error) {
	made, err := c.keys.open(ctx, id)
	switch {
	case errors.Is(err, ErrStore):
		return false, c.storeFailed(ctx, err)
	case err != nil:
		return false, c.Refuse("reservation", "%v", err)
	}
	// Whoever may reserve may settle. Others learn nothing of what the id holds.
	if err := c.Permit(ctx, auth.Decide, made.Namespace, made.Policy); err != nil {
		return false, err
	}
	if c.now() >= made.Expires {
		c.book.Refused.Add(1)
		return false, fmt.Errorf("%w, at %s, and has cost its estimate of %d; charge or refund the difference", ErrExpired,
			time.UnixMicro(int64(made.Expires)).UTC().Format(time.RFC3339), made.Taken)
	}
	if len(made.Limits) == 0 { // nothing was taken: it was exempt, or over limits that are all in shadow mode
		b.Answers = append(b.Answers[:0], Answer{Outcome: Exempt, Decision: exempted})
		return false, nil
	}
	once := made.Once()
	r := Request{
		Namespace: made.Namespace, Identifier: made.Identifier, Policy: made.Policy,
		Limits: made.Limits, Cost: used - made.Taken, Mode: strategy.Charge, once: &once,
	}
	if used < made.Taken {
		r.Cost, r.Mode, r.ConsumedAt = made.Taken-used, strategy.Refund, made.At
	}
	b.Requests = append(b.Requests, r)
	c.Decide(ctx, b)
	a := &b.Answers[0]
	if a.Err != nil {
		return false, a.Err
	}
	return a.repeated, nil
}

// storeFailed returns err, of the store, as the error of an Answer, and accounts for it.
func (c *Core) storeFailed(ctx context.Context, err error) error {
	if gone := callerGone(ctx); gone != nil {
		return gone
	}
	c.book.StoreErrors.Add(1)
	c.fallback.outage.failed(c.fallback.onError, err, 1)
	return err
}
