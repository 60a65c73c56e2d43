package decide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/reservation"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// ErrExpired is wrapped by the error of settling a reservation that is too old.
var ErrExpired = errors.New("the reservation has expired")

// DefaultReservationLife is how long a reservation can be settled: longer than most work
// takes whose cost is not known before. Each one that is settled takes a counter in the
// store for twice as long.
const DefaultReservationLife = time.Hour

// MaxReservationLife bounds it.
const MaxReservationLife = 7 * 24 * time.Hour

// Reserve decides the one request of b, a Take whose cost is an estimate, and sets its
// Answer. It returns the id that settles it, or nil if nothing is reserved: the request
// is denied or a dry run, or there is no decision. The error is one that an Answer may
// have: then nothing was decided.
//
// Where nothing was counted, as the store failed, the reservation is of nothing, and
// settling it charges all that was used.
func (c *Core) Reserve(ctx context.Context, b *Batch) (id []byte, err error) {
	key, err := c.keys.current(ctx)
	if err != nil {
		return nil, c.storeFailed(ctx, err)
	}
	c.Decide(ctx, b)
	r, a := &b.Requests[0], &b.Answers[0]
	if a.Err != nil || !a.Decision.Allowed || r.DryRun {
		return nil, nil
	}
	made := &reservation.Reservation{
		Namespace: r.Namespace, Identifier: r.Identifier, Policy: r.Policy, Limits: a.Limits,
		At: a.Decision.At, Nonce: reservation.NewNonce(),
	}
	if made.At == 0 {
		made.At = strategy.InstantOf(time.Now())
	}
	made.Expires = made.At + strategy.Instant(c.reservationLife/time.Microsecond)
	switch a.Outcome {
	case Shadowed: // and so nothing was taken from the limits in shadow mode
		made.Limits = slices.DeleteFunc(slices.Clone(a.Limits), func(l strategy.Limit) bool { return l.Shadow })
		made.Taken = r.Cost
	case Allowed:
		made.Taken = r.Cost
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
	case strategy.InstantOf(time.Now()) >= made.Expires:
		c.book.Refused.Add(1)
		return false, fmt.Errorf("%w, at %s, and has cost its estimate of %d; charge or refund the difference", ErrExpired,
			time.UnixMicro(int64(made.Expires)).UTC().Format(time.RFC3339), made.Taken)
	}
	if len(made.Limits) == 0 { // it was exempt
		b.Answers = append(b.Answers[:0], Answer{Outcome: Exempt, Decision: exempted})
		return false, nil
	}
	once := made.Once()
	r := Request{
		Namespace: made.Namespace, Identifier: made.Identifier, Policy: made.Policy,
		Limits: slices.Clone(made.Limits), Cost: used - made.Taken, Mode: strategy.Charge, once: &once,
	}
	if used < made.Taken {
		r.Cost, r.Mode, r.ConsumedAt = made.Taken-used, strategy.Refund, made.At
	}
	for i := range r.Limits {
		r.Limits[i].Shadow = false // which what is decided together must not have; it changes no charge
	}
	b.Requests = append(b.Requests, r)
	c.Decide(ctx, b)
	a := &b.Answers[0]
	if a.Err != nil {
		return false, a.Err
	}
	if over := func(i int) bool { return !made.Limits[i].Shadow && !a.Decision.Statuses[i].Allowed }; !a.Decision.Allowed {
		a.Decision.Allowed = true
		for i := range a.Decision.Statuses {
			a.Decision.Allowed = a.Decision.Allowed && !over(i)
		}
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

// A keyring has the key that seals reservations, on which all daemons of a store agree.
type keyring struct {
	store store.Store

	mu    sync.Mutex      // protects the following
	key   reservation.Key // the one that was agreed on last, or else ours
	known bool            // whether it was agreed on
	asked time.Time       // when the store was last asked
}

const (
	// agreed is what the store knows the key by.
	agreed = "reservation-key"
	// keyFresh is after how long the store is asked again: it may have lost the key, and
	// then is told ours.
	keyFresh = 10 * time.Second
	// keyAgain is how soon it is asked again because of an id that nobody has sealed.
	keyAgain = time.Second
)

func newKeyring(s store.Store) *keyring { return &keyring{store: s, key: reservation.NewKey()} }

// current returns the key. The error wraps ErrStore.
func (k *keyring) current(ctx context.Context) (reservation.Key, error) {
	return k.newer(ctx, keyFresh)
}

// newer returns the key, as the store has it or had it at most so long ago. A store that
// fails changes no key that is known.
func (k *keyring) newer(ctx context.Context, fresh time.Duration) (reservation.Key, error) {
	k.mu.Lock()
	key, known := k.key, k.known
	if known && time.Since(k.asked) < fresh {
		k.mu.Unlock()
		return key, nil
	}
	k.asked = time.Now()
	k.mu.Unlock()

	value, err := k.store.Agree(ctx, agreed, key[:])
	if err == nil && len(value) != reservation.KeyBytes {
		err = fmt.Errorf("%s in the store has %d bytes and not %d; delete it", agreed, len(value), reservation.KeyBytes)
	}
	if err != nil {
		if known {
			return key, nil
		}
		return key, storeError(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.known = reservation.Key(value), true
	return k.key, nil
}

// open returns the reservation of an id. The error wraps ErrStore, or is that of
// reservation.Key.Open.
func (k *keyring) open(ctx context.Context, id []byte) (*reservation.Reservation, error) {
	key, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	r, err := key.Open(id)
	if !errors.Is(err, reservation.ErrUnknown) {
		return r, err
	}
	again, failed := k.newer(ctx, keyAgain)
	if failed != nil || again == key {
		return nil, err
	}
	return again.Open(id)
}
