package decide

import (
	"context"
	"errors"

	"github.com/ratelimitd/ratelimitd/internal/auth"
)

// caller returns who makes the call of ctx.
func (c *Core) caller(ctx context.Context) *auth.Caller {
	if !c.o.Authenticated {
		return c.o.Anonymous
	}
	return auth.FromContext(ctx) // nil, who may do nothing, if a front forgets it
}

// operationOf returns what r is, in terms of permissions.
func operationOf(*Request) auth.Operation { return auth.Decide }

// Permit reports why who makes the call of ctx may not do o with a policy of a
// namespace, or nil; see auth.Caller.Check. It counts a refusal. Decide and Reset ask
// it themselves: it is for what does not become a request.
func (c *Core) Permit(ctx context.Context, o auth.Operation, namespace, policy string) error {
	return c.forbid(c.caller(ctx).Check(o, namespace, policy))
}

// forbid counts a refusal, if err is one.
func (c *Core) forbid(err error) error {
	if refusal, ok := errors.AsType[*auth.Refusal](err); ok {
		c.o.Failures.Add(refusal.Reason)
	}
	return err
}
