package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A tally is what callers got.
type tally struct {
	mu              sync.Mutex // protects the following
	decided         int        // by the store
	allowed, denied int        // by the failure policy
	late            int        // the deadline passed
	took            []time.Duration
}

func (c *tally) String() string {
	slices.Sort(c.took)
	return fmt.Sprintf("%d decided by the store, %d allowed, %d denied, %d too late; half within %v, 99%% within %v",
		c.decided, c.allowed, c.denied, c.late, c.took[len(c.took)/2], c.took[len(c.took)*99/100])
}

// askWithin has callers ask for a while, each with a deadline.
func askWithin(t *testing.T, client ratelimitv1.RateLimitServiceClient, deadline, while time.Duration) *tally {
	t.Helper()
	c := &tally{}
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() {
			for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(time.Millisecond) {
				ctx, cancel := context.WithTimeout(t.Context(), deadline)
				start := time.Now()
				answer, err := client.ShouldAllow(ctx, &ratelimitv1.ShouldAllowRequest{
					Namespace: "short", Identifier: fmt.Sprint(i), Limits: []*ratelimitv1.Limit{{Rate: "1000000/h"}},
				})
				cancel()
				c.mu.Lock()
				c.took = append(c.took, time.Since(start))
				switch {
				case status.Code(err) == codes.DeadlineExceeded:
					c.late++
				case err != nil:
					t.Error(err)
				case answer.GetReason() != ratelimitv1.Reason_STORE_FAILURE:
					c.decided++
				case answer.GetAllowed():
					c.allowed++
				default:
					c.denied++
				}
				c.mu.Unlock()
			}
		})
	}
	asking.Wait()
	return c
}

// TestShortDeadlines has a store hang under callers who wait for less than
// --store-timeout, as Envoy does with its 20 ms. The failure policy answers them in time.
func TestShortDeadlines(t *testing.T) {
	r, m := redistest.Start(t), memcachedtest.Start(t)
	for name, store := range map[string]struct {
		pause, resume func(testing.TB)
		env           string
	}{
		"redis":     {r.Pause, r.Resume, "RATELIMITD_REDIS_URL=" + r.URL},
		"memcached": {m.Pause, m.Resume, "RATELIMITD_MEMCACHED_ADDR=" + m.Addr},
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := serves(t, []string{"RATELIMITD_STORE=" + name, store.env, "RATELIMITD_ON_ERROR=deny", "RATELIMITD_STORE_TIMEOUT=1s"})
			conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			client := ratelimitv1.NewRateLimitServiceClient(conn)
			if c := askWithin(t, client, 10*time.Second, 100*time.Millisecond); c.denied > 0 || c.decided == 0 {
				t.Errorf("before: %v", c)
			}
			store.pause(t)
			defer store.resume(t)
			c := askWithin(t, client, 20*time.Millisecond, 2*time.Second)
			t.Logf("with 20 ms: %v", c)
			if c.allowed > 0 || c.late > c.denied { // a loaded machine often stalls for longer than the margin
				t.Errorf("with 20 ms: %v; want them denied", c)
			}
		})
	}
}
