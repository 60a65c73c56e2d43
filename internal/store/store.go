// Package store says what the server asks of a store of counters. The stores
// themselves are the packages below this one, and storetest holds the suite
// that each of them passes.
package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Store keeps counters and decides requests by them. It is safe for
// concurrent use.
type Store interface {
	// Decide decides each of requests on its own, in order, and sets the
	// result of the same index. The two slices are of one length.
	//
	// Each decision is atomic, against all other users of the same counters.
	// Either all limits of the request allow it and it consumes from all of
	// them, or it consumes from none; see strategy.Mode for those that no limit
	// stops. The store's clock decides, not the caller's.
	//
	// A request that could not be decided has its error in its result. It may
	// or may not have consumed. The store itself never retries what may have
	// consumed. When ctx ends, Decide returns without waiting for what is under
	// way, and ctx's error is in the results that this cuts short. A store that
	// waits for a server returns a little before ctx's deadline, so that there is
	// time to answer in its place: see Deadline.
	//
	// Decide does not keep requests or results once it has returned.
	Decide(ctx context.Context, requests []Request, results []Result)

	// DecidesTogether reports whether the store can decide r together with its
	// With. If not, no request may have one. Every store can if all of them are of
	// one identifier.
	DecidesTogether(r *Request) bool

	// Reset forgets what the identifier of r has consumed from the limits of
	// r. It may be repeated.
	Reset(ctx context.Context, r *Request) error

	// Agree returns the value that all users of the store have agreed on under name:
	// the one that is there, or else value, which is there from then on. As a counter,
	// it may be lost. name is one of a few, of letters and hyphens.
	Agree(ctx context.Context, name string, value []byte) ([]byte, error)

	// Health reports why the store cannot decide, or nil.
	Health(ctx context.Context) error

	// Close releases what the store holds. It waits for what the store
	// started, and may be called again. No other call may follow it.
	Close() error
}

// ErrCounters is wrapped by the error of a request that a store could not
// decide because of the counters themselves: others keep writing them, or
// something else is there. The store may be well.
var ErrCounters = errors.New("these counters cannot be used now")

// An Overload is the error of a request that nobody put to the store, because more is
// asked of it than it can do. It has consumed nothing. It is no failure of the store.
type Overload struct {
	RetryAfter time.Duration // about how long until there is room again
}

// Error implements error.
func (o *Overload) Error() string {
	return "the store is asked for more than it can decide, and this namespace or client for more than its share; ask again in " + o.RetryAfter.Round(time.Millisecond).String()
}

// CallerGone returns the error with which ctx has ended, or is about to end
// because its deadline has passed. What failed by then says nothing of the store.
func CallerGone(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// A Request asks whether an identifier may consume Cost units from each of
// Limits, or says that it has, or gives them back. The store relies on it being valid: the names not empty, and 1 to
// strategy.MaxLimits limits, each made by strategy.NewLimit and no two of the
// same counter.
type Request struct {
	Namespace  string
	Identifier string
	Limits     []strategy.Limit
	Cost       uint64
	Mode       strategy.Mode
	DryRun     bool
	ConsumedAt strategy.Instant // as in strategy.Ask

	// With are further requests that are decided together with this one, where
	// the store DecidesTogether: all of them consume or none does, and the
	// result of each says what it alone would get. So a Take that is denied stops
	// the Charges and Refunds beside it. They are all dry runs or none is. They have
	// no limit in shadow mode, no counter in common and no With of their own.
	With []Request
}

// Ask returns what r asks at now.
func (r *Request) Ask(now strategy.Instant) strategy.Ask {
	return strategy.Ask{Cost: r.Cost, Now: now, ConsumedAt: r.ConsumedAt, Mode: r.Mode, DryRun: r.DryRun}
}

// Changes reports whether r may change counters: it is no dry run, and has a cost.
func (r *Request) Changes() bool { return r.Cost > 0 && !r.DryRun }

// Alone reports whether r and its With are of one identifier.
func (r *Request) Alone() bool {
	for i := range r.With {
		if r.With[i].Identifier != r.Identifier || r.With[i].Namespace != r.Namespace {
			return false
		}
	}
	return true
}

// All calls f for r and then for each request of its With.
func (r *Request) All(f func(*Request)) {
	f(r)
	for i := range r.With {
		f(&r.With[i])
	}
}

// Counts reports whether r or its With has a counter: a request of nothing but
// unlimited limits has none, and asks a store nothing.
func (r *Request) Counts() bool {
	for i := range r.Limits {
		if !r.Limits[i].Rate.IsUnlimited() {
			return true
		}
	}
	for i := range r.With {
		if r.With[i].Counts() {
			return true
		}
	}
	return false
}

// A Result is the decision on a Request, or why there is none. It may be used
// again, with its memory.
type Result struct {
	strategy.Decision
	Err  error    // if not nil, the decision means nothing
	With []Result // of each request of the Request's With

	// Repeated is whether the decision is an earlier one, for which the store was
	// not asked again. It says nothing of how the store is.
	Repeated bool
}

// All calls f for r, the result of a request, and then for each result of its
// With, which it makes as long as that of the request.
func (r *Result) All(of *Request, f func(*Request, *Result)) {
	f(of, r)
	r.With = slices.Grow(r.With[:0], len(of.With))[:len(of.With)]
	for i := range of.With {
		f(&of.With[i], &r.With[i])
	}
}

// DecideSome has s decide those of requests which have an index in some, in
// that order, and sets their results. It leaves the other results alone.
func DecideSome(ctx context.Context, s Store, requests []Request, results []Result, some []int) {
	switch len(some) {
	case 0:
		return
	case len(requests):
		s.Decide(ctx, requests, results)
		return
	}
	someRequests, someResults := make([]Request, len(some)), make([]Result, len(some))
	for j, i := range some {
		someRequests[j], someResults[j] = requests[i], results[i]
	}
	s.Decide(ctx, someRequests, someResults)
	for j, i := range some {
		results[i] = someResults[j]
	}
}
