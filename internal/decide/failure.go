package decide

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/account"
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

// A fallback answers what the store could not decide.
type fallback struct {
	onError policy.OnError // of namespaces that configure none
	local   store.Store    // counts under policy.FailLocal; nil: the store never fails
	book    *account.Book
	outage  outage
}

// answer answers a request that the store could not decide, as the failure policy
// of its namespace says. If all its limits are in shadow mode, nothing is denied
// to it. What settles a reservation gets an error. A caller that is gone is told so: that
// is not a failure of the store. Neither is an overload.
func (f *fallback) answer(ctx context.Context, r *Request, a *Answer, e exchange) {
	if gone := callerGone(ctx); gone != nil {
		a.Err, a.Outcome, a.gone = gone, Undecided, true
		return
	}
	err := e.result.Err
	if overload, ok := errors.AsType[*store.Overload](err); ok {
		// No failure policy: if it allowed, asking for much would set a limit free.
		a.Err, a.Outcome = overload, Shed
		return
	}
	onError := a.namespace.OnError(f.onError)
	if r.once != nil {
		onError = policy.FailError // its caller can send it again until it has counted
	}
	f.book.StoreErrors.Add(1)
	f.outage.failed(onError, err, 1)
	shadow := !slices.ContainsFunc(a.Limits, func(l strategy.Limit) bool { return !l.Shadow })
	switch {
	case onError == policy.FailLocal:
		alone := *e.request
		alone.With = nil
		results := make([]store.Result, 1)
		f.local.Decide(ctx, []store.Request{alone}, results)
		a.Decision, a.Outcome = &results[0].Decision, LocalDenied
		if a.Decision.Allowed {
			a.Outcome = LocalAllowed
		}
	case shadow || onError == policy.FailAllow:
		a.Decision, a.Outcome = e.instead(true), FailedOpen
	case onError == policy.FailDeny:
		a.Decision, a.Outcome = e.instead(false), FailedClosed
	default:
		a.Err, a.Outcome = storeError(err), Undecided
	}
}
