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
	redistest.Eventually(t, "the server decides", func() error { return ask(0) })
	for i := range 20 { // so that it is known how long the server usually takes
		if err := ask(i); err != nil {
			t.Log(err)
		}
	}
	server.Pause(t)
	const callers, open = 4, 1500 * time.Millisecond
	most := int(500*time.Millisecond/timeout) + 3 // calls that wait until the circuit is open: it opens with the first timeout, or after half a second of them
	var before, probes [callers]int               // calls that wait for the server, until the circuit is open and then
	var lost [callers]time.Duration               // in all of them
	var asking sync.WaitGroup
	for c := range callers {
		asking.Go(func() {
			var opened time.Time
			for n := 0; before[c] <= most && (opened.IsZero() || time.Since(opened) < open); n++ {
				began := time.Now()
				switch err := ask(c); {
				case err == nil && n > 0: // it may take a moment to stop
					t.Error("a server that hangs decides")
				case errors.Is(err, breaker.ErrOpen):
					if opened.IsZero() {
						opened = time.Now()
					}
					time.Sleep(time.Millisecond)
					continue
				case opened.IsZero():
					before[c]++
				default:
					probes[c]++
				}
				lost[c] += time.Since(began)
			}
		})
	}
	asking.Wait()
	t.Logf("waited %v in all, in %d calls and %d probes", lost, before, probes)
	all := 0
	for c := range callers {
		if before[c] > most {
			t.Errorf("%d calls of caller %d wait for a timeout, want no more than %d", before[c], c, most)
		}
		all += probes[c]
	}
	if most := int(4*open/time.Second) + 3; all > most { // four a second
		t.Errorf("%d calls wait while the circuit is open, want no more than %d", all, most)
	}
	server.Resume(t)
	redistest.Eventually(t, "the server is used again", func() error { return ask(0) })
}
