package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// A slowStore takes its time to answer, and hangs if that is 0. It gives up as stores do.
type slowStore struct {
	flakyStore
	timeout time.Duration

	mu    sync.Mutex // protects the following
	takes time.Duration
}

func (s *slowStore) set(takes time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes = takes
}

func (s *slowStore) Decide(ctx context.Context, _ []store.Request, results []store.Result) {
	s.calls.Add(1)
	s.mu.Lock()
	takes := s.takes
	s.mu.Unlock()
	ctx, cancel := context.WithDeadline(ctx, store.Deadline(ctx, s.timeout))
	defer cancel()
	var answer <-chan time.Time
	if takes > 0 {
		answer = time.After(takes)
	}
	results[0].Err = nil
	select {
	case <-answer:
	case <-ctx.Done():
		results[0].Err = fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// TestHangs has a server hang, under callers that each ask one thing after the other. At
// any timeout of half a second or more each waits for one timeout, and at shorter ones for
// half a second and a timeout at most. Later only probes wait.
func TestHangs(t *testing.T) {
	for _, timeout := range []time.Duration{20 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 10 * time.Second} {
		for _, callers := range []int{1, 4, 16} {
			t.Run(fmt.Sprint(timeout, callers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := &slowStore{timeout: timeout, takes: time.Millisecond}
					b := New(s, timeout)
					ctx, cancel := context.WithCancel(t.Context())
					waited := make([]time.Duration, callers) // each for calls that began before the circuit opened
					var hangs time.Time
					var mu sync.Mutex // protects the following
					var opens time.Time
					var asking sync.WaitGroup
					for i := range callers {
						asking.Go(func() {
							for ctx.Err() == nil {
								mu.Lock()
								closed := opens.IsZero()
								mu.Unlock()
								start := time.Now()
								err := call(t.Context(), b, 1)
								if errors.Is(err, ErrOpen) {
									mu.Lock()
									if opens.IsZero() {
										opens = time.Now()
									}
									mu.Unlock()
								} else if err != nil && closed {
									waited[i] += time.Since(start)
								}
								time.Sleep(10 * time.Millisecond)
							}
						})
					}
					time.Sleep(time.Second)
					s.set(0)
					hangs = time.Now()
					time.Sleep(timeout + 700*time.Millisecond)
					before := s.calls.Load()
					later := max(5*time.Second, 3*timeout)
					time.Sleep(later)
					if probes := s.calls.Load() - before; probes > int64(later/(min(timeout, leastProbe)+probeAfter))+2 {
						t.Errorf("in %v the server was asked %d times", later, probes)
					}
					most := timeout
					if timeout < interval { // several calls are needed
						most = interval + timeout
					}
					if took := opens.Sub(hangs); took > most+20*time.Millisecond {
						t.Errorf("the circuit opens %v after the server hangs", took)
					}
					for i, w := range waited {
						if w > most {
							t.Errorf("caller %d waited for %v", i, w)
						}
					}
					s.set(time.Millisecond)
					time.Sleep(timeout + probeAfter + 50*time.Millisecond)
					if b.Open() > 0 {
						t.Error("the server is back, and not asked")
					}
					cancel()
					asking.Wait()
				})
			})
		}
	}
}

// TestHaste has callers who do not wait long. A server that is well is not given up for
// them; one that hangs is.
func TestHaste(t *testing.T) {
	const timeout = 50 * time.Millisecond
	for _, tt := range []struct {
		name            string
		takes, deadline time.Duration
		patient         time.Duration // every so long somebody asks who waits for the timeout
		opens           bool
	}{
		{"a fast server, and callers of 1 ms", 900 * time.Microsecond, time.Millisecond, 0, false},
		{"a server that is far away, and callers of 15 ms", 15 * time.Millisecond, 15 * time.Millisecond, 100 * time.Millisecond, false},
		{"a server that hangs, and callers of 1 ms", 0, time.Millisecond, 0, false},
		{"a server that hangs, and Envoy's 20 ms", 0, 20 * time.Millisecond, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slowStore{timeout: timeout, takes: max(tt.takes, time.Millisecond)}
				b := New(s, timeout)
				if err := call(t.Context(), b, 1); err != nil {
					t.Fatal(err)
				}
				s.set(tt.takes)
				start, asked := time.Now(), time.Now()
				opened := false
				for time.Since(start) < 5*time.Second {
					ctx, cancel := context.WithTimeout(t.Context(), tt.deadline)
					_ = call(ctx, b, 1)
					if ctx.Err() != nil {
						t.Fatal("the caller's deadline has passed")
					}
					cancel()
					opened = opened || b.Open() > 0
					if tt.patient > 0 && time.Since(asked) > tt.patient {
						asked = time.Now()
						if err := call(t.Context(), b, 1); err != nil {
							t.Fatalf("a patient caller: %v", err)
						}
					}
					time.Sleep(100 * time.Microsecond)
				}
				if opened != tt.opens {
					t.Errorf("the circuit has opened: %t", opened)
				}
			})
		})
	}
}
