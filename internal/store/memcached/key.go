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
	// hashMark comes before the hash in a key that would be too long. No other key
	// contains it, because in keys a percent sign comes before hex digits.
	hashMark = "%sha256:"
)

// appendKey appends the key of the item that holds all counters of identifier
// in namespace:
//
//	rl:<namespace>:<identifier>
//	<prefix>%rl:<namespace>:<identifier>    with a prefix
//
// A prefix has no percent sign, and no other key has one that an r follows, so that
// keys with different prefixes, or none, differ.
// No two identifiers share a key, because AppendEscaped writes as %XX each byte that
// has a meaning in the key. If the key is longer than memcached allows, its end is
// replaced by a hash of the whole key.
func appendKey(b []byte, prefix, namespace, identifier string) []byte {
	start := len(b)
	if prefix != "" {
		b = append(append(b, prefix...), '%')
	}
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

// appendName appends the name that the counter of l has in an item: the strategy,
// the length of the limit's name, and the name. For an unnamed limit, the length 0 is
// followed by what Limit.SameCounter compares, in binary form, which is shorter and
// faster than Limit.Counter.
func appendName(b []byte, l *strategy.Limit) []byte {
	b = append(b, byte(l.Strategy))
	b = binary.AppendUvarint(b, uint64(len(l.Name)))
	if l.Name != "" {
		return append(b, l.Name...)
	}
	b = binary.AppendUvarint(b, uint64(l.Rate.Count))
	b = binary.AppendUvarint(b, uint64(l.Rate.Period))
	b = binary.AppendUvarint(b, uint64(l.Capacity))
	if l.Rate.Months > 0 {
		b = append(b, l.Rate.Months)
	}
	return l.AppendCalendar(b) // it begins with no such number
}
