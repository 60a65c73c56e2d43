package decide

import (
	"context"
	"errors"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// permits say who may ask what.
type permits struct {
	authenticated bool         // the context of each call has its caller
	anonymous     *auth.Caller // who makes all calls otherwise
	failures      *auth.Failures
}

func newPermits(authenticated bool, anonymous *auth.Caller, failures *auth.Failures) permits {
	p := permits{authenticated, anonymous, failures}
	if p.anonymous == nil {
		p.anonymous = auth.Anonymous(auth.Decide, auth.Charge, auth.Refund, auth.Reset, auth.Inspect)
	}
	if p.failures == nil {
		p.failures = new(auth.Failures)
	}
	return p
}

// caller returns who makes the call of ctx. A front may say who that is even if the daemon
// does not know its callers: the admin port does.
func (p *permits) caller(ctx context.Context) *auth.Caller {
	if !p.authenticated {
		if c := auth.Direct(ctx); c != nil {
			return c
		}
		return p.anonymous
	}
	return auth.FromContext(ctx) // nil, which may do nothing, if a front forgets it
}

// check reports why caller may not do o with a policy of a namespace, or nil. It
// counts a refusal.
func (p *permits) check(caller *auth.Caller, o auth.Operation, namespace, policy string) error {
	err := caller.Check(o, namespace, policy)
	if err == nil { // mostly, and on the way of each request
		return nil
	}
	if refusal, ok := errors.AsType[*auth.Refusal](err); ok {
		p.failures.Add(refusal.Reason)
	}
	return err
}

// operationOf returns what r is, in terms of permissions.
func operationOf(r *Request) auth.Operation {
	if r.once != nil {
		return auth.Decide // whoever may reserve may settle
	}
	switch {
	case r.Enforced:
		return auth.Decide
	case r.Mode == strategy.Charge:
		return auth.Charge
	case r.Mode == strategy.Refund:
		return auth.Refund
	default: // Take, Overdraw
		return auth.Decide
	}
}
