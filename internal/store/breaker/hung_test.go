package breaker_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestHungServers stops the processes of servers where they are. That costs each caller one
// timeout, whatever it is, and then next to nothing: the probes, which are short. When a
// server goes on, it is used again soon.
func TestHungServers(t *testing.T) {
	for _, timeout := range []time.Duration{50 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second} {
		t.Run(fmt.Sprint("redis ", timeout), func(t *testing.T) {
			t.Parallel() // it mostly waits
			server := redistest.Start(t)
			s, err := redis.New(redis.Options{URLs: []string{server.URL}, Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			hang(t, s, timeout, server)
		})
		t.Run(fmt.Sprint("memcached ", timeout), func(t *testing.T) {
			t.Parallel()
			server := memcachedtest.Start(t)
			s, err := memcached.New(memcached.Options{Addrs: []string{server.Addr}, Timeout: timeout})
			if err != nil {
				t.Fatal(err)
			}
			hang(t, s, timeout, server)
		})
	}
}

// A process is one that can be stopped where it is.
type process interface {
	Pause(tb testing.TB)
	Resume(tb testing.TB)
}

func hang(t *testing.T, behind breaker.Store, timeout time.Duration, server process) {
	t.Helper()
	b := breaker.New(behind, timeout)
	defer b.Close()
	ask := func(caller int) error {
		requests := []store.Request{{
			Namespace: "hung", Identifier: fmt.Sprint(caller), Cost: 1,
			Limits: []strategy.Limit{{Strategy: strategy.FixedWindow, Rate: rate.Rate{Count: rate.MaxCount, Period: time.Hour}, Capacity: rate.MaxCount}},
		}}
		results := make([]store.Result, 1)
		b.Decide(t.Context(), requests, results)
		return results[0].Err
	}
	for i := range 20 { // so that it is known how long the server usually takes
		if err := ask(i); err != nil {
			t.Fatal(err)
		}
	}
	server.Pause(t)
	const callers = 4
	var slowest, lost [callers]time.Duration // of the calls from the second on; of all
	var asking sync.WaitGroup
	for c := range callers {
		asking.Go(func() {
			start := time.Now()
			for n := 0; time.Since(start) < timeout+1500*time.Millisecond; n++ {
				began := time.Now()
				err := ask(c)
				took := time.Since(began)
				if err == nil && n > 0 { // it may take a moment to stop
					t.Error("a server that hangs decides")
				}
				if lost[c] += took; began.Sub(start) > max(timeout, 500*time.Millisecond) {
					slowest[c] = max(slowest[c], took)
				}
				if errors.Is(err, breaker.ErrOpen) {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	asking.Wait()
	// The circuit opens with the first timeout, or after half a second of them. Then each of
	// six probes costs one caller 50 ms.
	most := max(timeout, 500*time.Millisecond) + 500*time.Millisecond
	for c := range callers {
		if lost[c] > most || slowest[c] > 300*time.Millisecond {
			t.Errorf("caller %d waits for %v in all, at most %v after the timeout; want no more than %v", c, lost[c], slowest[c], most)
		}
	}
	t.Logf("waited %v in all; after that at most %v a call", lost, slowest)
	server.Resume(t)
	redistest.Eventually(t, "the server is used again", func() error { return ask(0) })
}
