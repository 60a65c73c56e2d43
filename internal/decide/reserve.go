package decide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/auth"
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

// withoutShadow returns limits as none of them is in shadow mode: what is decided
// together must have none. No limit stops a Charge or a Refund, so that these consume
// the same.
func withoutShadow(limits []strategy.Limit) []strategy.Limit {
	enforced := slices.Clone(limits)
	for i := range enforced {
		enforced[i].Shadow = false
	}
	return enforced
}

// heedShadow makes d, of a request of withoutShadow(limits), what it is with limits.
func heedShadow(d *strategy.Decision, limits []strategy.Limit) {
	if d.Allowed {
		return
	}
	for i := range d.Statuses {
		if !limits[i].Shadow && !d.Statuses[i].Allowed {
			return
		}
	}
	d.Allowed, d.RetryAfter = true, 0
}

// A keyring has the key that seals reservations, on which all daemons of a store agree.
// Until they have, it is one that this process alone knows. It also opens what the key
// before has sealed: the store may lose one, and then get that of another daemon.
type keyring struct {
	store  store.Store
	asking chan struct{} // holds an element while the store is asked

	mu     sync.Mutex         // protects the following
	keys   [2]reservation.Key // the one in force, and the one before
	agreed bool               // whether the one in force is agreed on
	asked  time.Time          // when the store was last asked
	failed error              // why it said nothing then, or nil
}

const (
	// keyName is what the store knows the key by.
	keyName = "reservation-key"
	// keyFresh is after how long the store is asked again: it may have lost the key, and
	// then is told ours.
	keyFresh = 10 * time.Second
	// keyAgain is how soon it is asked again because of an id that nobody has sealed, or
	// because it has failed.
	keyAgain = time.Second
)

func newKeyring(s store.Store) *keyring {
	key := reservation.NewKey()
	return &keyring{store: s, asking: make(chan struct{}, 1), keys: [2]reservation.Key{key, key}}
}

// current returns the key in force. The error wraps ErrStore, and says that no other
// daemon knows the key.
func (k *keyring) current(ctx context.Context) (reservation.Key, error) {
	keys, err := k.known(ctx, keyFresh)
	return keys[0], err
}

// known returns the keys, as the store has them or had them at most so long ago. A store
// that fails changes no key that is agreed on. One call asks the store at a time; only
// those wait for it which know no key that is agreed on.
func (k *keyring) known(ctx context.Context, fresh time.Duration) (keys [2]reservation.Key, err error) {
	keys, err, ok := k.read(fresh)
	if ok {
		return keys, err
	}
	select {
	case k.asking <- struct{}{}:
	case <-ctx.Done():
		return keys, storeError(ctx.Err())
	}
	defer func() { <-k.asking }()
	keys, err, ok = k.read(fresh) // another call may have asked meanwhile
	if ok {
		return keys, err
	}
	value, err := k.store.Agree(ctx, keyName, keys[0][:])
	if err == nil && len(value) != reservation.KeyBytes {
		err = fmt.Errorf("%s in the store has %d bytes and not %d; delete it", keyName, len(value), reservation.KeyBytes)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if callerGone(ctx) == nil || err == nil { // or else the next caller asks
		k.asked, k.failed = time.Now(), err
	}
	if err == nil {
		if key := reservation.Key(value); key != k.keys[0] {
			k.keys = [2]reservation.Key{key, k.keys[0]}
		}
		k.agreed = true
	}
	if k.agreed {
		return k.keys, nil
	}
	return k.keys, storeError(err)
}

// read returns what is known without the store, and whether that is enough.
func (k *keyring) read(fresh time.Duration) (keys [2]reservation.Key, err error, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed != nil {
		fresh = keyAgain
	}
	ok = !k.asked.IsZero() && time.Since(k.asked) < fresh
	if ok && !k.agreed {
		err = storeError(k.failed)
	}
	return k.keys, err, ok
}

// open returns the reservation of an id. The error wraps ErrStore, or is that of
// reservation.Key.Open.
func (k *keyring) open(ctx context.Context, id []byte) (*reservation.Reservation, error) {
	for _, fresh := range []time.Duration{keyFresh, keyAgain} {
		keys, failed := k.known(ctx, fresh)
		for i := range keys {
			r, err := keys[i].Open(id)
			if !errors.Is(err, reservation.ErrUnknown) {
				return r, err
			}
		}
		if failed != nil {
			return nil, failed
		}
	}
	return nil, reservation.ErrUnknown
}
