package memory

import (
	"hash/maphash"
	"math/bits"
	"math/rand/v2"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A key is the hash by which a counter, or an identity, is known.
type key struct{ hi, lo uint64 }

// A hasher hashes under secrets of its own. Each half of a key has its own
// seeds, so that a collision in one says nothing of the other.
type hasher struct {
	namespace, identifier, name [2]maphash.Seed
	secret                      [2][2]uint64
}

func newHasher() hasher {
	var h hasher
	for half := range 2 {
		h.namespace[half], h.identifier[half], h.name[half] = maphash.MakeSeed(), maphash.MakeSeed(), maphash.MakeSeed()
		h.secret[half] = [2]uint64{rand.Uint64(), rand.Uint64()}
	}
	return h
}

// identity hashes a namespace and an identifier. They are hashed apart, so
// where the one ends and the other begins matters.
func (h *hasher) identity(namespace, identifier string) key {
	return h.identityIn(h.within(namespace), identifier)
}

// within hashes a namespace, for identityIn.
func (h *hasher) within(namespace string) key {
	return key{maphash.String(h.namespace[0], namespace), maphash.String(h.namespace[1], namespace)}
}

func (h *hasher) identityIn(namespace key, identifier string) key {
	return key{
		hi: h.fold(0, namespace.hi, maphash.String(h.identifier[0], identifier)),
		lo: h.fold(1, namespace.lo, maphash.String(h.identifier[1], identifier)),
	}
}

// counter hashes the counter of l that belongs to an identity: by l's name and
// strategy, or by all but the name if it has none (see Limit.SameCounter).
func (h *hasher) counter(identity key, l *strategy.Limit) key {
	return key{
		hi: h.fold(0, identity.hi, h.limit(0, l)),
		lo: h.fold(1, identity.lo, h.limit(1, l)),
	}
}

func (h *hasher) limit(half int, l *strategy.Limit) uint64 {
	if l.Name != "" {
		return h.fold(half, maphash.String(h.name[half], l.Name), uint64(l.Strategy))
	}
	return h.fold(half, uint64(l.Rate.Count)<<32|uint64(l.Capacity), uint64(l.Rate.Period)<<3|uint64(l.Strategy))
}

// fold mixes a and b, in that order, into one hash: the two halves of the
// product of both, each masked by a secret.
func (h *hasher) fold(half int, a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^h.secret[half][0], b^h.secret[half][1])
	return hi ^ lo
}
