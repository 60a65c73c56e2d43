package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A load asks a daemon without pause, from several callers, each time about
// another identifier.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex // protects the following
	answers map[ratelimitv1.Reason]int
	allowed int
	took    []time.Duration
}

const callers = 8

// startLoad loads the daemon at addr until the test ends.
func startLoad(t *testing.T, addr string) *load {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client := ratelimitv1.NewRateLimitServiceClient(conn)
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{stop: cancel, answers: map[ratelimitv1.Reason]int{}}
	for c := range callers {
		l.done.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				start := time.Now()
				answer, err := client.ShouldAllow(ctx, &ratelimitv1.ShouldAllowRequest{
					Namespace: "load", Identifier: fmt.Sprint(c, " ", i), Limits: []*ratelimitv1.Limit{{Rate: "1/h"}},
				})
				if ctx.Err() != nil {
					return
				}
				if err != nil {
					t.Errorf("a call got %v", err)
					return
				}
				l.mu.Lock()
				l.answers[answer.GetReason()]++
				if answer.GetAllowed() {
					l.allowed++
				}
				l.took = append(l.took, time.Since(start))
				l.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() { cancel(); l.done.Wait(); _ = conn.Close() })
	return l
}

// await waits until answers of reason have come in a row, so many that none
// that was asked before is among them, and begins to count anew.
func (l *load) await(t *testing.T, reason ratelimitv1.Reason) {
	t.Helper()
	l.take()
	inARow := 0
	redistest.Eventually(t, fmt.Sprint("answers of ", reason), func() error {
		answers, _, _ := l.take()
		inARow += answers[reason]
		if len(answers) > 1 || (len(answers) == 1 && answers[reason] == 0) {
			inARow = 0
		}
		if inARow < 10*callers {
			return fmt.Errorf("%d in a row, and the latest are %v", inARow, answers)
		}
		return nil
	})
}

// take returns what has been counted since the last time.
func (l *load) take() (answers map[ratelimitv1.Reason]int, allowed int, took []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answers, allowed, took = l.answers, l.allowed, l.took
	l.answers, l.allowed, l.took = map[ratelimitv1.Reason]int{}, 0, nil
	return answers, allowed, took
}

// TestOutage has Redis away at the start, paused, killed and back, under load:
// each time the failure policy answers, at once, and Redis is used again when
// it is back.
func TestOutage(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	addr, _ := serves(t, []string{"RATELIMITD_STORE=redis", "RATELIMITD_REDIS_URL=" + server.URL, "RATELIMITD_ON_ERROR=deny", "RATELIMITD_STORE_TIMEOUT=250ms"})
	l := startLoad(t, addr)

	l.await(t, ratelimitv1.Reason_STORE_FAILURE)
	server.Restart(t)
	l.await(t, ratelimitv1.Reason_WITHIN_LIMIT)

	for name, outage := range map[string]struct{ begin, end func(testing.TB) }{
		"paused": {server.Pause, server.Resume},
		"killed": {func(testing.TB) { server.Kill() }, server.Restart},
	} {
		outage.begin(t)
		l.await(t, ratelimitv1.Reason_STORE_FAILURE)
		answers, allowed, took := map[ratelimitv1.Reason]int{}, 0, []time.Duration(nil)
		redistest.Eventually(t, "answers over two probes", func() error {
			a, n, d := l.take()
			allowed += n
			took = append(took, d...)
			for reason, count := range a {
				answers[reason] += count
			}
			if len(took) < 2000 {
				return fmt.Errorf("%d so far", len(took))
			}
			return nil
		})
		slices.Sort(took)
		if p99 := took[len(took)*99/100]; len(answers) != 1 || allowed != 0 || p99 > 250*time.Millisecond {
			t.Errorf("%s: answers %v, %d of them allowed, with a p99 of %v; want STORE_FAILURE, denied, at once", name, answers, allowed, p99)
		}
		outage.end(t)
		l.await(t, ratelimitv1.Reason_WITHIN_LIMIT)
	}
}

// TestTwoDaemonsAreExact drives two daemons on one Redis at several times the
// limit, for every strategy.
func TestTwoDaemonsAreExact(t *testing.T) {
	server := redistest.Start(t)
	env := []string{"RATELIMITD_STORE=redis", "RATELIMITD_REDIS_URL=" + server.URL, "RATELIMITD_STORE_TIMEOUT=10s"}
	var clients []ratelimitv1.RateLimitServiceClient
	for range 2 {
		addr, _ := serves(t, env)
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients = append(clients, ratelimitv1.NewRateLimitServiceClient(conn))
	}
	const permits = 100
	for strategy := ratelimitv1.Strategy_FIXED_WINDOW; strategy <= ratelimitv1.Strategy_GCRA; strategy++ {
		l := &ratelimitv1.Limit{Rate: fmt.Sprint(permits, "/366d"), Strategy: strategy}
		if strategy == ratelimitv1.Strategy_GCRA {
			l.Burst = permits
		}
		var allowed sync.Map
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				n := 0
				for range permits / 2 {
					answer, err := clients[c%2].ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: "exact", Identifier: "all", Limits: []*ratelimitv1.Limit{l}})
					if err != nil || answer.GetReason() == ratelimitv1.Reason_STORE_FAILURE {
						t.Errorf("%v: %v, %v", strategy, answer, err)
					}
					if answer.GetAllowed() {
						n++
					}
				}
				allowed.Store(c, n)
			})
		}
		wg.Wait()
		total := 0
		allowed.Range(func(_, n any) bool { total += n.(int); return true })
		if total != permits {
			t.Errorf("%v: %d of %d requests got through, want %d", strategy, total, callers*permits/2, permits)
		}
	}
}
