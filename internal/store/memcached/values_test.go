package memcached

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestCraftedItems has somebody write any bytes, or some in place of others, to the item
// of one of three requests. It fails, or decides, alone; and what could not be read is
// gone after that.
func TestCraftedItems(t *testing.T) {
	var log strings.Builder
	server := memcachedtest.Start(t)
	s := open(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, server)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not for secrets
	requests, results := make([]store.Request, 3), make([]store.Result, 3)
	for i := range requests {
		requests[i] = request(t, strategy.Spec{Rate: "1000/366d"}, strategy.Spec{Rate: "1000/366d", Strategy: strategy.SlidingWindowLog})
		requests[i].Identifier = fmt.Sprint(i)
	}
	const victim = 1
	key := s.edit(&requests[victim]).key
	failed := 0
	for round := range 300 {
		value := read(t, s, key)
		if value == nil || random.IntN(2) == 0 {
			value = make([]byte, random.IntN(60))
			for i := range value {
				value[i] = byte(random.Uint32())
			}
		}
		for range random.IntN(4) {
			if len(value) > 0 {
				value[random.IntN(len(value))] = byte(random.Uint32())
			}
		}
		server.Set(t, key, value)
		s.Decide(t.Context(), requests, results)
		for i, res := range results {
			if i != victim && (res.Err != nil || res.Statuses[0].Remaining != uint64(1000-round-1)) {
				t.Fatalf("seed %d, round %d: beside %q: %+v", seed, round, value, res)
			}
		}
		if err := results[victim].Err; err != nil {
			failed++
			if !errors.Is(err, errCorrupt) || !errors.Is(err, store.ErrCounters) {
				t.Fatalf("seed %d, round %d: over %q: %v", seed, round, value, err)
			}
			if n := left(t, s, requests[victim]); n != 1000 {
				t.Errorf("seed %d, round %d: after %q: %d left", seed, round, value, n)
			}
		}
	}
	t.Logf("%d of 300 failed", failed)
	if lines := strings.Count(log.String(), "holds what this program did not write"); lines != 1 || s.corrupt.Load() != uint64(failed) {
		t.Errorf("%d failed, and %d were counted, with %d lines in the log", failed, s.corrupt.Load(), lines)
	}
}
