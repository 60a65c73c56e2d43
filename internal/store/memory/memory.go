// Package memory is the store of counters in the process's own memory:
// striped, bounded, and nothing to install.
//
// The stripe is chosen by (namespace, identifier), so that one lock covers all
// limits of a request. A counter is known by a 128-bit hash under secrets drawn
// at random when the store is made, and not by its names: with ten million
// counters the chance that any two are one is below 1 in 10^24, and nobody
// who does not know the secrets can tell which would be.
//
// A snapshot keeps the counters over a restart: see Keep.
package memory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// sweepInterval is how often expired counters are looked for.
const sweepInterval = time.Second

// A Store is a store.Store in memory. New makes it.
type Store struct {
	stripes         // which decide
	kept    *keeper // nil: the counters end with the process

	close  sync.Once
	closed chan struct{}
	swept  sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// New returns an empty store. The error says which option is wrong.
func New(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("memory store: %w", err)
	}
	s := &Store{closed: make(chan struct{})}
	s.open(&o)
	if !o.Reproducible {
		s.swept.Go(s.sweep)
	}
	return s, nil
}

// Keep restores the counters that o.File has, and from then on keeps those of s there:
// after each interval, and when s is closed. It must be called before anything else uses s
// except Favour, and once. The error says why the counters cannot be kept there.
//
// The file is complete at any time, whenever the process or the machine ends: it has the
// last snapshot that was completed. A file that is none, or not as it was written, is
// renamed, and s is empty then.
//
// A counter of the file is as it was at some instant while the snapshot was taken, and two of
// them may be of different instants, also if requests have charged both at once. A decision
// waits for a snapshot no longer than some hundred microseconds, but for logs of more than
// 100,000 entries.
func (s *Store) Keep(o Snapshots) (err error) {
	s.kept, err = keep(o, &s.stripes)
	return err
}

// Agree keeps the value as long as the store lives.
func (s *Store) Agree(_ context.Context, name string, value []byte) ([]byte, error) {
	return s.agreement.agree(name, value), nil
}

// Health reports nil: memory does not fail.
func (s *Store) Health(context.Context) error { return nil }

// Close stops the sweeper, and takes the last snapshot if Keep has been called.
func (s *Store) Close() (err error) {
	s.close.Do(func() {
		close(s.closed)
		if s.kept != nil {
			err = s.kept.close()
		}
	})
	s.swept.Wait()
	return err
}

// sweep drops expired counters, a few at a time, until the store is closed: so
// that memory is given back to other counters even where no new ones arrive.
func (s *Store) sweep() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.closed:
			return
		case <-tick.C:
			s.expire()
		}
	}
}
