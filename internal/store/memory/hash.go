package memory

import (
	"hash/maphash"
	"math/bits"
	"math/rand/v2"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A key is the hash that stands for a counter, or for an identity: a namespace and
// an identifier.
type key struct{ hi, lo uint64 }

// A hasher hashes with random secrets of its own, so that nobody outside the process
// can choose names that collide. Each half of a key has its own seeds, so that two
// names which collide in one half do not collide in the other.
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

// identity hashes a namespace and an identifier. It hashes each on its own, so that
// ("ab", "c") and ("a", "bc") differ.
func (h *hasher) identity(namespace, identifier string) key {
	return h.identityIn(h.within(namespace), identifier)
}

// within hashes a namespace for identityIn. A batch needs that only once for each
// namespace.
func (h *hasher) within(namespace string) key {
	return key{maphash.String(h.namespace[0], namespace), maphash.String(h.namespace[1], namespace)}
}

// identityIn is identity for a namespace that within has hashed.
func (h *hasher) identityIn(namespace key, identifier string) key {
	return key{
		hi: h.fold(0, namespace.hi, maphash.String(h.identifier[0], identifier)),
		lo: h.fold(1, namespace.lo, maphash.String(h.identifier[1], identifier)),
	}
}

// counter hashes the counter of l that belongs to an identity. It hashes what
// Limit.SameCounter compares.
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
	sum := h.fold(half, uint64(l.Rate.Count)<<32|uint64(l.Capacity), uint64(l.Rate.Period)<<3|uint64(l.Strategy))
	if l.OnCalendar() {
		var calendar [64]byte // enough for the name of every zone
		sum = h.fold(half, sum, maphash.Bytes(h.name[half], append(l.AppendCalendar(calendar[:0]), l.Rate.Months)))
	}
	return sum
}

// fold mixes a and b, in that order, into one hash. It masks each with a secret,
// multiplies them, and combines the two halves of the product.
func (h *hasher) fold(half int, a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^h.secret[half][0], b^h.secret[half][1])
	return hi ^ lo
}
