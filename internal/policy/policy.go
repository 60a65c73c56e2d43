// Package policy reads and applies what operators configure on the server's side:
// the policies of each namespace, who is exempt, and what happens when the store
// fails. A Config does not change after it was read, so it is safe for concurrent
// use.
package policy

import (
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A Config is the configuration of all namespaces. The nil Config has none.
type Config struct {
	namespaces map[string]*Namespace
}

// Namespace returns the configuration of a namespace, or nil if it has none.
func (c *Config) Namespace(name string) *Namespace {
	if c == nil {
		return nil
	}
	return c.namespaces[name]
}

// Namespaces returns the configuration of every namespace by its name. The caller
// must not change it.
func (c *Config) Namespaces() map[string]*Namespace {
	if c == nil {
		return nil
	}
	return c.namespaces
}

// A Namespace is the configuration of one namespace. The nil Namespace has no
// policies and exempts nobody.
type Namespace struct {
	onError      OnError
	policiesOnly bool
	exempt       patterns[string] // each with its text
	policies     map[string]*Policy
}

// OnError is the failure policy: what the server answers when the store failed.
type OnError string

// The failure policies.
const (
	FailAllow OnError = "allow" // fail open
	FailDeny  OnError = "deny"  // fail closed
	FailError OnError = "error" // UNAVAILABLE
	FailLocal OnError = "local" // count in this process until the store is back
)

// OnErrors lists the failure policies.
var OnErrors = []OnError{FailAllow, FailDeny, FailError, FailLocal}

// OnError returns the failure policy of n. If n has no policy of its own, it
// returns otherwise.
func (n *Namespace) OnError(otherwise OnError) OnError {
	if n == nil || n.onError == "" {
		return otherwise
	}
	return n.onError
}

// PoliciesOnly reports whether n refuses limits that callers send.
func (n *Namespace) PoliciesOnly() bool { return n != nil && n.policiesOnly }

// IsExempt reports whether no limit applies to identifier.
func (n *Namespace) IsExempt(identifier string) bool {
	_, exempt := n.Exemption(identifier)
	return exempt
}

// Exemption returns the pattern by which no limit applies to identifier, and whether
// there is one.
func (n *Namespace) Exemption(identifier string) (pattern string, exempt bool) {
	if n == nil {
		return "", false
	}
	return n.exempt.match(identifier)
}

// Policy returns the policy of that name, or nil if there is none.
func (n *Namespace) Policy(name string) *Policy {
	if n == nil {
		return nil
	}
	return n.policies[name]
}

// Policies returns every policy by its name. The caller must not change it.
func (n *Namespace) Policies() map[string]*Policy {
	if n == nil {
		return nil
	}
	return n.policies
}

// A Policy is a list of limits that has a name.
type Policy struct {
	limits    []strategy.Limit
	overrides patterns[override]
}

// An override has the limits of those who match a pattern.
type override struct {
	pattern string
	limits  []strategy.Limit
}

// Limits returns the limits that p holds identifier to: those of the override
// that matches it best, or the policy's own if no override matches. The caller
// must not change them.
func (p *Policy) Limits(identifier string) []strategy.Limit {
	limits, _ := p.Match(identifier)
	return limits
}

// Match returns Limits, and the pattern of the override that they are of, or "".
func (p *Policy) Match(identifier string) (limits []strategy.Limit, pattern string) {
	if o, ok := p.overrides.match(identifier); ok {
		return o.limits, o.pattern
	}
	return p.limits, ""
}

// Base returns the limits of those whom no override matches. The caller must not change
// them.
func (p *Policy) Base() []strategy.Limit { return p.limits }
