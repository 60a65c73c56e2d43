package memory

import (
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newStore returns a store whose time is set by hand.
func newStore(t *testing.T, o Options) (*Store, func(strategy.Instant)) {
	t.Helper()
	var now atomic.Int64
	o.Now = func() strategy.Instant { return strategy.Instant(now.Load()) }
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, func(to strategy.Instant) { now.Store(int64(to)) }
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		s, set := newStore(t, Options{})
		return storetest.Subject{Store: s, Set: set}
	})
}
