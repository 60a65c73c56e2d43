package mapping

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
)

// An Ask is what a record asks of a policy, or by one descriptor of Envoy's.
type Ask struct {
	At   int64 // in microseconds since the Unix epoch
	Cost uint64
	// More says that the next Ask is of the same record: it makes several descriptors.
	More bool

	// Sum stands for its key: for any two keys, the chance that they have the same is below 1
	// in 10^30, and nobody can choose keys that do.
	Sum [2]uint64

	start, end uint32 // of the key in the names of its Asks
}

// seeds are those of all sums.
var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func sumOf(key []byte) [2]uint64 {
	return [2]uint64{maphash.Bytes(seeds[0], key), maphash.Bytes(seeds[1], key)}
}

// Asks are those of some records, in their order. The zero Asks are none.
type Asks struct {
	All   []Ask
	names []byte
}

// Reset makes a empty. It keeps its memory.
func (a *Asks) Reset() { a.All, a.names = a.All[:0], a.names[:0] }

// Bytes returns how long the keys are together.
func (a *Asks) Bytes() int { return len(a.names) }

// Key returns who asks, as NameOf reads it. Equal keys are of the same.
func (a *Asks) Key(i int) []byte { return a.names[a.All[i].start:a.All[i].end] }

// A Name says who asks for what.
type Name struct {
	Namespace, Policy, Identifier string
	// Entries are those of a descriptor, whose domain is Namespace: it has neither a
	// policy nor an identifier. A record that makes no descriptor has one without entries.
	Entries      []envoy.Entry
	IsDescriptor bool
}

// The kinds of keys.
const (
	ofPolicy     = 'p' // the lengths of namespace and policy in a byte each, and the three names
	ofDescriptor = 'd' // the domain, and the key and the value of each entry, each behind its length
)

// NameOf returns what a key says.
func NameOf(key string) Name {
	if key[0] == ofPolicy {
		namespace := 3 + int(key[1])
		policy := namespace + int(key[2])
		return Name{Namespace: key[3:namespace], Policy: key[namespace:policy], Identifier: key[policy:]}
	}
	rest := key[1:]
	next := func() (text string) {
		n, size := binary.Uvarint([]byte(rest[:min(len(rest), binary.MaxVarintLen64)]))
		text, rest = rest[size:size+int(n)], rest[size+int(n):]
		return text
	}
	n := Name{Namespace: next(), IsDescriptor: true}
	for rest != "" {
		n.Entries = append(n.Entries, envoy.Entry{Key: next(), Value: next()})
	}
	return n
}

// appendText appends a text behind its length.
func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}
