// Package decide is the core of the daemon: whoever asks, it decides. A front
// turns what it received into a Batch of requests, has the Core decide it, and
// turns the answers into what its caller reads.
//
// For each request the Core finds the limits to hold it to, knows who is exempt,
// asks the store, applies the failure policy, and accounts for the outcome.
package decide

import (
	"cmp"
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// Options say how to make a Core. Store, Book and Logger are required.
type Options struct {
	Store   store.Store
	OnError policy.OnError // of namespaces that configure none; "": policy.FailAllow
	// Fallback counts what Store cannot, under policy.FailLocal. It must not
	// fail. A Store that never fails needs none.
	Fallback     store.Store
	PoliciesOnly bool  // in no namespace may callers send limits of their own
	MaxLogCount  int64 // the greatest count of a SLIDING_WINDOW_LOG; 0: strategy.DefaultMaxLogCount
	// ReservationLife is how long a reservation can be settled, at most
	// MaxReservationLife. 0: DefaultReservationLife.
	ReservationLife time.Duration

	// Authenticated says that the context of each call has the auth.Caller, and that
	// one without may do nothing. Without it, every call is Anonymous's.
	Authenticated bool
	Anonymous     *auth.Caller   // nil: may do everything but administer
	Failures      *auth.Failures // counts what callers may not do; nil: nobody reads it

	// Now is the clock by which reservations expire. nil is the wall clock.
	Now func() strategy.Instant

	Book         *account.Book
	StoreLatency *histogram.Histogram // of what one batch asks the store; nil: not measured
	Logger       *slog.Logger
}

// A Core decides requests. New makes it. It is safe for concurrent use.
type Core struct {
	store        store.Store
	storeLatency *histogram.Histogram
	book         *account.Book
	keys         *keyring
	policies     atomic.Pointer[policy.Config]

	reservationLife time.Duration
	now             func() strategy.Instant // by which they expire

	permits  permits
	resolver resolver
	fallback fallback
}

// DefaultReservationLife is how long a reservation can be settled: longer than most work
// takes whose cost is not known before. Each one that is settled takes a counter in the
// store for twice as long.
const DefaultReservationLife = time.Hour

// MaxReservationLife bounds it.
const MaxReservationLife = 7 * 24 * time.Hour

// New returns a Core without policies.
func New(o Options) *Core {
	if o.OnError == "" {
		o.OnError = policy.FailAllow
	}
	if o.MaxLogCount == 0 {
		o.MaxLogCount = strategy.DefaultMaxLogCount
	}
	if o.Now == nil {
		o.Now = func() strategy.Instant { return strategy.InstantOf(time.Now()) }
	}
	return &Core{
		now: o.Now, store: o.Store, storeLatency: o.StoreLatency, book: o.Book,
		keys: newKeyring(o.Store), reservationLife: cmp.Or(o.ReservationLife, DefaultReservationLife),
		permits:  newPermits(o.Authenticated, o.Anonymous, o.Failures),
		resolver: resolver{policiesOnly: o.PoliciesOnly, maxLogCount: o.MaxLogCount},
		fallback: fallback{onError: o.OnError, local: o.Fallback, book: o.Book, outage: outage{log: o.Logger}},
	}
}

// SetPolicies puts p in force, nil for none: each batch that begins from now on
// is decided by it, and those under way by what was in force when they began.
func (c *Core) SetPolicies(p *policy.Config) { c.policies.Store(p) }

// Decide decides the requests of b, and sets its Answers. Each is decided on its
// own and in order, but for those that are decided together.
//
// When ctx ends, Decide returns without waiting for the store, and says so in
// the answers that this cuts short.
func (c *Core) Decide(ctx context.Context, b *Batch) {
	b.prepare(c.resolver.maxLogCount)
	policies, caller := c.policies.Load(), c.permits.caller(ctx)
	var ns *policy.Namespace // of the request before: mostly all are of one
	for i := range b.Requests {
		turns.Yield(i)
		r, a := &b.Requests[i], &b.Answers[i]
		if i == 0 || r.Namespace != b.Requests[i-1].Namespace {
			ns = policies.Namespace(r.Namespace)
		}
		// Whether the caller may ask comes first, so that it learns nothing else.
		if err := c.permits.check(caller, operationOf(r), r.Namespace, r.Policy); err != nil {
			a.fate, a.Err = toForbid, err
		} else {
			c.resolver.resolve(ns, b, r, a)
		}
		if i < b.Together {
			b.together = len(b.asked)
		}
	}
	c.askStore(ctx, b)
	asked := 0
	for i := range b.Requests {
		turns.Yield(i)
		r, a, e := &b.Requests[i], &b.Answers[i], exchange{}
		if a.fate == toAsk {
			e = exchange{&b.asked[asked], &b.results[asked]}
			asked++
			if r.once != nil {
				e, a.repeated = e.settlement(r.Limits)
			}
		}
		c.conclude(ctx, b, r, a, e)
	}
	b.tally.Flush(c.book)
}

// askStore has the store decide what b has for it.
func (c *Core) askStore(ctx context.Context, b *Batch) {
	b.results = Resized(b.results, len(b.asked))
	requests, results := b.asked, b.results
	if n := b.together; n > 1 {
		// The last of them stands for all, as it is beside those that follow.
		last := &requests[n-1]
		if last.With = requests[: n-1 : n-1]; c.store.DecidesTogether(last) {
			results[n-1].With = results[: n-1 : n-1]
			requests, results = requests[n-1:], results[n-1:]
		} else {
			last.With = nil
		}
	}
	if len(requests) == 0 {
		return
	}
	if latency := c.storeLatency; latency != nil {
		defer latency.Since(histogram.Start())
	}
	c.store.Decide(ctx, requests, results)
}

// conclude makes a the answer to r, and accounts for it.
func (c *Core) conclude(ctx context.Context, b *Batch, r *Request, a *Answer, e exchange) {
	a.Decision = none
	entry := account.Entry{Namespace: r.Namespace, Identifier: r.Identifier, Policy: r.Policy}
	switch a.fate {
	case toRefuse:
		if !r.Aside {
			c.book.Refused.Add(1)
		}
		return
	case toForbid:
		return // which is counted by its reason
	case toExempt:
		a.Outcome, a.Decision = Exempt, exempted
		entry.Identifier = ""
	case toPass:
		a.Outcome, a.Decision = Unlimited, passed[len(a.Limits)]
		entry.Limits, entry.Statuses = a.Limits, a.Decision.Statuses
	case toAsk:
		a.Limits = e.request.Limits
		if e.result.Err != nil {
			c.fallback.answer(ctx, r, a, e)
		} else {
			if !e.result.Repeated {
				c.fallback.outage.over()
			}
			a.Decision = &e.result.Decision
			a.Outcome = outcomeOf(a, r)
			if !r.reports() {
				entry.Limits, entry.Statuses = a.Limits, a.Decision.Statuses
			}
		}
		if a.gone {
			entry.Identifier = ""
		}
		entry.Denied = a.Err == nil && !a.Decision.Allowed && !r.reports()
	}
	if a.repeated || r.Aside {
		return // it was accounted for, or is not to be
	}
	entry.Outcome = int(a.Outcome)
	b.tally.Add(c.book, &entry)
}

// Reset forgets what the identifier of r has consumed from the limits of r. The
// error is one of those that an Answer may have.
func (c *Core) Reset(ctx context.Context, r *Request) error {
	if err := c.Permit(ctx, auth.Reset, r.Namespace, r.Policy); err != nil {
		return err
	}
	var b Batch
	var a Answer
	b.Answers = make([]Answer, 1)
	c.resolver.resolveLimits(c.policies.Load().Namespace(r.Namespace), &b, r, &a)
	if a.Err != nil {
		c.book.Refused.Add(1)
		return a.Err
	}
	if !b.asked[0].Counts() {
		return nil
	}
	if c.fallback.local != nil {
		if err := c.fallback.local.Reset(ctx, &b.asked[0]); err != nil {
			return storeError(err)
		}
	}
	if err := c.store.Reset(ctx, &b.asked[0]); err != nil {
		if gone := callerGone(ctx); gone != nil {
			return gone
		}
		c.book.StoreErrors.Add(1)
		return storeError(err)
	}
	return nil
}

// Ready reports why callers would get nothing but errors, or nil.
func (c *Core) Ready(ctx context.Context) error {
	if c.fallback.onError != policy.FailError {
		return nil // the failure policy answers them
	}
	if err := c.store.Health(ctx); err != nil {
		return storeError(err)
	}
	return nil
}

// Probe asks the store whether it works. The log says, now and then, if it does not.
func (c *Core) Probe(ctx context.Context) error {
	err := c.store.Health(ctx)
	if err != nil && ctx.Err() == nil {
		c.fallback.outage.failed(c.fallback.onError, err, 0)
	}
	return err
}

// Refuse counts a message that is wrong in one field before it is a request, and
// returns the error that says so.
func (c *Core) Refuse(field, format string, args ...any) error {
	var wrong InvalidError
	wrong.Add(field, format, args...)
	return c.RefuseInvalid(&wrong)
}

// RefuseInvalid counts a message that is wrong before it is a request, and
// returns the error that says so.
func (c *Core) RefuseInvalid(wrong *InvalidError) error {
	c.book.Refused.Add(1)
	return wrong
}

// Permit reports why whoever makes the call of ctx may not do o with a policy of a
// namespace, or nil; see auth.Caller.Check. It counts a refusal. Decide and Reset ask
// it themselves: it is for what does not become a request.
func (c *Core) Permit(ctx context.Context, o auth.Operation, namespace, policy string) error {
	return c.permits.check(c.permits.caller(ctx), o, namespace, policy)
}
