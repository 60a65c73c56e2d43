package client

import (
	"context"
	"math/rand/v2"
	"time"
)

// maxJitter spreads those who wait for the same instant, so that they do not all ask at
// once.
const maxJitter = 100 * time.Millisecond

// Wait is Allow for a caller that can wait, for as long as most: it asks again when a denial
// says to, a little later at random, and holds an allowed call for its Delay. It returns a
// denial at once if waiting is of no use, or would take longer. If ctx ends while it waits,
// the result is not allowed and has the error of ctx.
func (l *Limiter) Wait(ctx context.Context, identifier string, most time.Duration, cost ...uint64) Result {
	end := time.Now().Add(most)
	for {
		result := l.Allow(ctx, identifier, cost...)
		if result.Err != nil {
			return result
		}
		left := time.Until(end)
		pause := result.Delay
		if !result.Allowed {
			pause = result.RetryAfter
		}
		switch {
		case result.Allowed && pause <= 0:
			return result
		case result.Allowed && pause > left: // its turn comes too late: somebody else may have it
			l.Refund(ctx, identifier, costOf(cost), result.DecidedAt)
			result.Allowed, result.Reason, result.RetryAfter, result.Delay = false, ReasonOverLimit, pause, 0
			return result
		case !result.Allowed && (pause > left || pause <= 0):
			return result
		}
		if !result.Allowed {
			pause += time.Duration(rand.Int64N(int64(min(maxJitter, pause/10, left-pause) + 1)))
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			result.Allowed, result.Err = false, ctx.Err()
			return result
		}
		if result.Allowed {
			return result
		}
	}
}
