package memory

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math/bits"
	mathrand "math/rand/v2"
	"unsafe"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A key is the hash that stands for a counter, or for an identity: a namespace and
// an identifier. Both have the same highest bits, which say in which shard they are.
type key struct{ hi, lo uint64 }

// shardBits are the highest bits of a key: enough for maxShards.
const shardBits = 16

// A hasher hashes with secrets of its own, so that nobody who does not know them can choose
// names that collide. A snapshot keeps the secrets, because it knows the counters by
// their keys alone. So it is not package maphash that hashes: its seeds end with the
// process.
//
// A text is hashed as the function NH of UMAC does: that is the sum of the products of its
// words, to each of which a secret is added that belongs to its place. For any two texts of
// a piece, the secrets for which they collide in one half are about 1 in 2^63 of all.
// loadtest/TRIED.md compares it with others.
type hasher struct {
	words [pieceBytes/8 + 2]uint64 // the first half of a key uses them from the first on, the second from the third on
	fold  [2][2]uint64             // of each half
}

// pieceBytes is how long a text may be to be hashed in one piece: none is longer.
const pieceBytes = store.MaxIdentifierBytes

// secretBytes is how long the secrets of a hasher are in a file.
const secretBytes = int(unsafe.Sizeof(hasher{}))

func newHasher() hasher {
	var secret [secretBytes]byte
	_, _ = rand.Read(secret[:]) // which never fails
	h, _ := parseHasher(secret[:])
	return h
}

// knownHasher returns a hasher that is the same each time.
func knownHasher() hasher {
	var secret [secretBytes]byte
	_, _ = mathrand.NewChaCha8([32]byte{}).Read(secret[:]) // which never fails
	h, _ := parseHasher(secret[:])
	return h
}

// parseHasher returns the hasher that append has written.
func parseHasher(b []byte) (h hasher, err error) {
	if len(b) != secretBytes {
		return h, errors.New("its secrets are not as long as they must be")
	}
	h.each(func(word *uint64) { *word, b = binary.LittleEndian.Uint64(b), b[8:] })
	return h, nil
}

// append appends the secrets of h to b.
func (h *hasher) append(b []byte) []byte {
	h.each(func(word *uint64) { b = binary.LittleEndian.AppendUint64(b, *word) })
	return b
}

func (h *hasher) each(f func(*uint64)) {
	for i := range h.words {
		f(&h.words[i])
	}
	for half := range h.fold {
		f(&h.fold[half][0])
		f(&h.fold[half][1])
	}
}

// identity hashes a namespace and an identifier. It hashes each on its own, so that
// ("ab", "c") and ("a", "bc") differ.
func (h *hasher) identity(namespace, identifier string) key {
	return h.identityIn(h.text(namespace), identifier)
}

// identityIn is identity for a namespace that text has hashed. A batch needs that only
// once for each namespace.
func (h *hasher) identityIn(namespace key, identifier string) key {
	sum := h.text(identifier)
	return key{hi: h.mix(0, namespace.hi, sum.hi), lo: h.mix(1, namespace.lo, sum.lo)}
}

// counter hashes the counter of a limit, which limit has hashed, that belongs to an identity.
func (h *hasher) counter(identity, limit key) key {
	const ofShard uint64 = (1<<shardBits - 1) << (64 - shardBits)
	return key{
		hi: identity.hi&ofShard | h.mix(0, identity.hi, limit.hi)&^ofShard,
		lo: h.mix(1, identity.lo, limit.lo),
	}
}

// limit hashes what Limit.SameCounter compares. A batch needs that only once for requests that
// have a limit in common.
func (h *hasher) limit(l *strategy.Limit) key {
	if l.Name != "" {
		name := h.text(l.Name)
		return key{h.mix(0, name.hi, uint64(l.Strategy)), h.mix(1, name.lo, uint64(l.Strategy))}
	}
	size, period := uint64(l.Rate.Count)<<32|uint64(l.Capacity), uint64(l.Rate.Period)<<3|uint64(l.Strategy)
	sum := key{h.mix(0, size, period), h.mix(1, size, period)}
	if l.OnCalendar() {
		var calendar [64]byte // enough for the name of every zone
		days := h.bytes(append(l.AppendCalendar(calendar[:0]), l.Rate.Months))
		sum = key{h.mix(0, sum.hi, days.hi), h.mix(1, sum.lo, days.lo)}
	}
	return sum
}

// text hashes s.
func (h *hasher) text(s string) key { return h.bytes(unsafe.Slice(unsafe.StringData(s), len(s))) }

// bytes hashes b.
func (h *hasher) bytes(b []byte) key {
	if len(b) <= pieceBytes {
		return h.piece(b)
	}
	first, rest := h.piece(b[:pieceBytes]), h.bytes(b[pieceBytes:])
	return key{h.mix(0, first.hi, rest.hi), h.mix(1, first.lo, rest.lo)}
}

// piece hashes b, which has at most pieceBytes.
func (h *hasher) piece(b []byte) key {
	var first, second product
	length := uint64(len(b))
	words := h.words[:]
	for ; len(b) >= 16; b, words = b[16:], words[2:] {
		x, y := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:16])
		_ = words[3]
		first.add(x+words[0], y+words[1])
		second.add(x+words[2], y+words[3])
	}
	if len(b) > 0 {
		x, y := lastWords(b)
		_ = words[3]
		first.add(x+words[0], y+words[1])
		second.add(x+words[2], y+words[3])
	}
	return key{h.mix(0, first.hi^length, first.lo), h.mix(1, second.hi^length, second.lo)}
}

// A product is a sum of products, modulo 2^128.
type product struct{ hi, lo uint64 }

func (p *product) add(x, y uint64) {
	hi, lo := bits.Mul64(x, y)
	var carry uint64
	p.lo, carry = bits.Add64(p.lo, lo, 0)
	p.hi, _ = bits.Add64(p.hi, hi, carry)
}

// lastWords returns b, which has 1 to 15 bytes, as two words. No two b of one length have
// the same words.
func lastWords(b []byte) (x, y uint64) {
	n := len(b)
	switch {
	case n >= 8:
		return binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[n-8:])
	case n >= 4:
		return uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint32(b[n-4:]))<<32, 0
	default:
		return uint64(b[0]) | uint64(b[n/2])<<8 | uint64(b[n-1])<<16, 0
	}
}

// mix mixes a and b, in that order, into one hash. It masks each with a secret,
// multiplies them, and combines the two halves of the product.
func (h *hasher) mix(half int, a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^h.fold[half][0], b^h.fold[half][1])
	return hi ^ lo
}
