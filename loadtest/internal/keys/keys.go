// Package keys chooses the key that each request is about.
package keys

import (
	"math/rand/v2"
	"sync/atomic"
)

// The distributions.
const (
	Uniform = "uniform" // each key is equally likely
	Zipf    = "zipf"    // the k-th key is 1/k^1.1 times as likely as the first
	Hot     = "hot"     // one key
	Flood   = "flood"   // a new key each time
)

// zipfExponent is about that of requests on the web. The generator needs more than 1.
const zipfExponent = 1.1

// A Source makes pickers, and has what they share. Its methods are safe for concurrent
// use.
type Source struct {
	distribution string
	count        int
	flood        atomic.Int64
}

// New returns a source of count keys. Hot has only one key, and Flood has no bound.
func New(distribution string, count int) *Source {
	if distribution == Hot {
		count = 1
	}
	return &Source{distribution: distribution, count: count}
}

// Count returns how many keys there are, or 0 if there is no bound.
func (s *Source) Count() int {
	if s.distribution == Flood {
		return 0
	}
	return s.count
}

// Picker returns a function that picks keys, for use by one goroutine. Pickers with the
// same seed pick the same keys.
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
