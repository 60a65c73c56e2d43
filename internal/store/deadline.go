package store

import (
	"context"
	"sync"
	"time"
)

// margin is how long before its caller's deadline a store gives up, so that the failure
// policy's answer still reaches the caller. The caller's clock began before ours: the
// margin covers the way of the request, and that of the answer. For a caller whose
// deadline is short it is a part of what is left, as a store that is well answers most
// of them within a part of a millisecond.
const (
	margin     = 5 * time.Millisecond
	marginPart = 4
)

// Deadline returns when a store that is asked now gives up: after timeout, or in time
// for the caller of ctx to be answered in the store's place.
func Deadline(ctx context.Context, timeout time.Duration) time.Time {
	now := time.Now()
	deadline := now.Add(timeout)
	callers, ok := ctx.Deadline()
	if !ok {
		return deadline
	}
	left := callers.Sub(now)
	if early := callers.Add(-max(0, min(margin, left/marginPart))); early.Before(deadline) {
		return early
	}
	return deadline
}

// timers are stopped timers, for use again. A context with a deadline would need a new
// timer for each decision, and five more allocations.
var timers = sync.Pool{New: func() any { return time.NewTimer(0) }}

// Await waits until done is closed. An error says that ctx or the deadline came before that.
func Await(ctx context.Context, deadline time.Time, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	default:
	}
	timer := timers.Get().(*time.Timer)
	timer.Reset(time.Until(deadline))
	defer func() {
		timer.Stop()
		timers.Put(timer)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return context.DeadlineExceeded
	}
}
