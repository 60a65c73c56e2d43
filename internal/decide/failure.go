package decide

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// Why there is no decision. These are wrapped by the errors of answers.
var (
	ErrStore     = errors.New("the store failed")
	ErrDeadline  = errors.New("the caller's deadline passed before the decision was made")
	ErrCancelled = errors.New("the caller cancelled before the decision was made")
)

func storeError(err error) error { return fmt.Errorf("%w: %w", ErrStore, err) }

// callerGone returns the error of an answer whose caller's context has ended, or
// nil.
func callerGone(ctx context.Context) error {
	switch err := store.CallerGone(ctx); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return ErrDeadline
	default:
		return ErrCancelled
	}
}

// fail answers a request that the store could not decide, as the failure policy
// of its namespace says. If all its limits are in shadow mode, nothing is denied
// to it. A caller that is gone is told so: that is not a failure of the store.
func (c *Core) fail(ctx context.Context, a *Answer) {
	if gone := callerGone(ctx); gone != nil {
		a.Err, a.Outcome, a.gone = gone, Undecided, true
		return
	}
	err := a.result.Err
	onError := a.namespace.OnError(c.o.OnError)
	c.o.Book.StoreErrors.Add(1)
	c.outage.failed(onError, err, 1)
	shadow := !slices.ContainsFunc(a.Limits, func(l strategy.Limit) bool { return !l.Shadow })
	switch {
	case onError == policy.FailLocal:
		alone := *a.request
		alone.With = nil
		results := make([]store.Result, 1)
		c.o.Fallback.Decide(ctx, []store.Request{alone}, results)
		a.Decision, a.Outcome = results[0].Decision, LocalDenied
		if a.Decision.Allowed {
			a.Outcome = LocalAllowed
		}
	case shadow || onError == policy.FailAllow:
		a.Decision.Allowed, a.Outcome = true, FailedOpen
	case onError == policy.FailDeny:
		a.Outcome = FailedClosed
	default:
		a.Err, a.Outcome = storeError(err), Undecided
	}
}

// quiet is how long the store must not have failed before it is said to be back.
const quiet = time.Second

// An outage remembers how the store fails, so that the log says it once, and
// not for each request.
type outage struct {
	log      *slog.Logger
	on       atomic.Bool
	last     atomic.Int64 // when it last failed, in nanoseconds since the Unix epoch
	logged   atomic.Int64 // when the log last said so, likewise
	unlogged atomic.Int64 // decisions that failed since then
}

// failed notes that the store failed to make so many decisions.
func (o *outage) failed(onError policy.OnError, err error, decisions int) {
	now := time.Now().UnixNano()
	o.last.Store(now)
	o.unlogged.Add(int64(decisions))
	logged := o.logged.Load()
	if o.on.Load() && now-logged < int64(lograte.Every) || !o.logged.CompareAndSwap(logged, now) {
		return
	}
	o.on.Store(true)
	o.log.Error("the store fails: what it cannot decide is answered by the failure policy; check that it runs and can be reached",
		"error", err, "on_error", string(onError), "decisions", o.unlogged.Swap(0))
}

// over notes that the store made a decision.
func (o *outage) over() {
	if !o.on.Load() || time.Now().UnixNano()-o.last.Load() < int64(quiet) {
		return
	}
	if o.on.CompareAndSwap(true, false) {
		o.log.Info("the store is back", "decisions", o.unlogged.Swap(0))
	}
}
