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
	namespace, identifier [2]maphash.Seed
	name                  maphash.Seed
	secret                [4]uint64
}

func newHasher() hasher {
	h := hasher{
		namespace:  [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		identifier: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		name:       maphash.MakeSeed(),
	}
	for i := range h.secret {
		h.secret[i] = rand.Uint64()
	}
	return h
}

// identity hashes a namespace and an identifier. They are hashed apart, so
// where the one ends and the other begins matters.
func (h *hasher) identity(namespace, identifier string) key {
	return key{
		hi: h.fold(maphash.String(h.namespace[0], namespace), maphash.String(h.identifier[0], identifier)),
		lo: h.fold(maphash.String(h.namespace[1], namespace), maphash.String(h.identifier[1], identifier)),
	}
}

// counter hashes the counter of l that belongs to an identity: by l's name and
// strategy, or by all but the name if it has none (see Limit.SameCounter).
func (h *hasher) counter(identity key, l *strategy.Limit) key {
	var limit uint64
	if l.Name != "" {
		limit = h.fold(maphash.String(h.name, l.Name), uint64(l.Strategy))
	} else {
		limit = h.fold(uint64(l.Rate.Count)<<32|uint64(l.Capacity), uint64(l.Rate.Period)<<3|uint64(l.Strategy))
	}
	return key{
		hi: h.fold(identity.hi, limit),
		lo: h.fold(identity.lo, limit^h.secret[2]) ^ h.secret[3],
	}
}

// fold mixes a and b, in that order, into one hash: the two halves of the
// product of both, each masked by a secret.
func (h *hasher) fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^h.secret[0], b^h.secret[1])
	return hi ^ lo
}
