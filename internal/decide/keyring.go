package decide

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/reservation"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

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
