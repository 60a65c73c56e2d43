// Package reservation makes the ids of reservations, and reads them. A reservation has
// taken an estimate from some limits, and is settled later with what was really used.
//
// The daemon keeps no table of reservations. All that settling one needs is in its id,
// with a code that only a daemon on the same store can make (HMAC-SHA256, RFC 2104): so
// an id can be read by whoever holds it, and can be neither forged nor altered.
package reservation

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
)

// A Reservation is what an estimate was taken from.
type Reservation struct {
	Namespace  string
	Identifier string
	Policy     string           // that the limits are of, or ""
	Limits     []strategy.Limit // those that the estimate was taken from
	Taken      uint64           // of each
	At         strategy.Instant // when, by the clock of the store
	Expires    strategy.Instant // until when it can be settled, by that clock
	Nonce      string           // tells it from all others
}

// KeyBytes is how long a key is.
const KeyBytes = 32

// A Key seals reservations. All daemons on one store have the same.
type Key [KeyBytes]byte

// NewKey returns a random key.
func NewKey() (k Key) {
	_, _ = rand.Read(k[:]) // never fails
	return k
}

// NewNonce returns a random nonce.
func NewNonce() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// The form of an id: a byte that says its version, a code of codeBytes over the rest,
// and a body.
const (
	version   = 1
	codeBytes = 16 // nobody guesses one of 2^128
	headBytes = 1 + codeBytes
	// maxBytes is longer than any id that Seal makes: of 16 limits with names of 128
	// bytes, each of which is written as six, and the longest identifier.
	maxBytes = 32 << 10
)

// Why an id cannot be settled. These are wrapped by the errors of Open.
var (
	ErrUnknown = errors.New("no daemon on this store has made it, or it was altered; send the bytes that Reserve returned")
	ErrVersion = errors.New("another version of the daemon has made it; settle it there")
)

// Seal returns the id of r.
func (k *Key) Seal(r *Reservation) []byte {
	id := make([]byte, headBytes, 512) // room for most
	id[0] = version
	id = append(id, body(r)...)
	copy(id[1:], k.code(id[headBytes:]))
	return id
}

// Open returns the reservation whose id Seal has made with the same key.
func (k *Key) Open(id []byte) (*Reservation, error) {
	switch {
	case len(id) <= headBytes || len(id) > maxBytes:
		return nil, ErrUnknown
	case id[0] != version:
		return nil, ErrVersion
	case !hmac.Equal(id[1:headBytes], k.code(id[headBytes:])):
		return nil, ErrUnknown
	}
	r, err := parse(id[headBytes:])
	if err != nil { // which a daemon with our key has made, and which has other bounds
		return nil, fmt.Errorf("%w: %w", ErrVersion, err)
	}
	return r, nil
}

func (k *Key) code(body []byte) []byte {
	h := hmac.New(sha256.New, k[:])
	h.Write([]byte{version})
	h.Write(body)
	return h.Sum(nil)[:codeBytes]
}

// A wire is a Reservation as a body has it.
type wire struct {
	Namespace  string           `json:"n"`
	Identifier string           `json:"i"`
	Policy     string           `json:"p,omitempty"`
	Limits     []wireLimit      `json:"l,omitempty"`
	Taken      uint64           `json:"t,omitempty"`
	At         strategy.Instant `json:"a"`
	Expires    strategy.Instant `json:"e"`
	Nonce      string           `json:"o"`
}

// A wireLimit is a limit as a body has it.
type wireLimit struct {
	Name      string            `json:"n,omitempty"`
	Rate      string            `json:"r"`
	Strategy  strategy.Strategy `json:"s"`
	Burst     int64             `json:"b,omitempty"`
	MaxDebt   strategy.Bound    `json:"m,omitempty"`
	Zone      string            `json:"z,omitempty"`
	AnchorDay uint8             `json:"d,omitempty"`
	Shadow    bool              `json:"h,omitempty"`
}

func body(r *Reservation) []byte {
	w := wire{
		Namespace: r.Namespace, Identifier: r.Identifier, Policy: r.Policy,
		Taken: r.Taken, At: r.At, Expires: r.Expires, Nonce: r.Nonce,
	}
	for i := range r.Limits {
		l := &r.Limits[i]
		own := wireLimit{Name: l.Name, Rate: l.Rate.String(), Strategy: l.Strategy, MaxDebt: l.MaxDebt, AnchorDay: l.AnchorDay, Shadow: l.Shadow}
		if l.Strategy == strategy.TokenBucket || l.Strategy == strategy.LeakyBucket || l.Strategy == strategy.GCRA {
			own.Burst = l.Capacity // also where it is the default of this daemon
		}
		if l.Zone != nil {
			own.Zone = l.Zone.String()
		}
		w.Limits = append(w.Limits, own)
	}
	b, err := json.Marshal(w)
	if err != nil {
		panic(err) // it has nothing that cannot be encoded
	}
	return b
}

func parse(body []byte) (*Reservation, error) {
	var w wire
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, err
	}
	r := &Reservation{
		Namespace: w.Namespace, Identifier: w.Identifier, Policy: w.Policy,
		Taken: w.Taken, At: w.At, Expires: w.Expires, Nonce: w.Nonce,
	}
	for _, own := range w.Limits {
		zone, err := timezone.Load(own.Zone)
		if err != nil {
			return nil, err
		}
		l, wrong := strategy.NewLimit(strategy.Spec{
			Name: own.Name, Rate: own.Rate, Strategy: own.Strategy, Burst: uint64(max(0, own.Burst)), MaxDebt: own.MaxDebt,
			Zone: zone, AnchorDay: uint32(own.AnchorDay),
		}, math.MaxInt64)
		if wrong != nil {
			return nil, errors.New(wrong[0].Problem)
		}
		l.Shadow = own.Shadow
		r.Limits = append(r.Limits, l)
	}
	return r, nil
}

// clockSkew is how far apart the clocks of a daemon and of its store may be. It only
// matters for one that is settled again when it is just about to expire.
const clockSkew = time.Minute

// Once returns the limit that lets r be settled once. It is a counter of r's identifier
// that settling takes from, together with the limits. It lasts longer than r from
// whenever that is settled.
func (r *Reservation) Once() strategy.Limit {
	life := time.Duration(r.Expires-r.At)*time.Microsecond + clockSkew
	once := rate.Rate{Count: 1, Period: life.Truncate(rate.MinPeriod)}
	l, wrong := strategy.NewLimitOf(strategy.Spec{Name: store.OncePrefix + r.Nonce, Strategy: strategy.GCRA}, once, 0)
	if wrong != nil {
		panic(wrong[0].Problem) // MaxLife is too long
	}
	return l
}

// MaxLife is how long a reservation may last.
const MaxLife = rate.MaxPeriod - clockSkew
