package memcached

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const (
	maxKeyBytes = 250 // the protocol's limit
	// hashMark stands before the hash in the key of a name that is too long. No
	// other key has it: there, what follows a percent sign are hex digits.
	hashMark = "%sha256:"
)

// appendKey appends the key of the item that holds all counters of identifier
// in namespace:
//
//	rl:<namespace>:<identifier>
//
// A byte that is not printable ASCII, or that would be taken for one of the
// key's own, is written %XX: so no two identifiers have one key. Of a key
// longer than memcached takes, the end is replaced by the whole key's hash.
func appendKey(b []byte, namespace, identifier string) []byte {
	start := len(b)
	b = append(b, "rl:"...)
	b = store.AppendEscaped(b, namespace, ":")
	b = append(b, ':')
	b = store.AppendEscaped(b, identifier, "") // the first colon ended the namespace
	if len(b)-start <= maxKeyBytes {
		return b
	}
	sum := sha256.Sum256(b[start:])
	b = append(b[:start+maxKeyBytes-len(hashMark)-hex.EncodedLen(len(sum))], hashMark...)
	return hex.AppendEncode(b, sum[:])
}

// appendName appends the name by which an item knows the counter of l: the
// strategy, and then the limit's name or else, after a name of length 0, all
// that tells l from other limits (see Limit.SameCounter).
func appendName(b []byte, l *strategy.Limit) []byte {
	b = append(b, byte(l.Strategy))
	b = binary.AppendUvarint(b, uint64(len(l.Name)))
	if l.Name != "" {
		return append(b, l.Name...)
	}
	b = binary.AppendUvarint(b, uint64(l.Rate.Count))
	b = binary.AppendUvarint(b, uint64(l.Rate.Period))
	return binary.AppendUvarint(b, uint64(l.Capacity))
}
