package decide

import (
	"slices"
	"strings"
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Request asks whether an identifier may consume Cost units from each of
// some limits, or says that it has, or gives them back. Exactly one of Policy, Specs and Limits says which.
type Request struct {
	Namespace  string
	Identifier string
	Policy     string           // the name of a policy of the configuration
	Specs      []strategy.Spec  // limits as the caller wrote them, not checked yet
	Limits     []strategy.Limit // limits of a front's own configuration, which has checked them and the names
	Cost       uint64
	Mode       strategy.Mode
	DryRun     bool
	Enforced   bool             // a Charge whose caller is denied what is over a limit: it is accounted for as a Take
	ConsumedAt strategy.Instant // of a Refund: see strategy.Ask
	Aside      bool             // nobody has asked it but an operator, who looks: it is not accounted for
	once       *strategy.Limit  // of a reservation that it settles; nil: it settles none
	Wrong      []Violation      // what its front has found wrong with it: it is refused
}

// An Answer says how a Request was decided.
type Answer struct {
	// Err is why there is no decision, or nil: an *InvalidError, an *auth.Refusal, a
	// *store.Overload, or one that wraps ErrUnknownPolicy, ErrStore, ErrDeadline or
	// ErrCancelled.
	Err error
	// Limits are those that the request was held to, and Decision has a status for
	// each of them, or none if they were not asked. Both are for reading alone.
	Limits   []strategy.Limit
	Decision *strategy.Decision
	Outcome  Outcome

	fate      fate
	gone      bool // whether the caller left before there was a decision
	repeated  bool // it settles a reservation that was settled before
	namespace *policy.Namespace
}

// none is the decision on what got none. It is not written to.
var none = new(strategy.Decision)

// exempted is the decision on what is exempt. It is not written to.
var exempted = &strategy.Decision{Allowed: true}

// passed are the decisions on what is held to unlimited limits alone, by how many
// there are. They are not written to.
var passed = func() (all [strategy.MaxLimits + 1]*strategy.Decision) {
	var limits [strategy.MaxLimits]strategy.Limit
	for i := range limits {
		limits[i].Rate.Count = rate.Unlimited
	}
	for n := range all {
		all[n] = new(strategy.Decision)
		all[n].Decide(limits[:n], make([]strategy.State, n), strategy.Ask{Cost: 1, DryRun: true})
	}
	return all
}()

// An exchange is what the store was asked, and what it said.
type exchange struct {
	request *store.Request
	result  *store.Result
}

// instead has the failure policy's decision in place of the store's.
func (e *exchange) instead(allowed bool) *strategy.Decision {
	e.result.Decision = strategy.Decision{Allowed: allowed, Statuses: e.result.Statuses[:0]}
	return &e.result.Decision
}

// settlement returns the part of e that settles a reservation of limits, and whether that
// was settled before. The other part is the counter that lets it be settled once.
func (e exchange) settlement(limits []strategy.Limit) (settles exchange, repeated bool) {
	settled := &e.request.With[0]
	settled.Limits = limits
	if e.result.Err != nil {
		return exchange{settled, e.result}, false
	}
	with := &e.result.With[0]
	if with.Err == nil {
		heedShadow(&with.Decision, limits)
	}
	return exchange{settled, with}, !e.result.Allowed
}

// A fate is what is to become of a request.
type fate uint8

const (
	toRefuse fate = iota // its Err says why
	toForbid             // its caller may not ask it
	toExempt
	toPass // its limits are unlimited
	toAsk  // the store
)

// An Outcome is how a decision went.
type Outcome uint8

// The outcomes.
const (
	Allowed      Outcome = iota // within its limits
	Denied                      // over one of them
	Charged                     // a Charge, within its limits
	Overcharged                 // a Charge, over one of them: it was consumed all the same
	Refunded                    // a Refund
	Unlimited                   // allowed, and all its limits are unlimited
	Shadowed                    // allowed, though over a limit that is in shadow mode
	Exempt                      // allowed, and held to no limit
	FailedOpen                  // the store failed, and the failure policy allowed it
	FailedClosed                // the store failed, and the failure policy denied it
	LocalAllowed                // the store failed, and this process counted it
	LocalDenied
	Undecided // there is no decision: see the Answer's Err
	Shed      // likewise, because more was asked of the store than it can decide
)

// Outcomes are the names of the outcomes, as metrics have them.
var Outcomes = []string{"allowed", "denied", "charged", "overcharged", "refunded", "unlimited", "shadow", "exempt", "failed_open", "failed_closed", "local_allowed", "local_denied", "error", "shed"}

// String returns the name that metrics have.
func (o Outcome) String() string { return Outcomes[o] }

// StoreFailed reports whether the failure policy decided.
func (o Outcome) StoreFailed() bool { return o >= FailedOpen && o <= LocalDenied }

// Denies reports whether o is a denial.
func (o Outcome) Denies() bool { return o == Denied || o == FailedClosed || o == LocalDenied }

// reports reports whether r says what has happened, and no more: it is held to no limit,
// so that no limit has allowed or denied it.
func (r *Request) reports() bool {
	return r.Mode == strategy.Charge && !r.Enforced || r.Mode == strategy.Refund
}

// outcomeOf returns the outcome of what the store decided about r.
func outcomeOf(a *Answer, r *Request) Outcome {
	if !a.Decision.Allowed {
		if r.reports() {
			return Overcharged
		}
		return Denied
	}
	for i := range a.Decision.Statuses {
		if a.Limits[i].Shadow && !a.Decision.Statuses[i].Allowed {
			return Shadowed
		}
	}
	switch {
	case r.Mode == strategy.Refund:
		return Refunded
	case r.reports():
		return Charged
	}
	return Allowed
}

// A Batch is requests that arrive together, and their answers. It is used again
// for others, with its memory: making that anew was much of what a decision
// cost. The zero Batch is ready for use, by one goroutine at a time.
type Batch struct {
	Requests []Request
	// Together is how many of Requests, from the first on, are decided together
	// where the store can: all of them consume or none does. None of them has a
	// limit in shadow mode, and no two have a counter in common.
	Together int
	// Answers is set by Core.Decide: one for each of Requests, in order. They
	// are good until the Batch is used again.
	Answers []Answer

	asked    []store.Request // what the store is asked, in the order of Requests
	together int             // how many of asked, from the first on, are decided together
	results  []store.Result
	limits   []strategy.Limit // those that requests brought, one after the other
	last     validity
	known    knowledge
	tally    account.Tally
}

// validity has what a request of a batch was last found to be valid with. The next
// request mostly has the same, which is then not checked again.
type validity struct {
	namespace string // "": none
	specs     []strategy.Spec
	limits    []strategy.Limit // that these are
}

// knowledge is what the requests of a batch, or of one before it, were found to be valid
// with. Callers mostly bring the same limits again, and to read them took a seventh of the
// instructions of a decision that comes by itself.
type knowledge struct {
	validity          // but for the namespace
	maxLogCount int64 // that the limits were checked with
	others      int   // how many requests had others since
}

// patience is how many requests with other limits it takes for knowledge to be of these.
const patience = 16

// consider has k be of specs, which are limits, if it is time. They are copied: whoever
// brought them uses their memory again.
func (k *knowledge) consider(specs []strategy.Spec, limits []strategy.Limit, maxLogCount int64) {
	if k.others++; k.others < patience && k.specs != nil {
		return
	}
	*k = knowledge{validity{specs: slices.Clone(specs), limits: slices.Clone(limits)}, maxLogCount, 0}
	for i := range k.specs {
		spec := &k.specs[i]
		spec.Name, spec.Rate = strings.Clone(spec.Name), strings.Clone(spec.Rate)
		k.limits[i].Name = spec.Name
	}
}

// prepare makes b ready for its requests to be decided.
func (b *Batch) prepare(maxLogCount int64) {
	b.asked, b.together, b.limits, b.last = b.asked[:0], 0, b.limits[:0], validity{}
	if b.known.maxLogCount == maxLogCount {
		b.last = b.known.validity
	}
	clear(b.Answers) // those that are left, if b was not cleared
	b.Answers = Resized(b.Answers, len(b.Requests))
}

// Clear makes b empty, so that it holds on to nothing of what it had but copies of a
// request's limits.
func (b *Batch) Clear() {
	clear(b.Requests)
	clear(b.Answers)
	clear(b.asked)
	clear(b.limits)
	for i := range b.results {
		b.results[i].With, b.results[i].Err = nil, nil
	}
	b.Requests, b.Answers, b.asked, b.limits = b.Requests[:0], b.Answers[:0], b.asked[:0], b.limits[:0]
	b.Together, b.last = 0, validity{}
}

var batches = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch returns an empty Batch, one that was used before if there is one.
func NewBatch() *Batch { return batches.Get().(*Batch) }

// Free makes b available to NewBatch. Nobody may use it, or its answers, after.
func (b *Batch) Free() {
	b.Clear()
	batches.Put(b)
}

// Resized returns s with length n, for memory that is used again, as that of a Batch
// is. Its elements keep what they held, unless s has no room for n.
func Resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// withoutShadow returns limits as none of them is in shadow mode: what is decided
// together must have none. No limit stops a Charge or a Refund, so that these consume
// the same.
func withoutShadow(limits []strategy.Limit) []strategy.Limit {
	enforced := slices.Clone(limits)
	for i := range enforced {
		enforced[i].Shadow = false
	}
	return enforced
}

// heedShadow makes d, of a request of withoutShadow(limits), what it is with limits.
func heedShadow(d *strategy.Decision, limits []strategy.Limit) {
	if d.Allowed {
		return
	}
	for i := range d.Statuses {
		if !limits[i].Shadow && !d.Statuses[i].Allowed {
			return
		}
	}
	d.Allowed, d.RetryAfter = true, 0
}
