package redis

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestLoneCallerLeaves has a caller wait for a stopped server by itself, and leave. The next one
// leaves its question to a sender. When the server is back, callers send their own again.
func TestLoneCallerLeaves(t *testing.T) {
	for _, why := range []error{context.Canceled, context.DeadlineExceeded} {
		t.Run(why.Error(), func(t *testing.T) {
			server := redistest.Start(t)
			s := open(t, server)
			r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/366d"}), Cost: 1}
			reads := func() error { // whether a caller reads the reply itself
				if l := s.pipes.lone.Load(); l != nil {
					l.mu.Lock()
					defer l.mu.Unlock()
					if l.conn != nil {
						return nil
					}
				}
				return errors.New("no caller sends its own question")
			}
			idle := func() error { // whether the sender of the decision before has ended
				s.pipes.mu.Lock()
				defer s.pipes.mu.Unlock()
				if l := s.pipes.lanes[""]; l.senders > 0 || time.Now().Before(l.alone) {
					return errors.New("callers do not send their own questions")
				}
				return nil
			}
			redistest.Eventually(t, "the lane is idle", idle)
			server.Pause(t)
			ctx, cancel := context.WithCancel(t.Context())
			if errors.Is(why, context.DeadlineExceeded) { // so late that the caller is seen to read before
				ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
			}
			defer cancel()
			result := make(chan error)
			go func() { result <- decide(ctx, s, r).Err }()
			redistest.Eventually(t, "a caller reads", reads)
			if errors.Is(why, context.Canceled) {
				cancel()
			}
			if err := <-result; !errors.Is(err, why) {
				t.Errorf("%v, want %v", err, why)
			}
			go func() { result <- decide(t.Context(), s, r).Err }()
			redistest.Eventually(t, "a sender has the next question", func() error {
				s.pipes.mu.Lock()
				defer s.pipes.mu.Unlock()
				if n := s.pipes.lanes[""].senders; n != 1 || s.pipes.lone.Load() != nil {
					return errors.New("there is none")
				}
				return nil
			})
			server.Resume(t)
			if err := <-result; err != nil {
				t.Error(err)
			}
			redistest.Eventually(t, "the lane is idle again", idle)
			if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining > 998 || res.Statuses[0].Remaining < 997 { // the first may have run
				t.Errorf("%+v, want two or three units used", res)
			}
		})
	}
}

// TestDeniedNumbersStay has requests of several numeric counters that one of them denies. The
// script has added to some by then: it must leave values, times to live and absent keys as they
// were.
func TestDeniedNumbersStay(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	for _, of := range []string{"5/366d", "5000000/366d"} { // by the way of a million units too
		specs := []strategy.Spec{{Rate: "9/365d"}, {Rate: of}, {Rate: "7/364d"}}
		r := store.Request{Namespace: "test", Identifier: of, Limits: limits(t, specs...), Cost: 3}
		one := r
		one.Limits = r.Limits[2:] // the last: 6 of 7 are used then
		for range 2 {
			if res := decide(t.Context(), s, one); !res.Allowed {
				t.Fatalf("%+v", res)
			}
		}
		var keys []string
		for i := range r.Limits {
			keys = append(keys, counterKey(r.Namespace, r.Identifier, &r.Limits[i]))
		}
		before, ttl := client.Get(t.Context(), keys[2]).Val(), client.PExpireTime(t.Context(), keys[2]).Val()
		for range 3 {
			res := decide(t.Context(), s, r)
			if res.Err != nil || res.Allowed || !res.Statuses[0].Allowed || res.Statuses[2].Allowed || res.Statuses[2].Remaining != 1 {
				t.Errorf("%+v, want denied by the last limit", res)
			}
		}
		if n := client.Exists(t.Context(), keys[:2]...).Val(); n != 0 {
			t.Errorf("%s: %d keys are there that were not", of, n)
		}
		if got, lives := client.Get(t.Context(), keys[2]).Val(), client.PExpireTime(t.Context(), keys[2]).Val(); got != before || lives != ttl {
			t.Errorf("%s: %s until %v, and before %s until %v", of, got, lives, before, ttl)
		}
		r.Cost = 1
		if res := decide(t.Context(), s, r); !res.Allowed || res.Statuses[0].Remaining != 8 {
			t.Errorf("%+v, want allowed, and 8 left of the first", res)
		}
		for _, key := range keys {
			if client.PTTL(t.Context(), key).Val() <= 0 {
				t.Errorf("%s never expires", key)
			}
		}
	}
}
