// Package keys picks whom each request is about.
package keys

import (
	"math/rand/v2"
	"sync/atomic"
)

// The distributions.
const (
	Uniform = "uniform" // each key as often
	Zipf    = "zipf"    // the k-th key about 1/k^1.1 as often as the first
	Hot     = "hot"     // one key
	Flood   = "flood"   // a key that was never seen before, every time
)

// zipfExponent is that of the web's request traces, rounded up: the generator
// needs more than 1.
const zipfExponent = 1.1

// A Source is what pickers share. Its methods are safe for concurrent use.
type Source struct {
	distribution string
	count        int
	flood        atomic.Int64
}

// New returns a source of count keys: of one for Hot, and of no bound for Flood.
func New(distribution string, count int) *Source {
	if distribution == Hot {
		count = 1
	}
	return &Source{distribution: distribution, count: count}
}

// Count returns how many keys there are, 0 for no bound.
func (s *Source) Count() int {
	if s.distribution == Flood {
		return 0
	}
	return s.count
}

// Picker returns a function that picks keys, for one goroutine. Alike seeds pick
// alike.
func (s *Source) Picker(seed uint64) func() int {
	r := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	switch s.distribution {
	case Hot:
		return func() int { return 0 }
	case Flood:
		return func() int { return int(s.flood.Add(1) - 1) }
	case Zipf:
		z := rand.NewZipf(r, zipfExponent, 1, uint64(s.count-1))
		return func() int { return int(z.Uint64()) }
	default:
		return func() int { return r.IntN(s.count) }
	}
}
