// Package steps asks the limiters that a request goes through.
package steps

import (
	"context"
	"time"

	"github.com/ratelimitd/ratelimitd/client"
	"github.com/ratelimitd/ratelimitd/client/internal/fields"
)

// A Step is a limiter, and for whom and for what it is asked.
type Step struct {
	Limiter    *client.Limiter
	Identifier string
	Cost       uint64
}

// Ask asks the limiters of steps in order, until one denies. With shadow it asks all. Each
// result is told. The last one that was asked is that of the denial, if denied.
func Ask(ctx context.Context, steps []Step, shadow bool, tell func(*client.Limiter, client.Result)) (all []fields.Answer, denied bool) {
	all = make([]fields.Answer, 0, len(steps))
	for i := range steps {
		s := &steps[i]
		result := s.Limiter.Allow(ctx, s.Identifier, s.Cost)
		if tell != nil {
			tell(s.Limiter, result)
		}
		all = append(all, fields.Answer{Limiter: s.Limiter, Result: result})
		if !result.Allowed && !shadow {
			return all, true
		}
	}
	return all, false
}

// Hold waits for the longest delay of what was allowed, so that calls of a leaky bucket
// leave evenly. The error is that of ctx.
func Hold(ctx context.Context, all []fields.Answer) error {
	var delay time.Duration
	for i := range all {
		delay = max(delay, all[i].Result.Delay)
	}
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
