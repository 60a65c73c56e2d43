// Package breaker stops asking a store that keeps failing, so that its callers
// get their answer at once and the store gets room to recover.
package breaker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/ratelimitd/ratelimitd/internal/store"
)

// ErrOpen is the error of requests that the store was not asked.
var ErrOpen = errors.New("the store has kept failing and is not asked until it had time to recover")

const (
	// The breaker opens when all of the calls that came back in the last
	// interval failed, and they are tripAll or more; or when at least three in
	// four did, tripMost or more. A store that is gone is given up within an
	// interval. One that pauses for a moment is not; nor is one that has a
	// third of its servers gone, as long as there is some traffic.
	tripAll  = 5
	tripMost = 20
	interval = 500 * time.Millisecond
	bucket   = 100 * time.Millisecond // the interval moves on by so much at a time
	// Once open, it asks the store one call after so long. Each costs one
	// caller the store's timeout; and a store that only paused, as many do for
	// 50 ms or so, is used again soon.
	probeAfter = 250 * time.Millisecond
)

// A Breaker is a store.Store in front of another. While closed it passes all
// calls on. When the store keeps failing it opens: decisions then fail with
// ErrOpen, but for four calls a second, of which one that succeeds closes it.
//
// A call fails if none of its requests could be decided, and its caller is
// still there. That others keep writing the same counters says nothing.
type Breaker struct {
	store.Store
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}]
}

// New returns a closed breaker in front of s, which it owns.
func New(s store.Store) *Breaker {
	return &Breaker{Store: s, circuit: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Interval:     interval,
		BucketPeriod: bucket,
		Timeout:      probeAfter,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.TotalFailures >= tripAll && c.TotalSuccesses == 0 ||
				c.TotalFailures >= tripMost && c.TotalFailures >= 3*c.TotalSuccesses
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errSaysNothing) },
	})}
}

// IsOpen reports whether decisions fail without the store being asked.
func (b *Breaker) IsOpen() bool { return b.circuit.State() != gobreaker.StateClosed }

// errSaysNothing stands for a call that says nothing of how the store is.
var errSaysNothing = errors.New("the call says nothing of the store")

// Decide has the store decide, or fails all requests with ErrOpen.
func (b *Breaker) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	if !slices.ContainsFunc(requests, counts) {
		b.Store.Decide(ctx, requests, results)
		return
	}
	done, err := b.circuit.Allow()
	if err != nil {
		for i := range requests {
			if counts(requests[i]) {
				results[i].Err = ErrOpen
			} else {
				b.Store.Decide(ctx, requests[i:i+1], results[i:i+1])
			}
		}
		return
	}
	err = errSaysNothing // if Decide panics
	defer func() { done(err) }()
	b.Store.Decide(ctx, requests, results)
	err = outcome(ctx, requests, results)
}

// counts reports whether r asks the store anything: what does not says nothing
// of it, and is decided however it is.
func counts(r store.Request) bool { return r.Counts() }

// outcome returns the error of a call that failed, or nil.
func outcome(ctx context.Context, requests []store.Request, results []store.Result) error {
	var first error
	for i := range results {
		if !counts(requests[i]) {
			continue
		}
		if results[i].Err == nil {
			return nil
		}
		if first == nil {
			first = results[i].Err
		}
	}
	if store.CallerGone(ctx) != nil || errors.Is(first, store.ErrContended) {
		return errSaysNothing
	}
	return first
}
