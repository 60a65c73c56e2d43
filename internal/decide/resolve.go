package decide

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/utf8text"
)

// ErrUnknownPolicy is wrapped by the error of a request for a policy that its
// namespace does not have.
var ErrUnknownPolicy = errors.New("unknown policy")

// A resolver finds what requests are held to.
type resolver struct {
	policiesOnly bool
	maxLogCount  int64
}

// resolve sets what becomes of r, which is of namespace ns: its fate, and what the
// store is asked.
func (c *resolver) resolve(ns *policy.Namespace, b *Batch, r *Request, a *Answer) {
	a.namespace = ns
	if ns.IsExempt(r.Identifier) && (r.Limits != nil || len(c.check(ns, b, r)) == 0) {
		a.fate = toExempt
		return
	}
	if c.resolveLimits(ns, b, r, a); a.fate != toAsk {
		return
	}
	// What has no counter needs no store, and so is not held to how that is.
	if last := len(b.asked) - 1; !b.asked[last].Counts() {
		a.fate, a.Limits = toPass, b.asked[last].Limits
		b.asked = b.asked[:last]
	}
}

// resolveLimits finds the limits that r is held to. It appends to b what the
// store is to be asked, or sets the error of a.
func (c *resolver) resolveLimits(ns *policy.Namespace, b *Batch, r *Request, a *Answer) {
	limits := r.Limits
	if limits == nil {
		if limits, a.Err = c.limitsOf(ns, b, r); a.Err != nil {
			a.fate = toRefuse
			return
		}
	}
	a.fate = toAsk
	asked := store.Request{
		Namespace: r.Namespace, Identifier: r.Identifier, Limits: limits,
		Cost: r.Cost, Mode: r.Mode, DryRun: r.DryRun, ConsumedAt: r.ConsumedAt,
	}
	if r.once != nil {
		asked.Limits = withoutShadow(limits)
		asked = store.Request{
			Namespace: r.Namespace, Identifier: r.Identifier, Limits: []strategy.Limit{*r.once}, Cost: 1,
			With: []store.Request{asked},
		}
	}
	b.asked = append(b.asked, asked)
}

// limitsOf returns the limits of r: those of the policy that it names, or those
// that it brings along.
func (c *resolver) limitsOf(ns *policy.Namespace, b *Batch, r *Request) ([]strategy.Limit, error) {
	wrong := InvalidError{c.check(ns, b, r)}
	valid := len(wrong.Violations) == 0
	switch {
	case valid && r.Policy != "":
		p := ns.Policy(r.Policy)
		if p == nil {
			return nil, unknownPolicy(r, ns)
		}
		return p.Limits(r.Identifier), nil
	case valid && slices.Equal(r.Specs, b.last.specs):
		return b.last.limits, nil
	}
	start := len(b.limits)
	for i := range r.Specs[:min(len(r.Specs), strategy.MaxLimits)] {
		spec := &r.Specs[i]
		l, problems := strategy.NewLimit(*spec, c.maxLogCount)
		for _, p := range problems {
			field := fmt.Sprintf("limits[%d].%s", i, p.Field)
			if !slices.ContainsFunc(r.Wrong, func(v Violation) bool { return v.Field == field }) {
				wrong.Add(field, "%s", p.Problem)
			}
		}
		if !utf8text.Valid(spec.Name) {
			checkText(&wrong, fmt.Sprintf("limits[%d].name", i), spec.Name, "burst")
		}
		if problems == nil && slices.ContainsFunc(b.limits[start:], func(m strategy.Limit) bool { return m.SameCounter(&l) }) {
			wrong.Add(fmt.Sprintf("limits[%d]", i), "the same limit as another of this request: %s; leave one out, or give them different names", describe(&l))
		}
		b.limits = append(b.limits, l)
	}
	if len(wrong.Violations) > 0 {
		b.limits = b.limits[:start]
		return nil, &InvalidError{wrong.Violations}
	}
	b.last.specs, b.last.limits = r.Specs, b.limits[start:]
	b.known.consider(r.Specs, b.last.limits, c.maxLogCount)
	return b.last.limits, nil
}

// check returns what is wrong with r but for its limits.
func (c *resolver) check(ns *policy.Namespace, b *Batch, r *Request) []Violation {
	var wrong InvalidError
	if r.Namespace != b.last.namespace || r.Namespace == "" {
		if checkName(&wrong, "namespace", r.Namespace, store.MaxNamespaceBytes, "checkout"); wrong.Violations == nil {
			b.last.namespace = r.Namespace
		}
	}
	checkName(&wrong, "identifier", r.Identifier, store.MaxIdentifierBytes, "user:42")
	if r.Policy != "" {
		checkName(&wrong, "policy", r.Policy, policy.MaxNameBytes, "default")
	}
	switch n := len(r.Specs); {
	case n > 0 && (c.policiesOnly || ns.PoliciesOnly()):
		wrong.Add("limits", "this server decides by policies of its own alone; leave limits out, and name a policy")
	case n > 0 && r.Policy != "":
		wrong.Add("policy", "both policy %s and limits are given; give one of the two", quote.Cut(r.Policy))
	case n == 0 && r.Policy == "":
		wrong.Add("limits", `no limits and no policy; give 1 to %d limits, such as {rate: "100/min"}, or the name of a policy`, strategy.MaxLimits)
	case n > strategy.MaxLimits:
		wrong.Add("limits", "more than %d limits; give at most %[1]d", strategy.MaxLimits)
	}
	return append(wrong.Violations, r.Wrong...)
}

func checkName(wrong *InvalidError, field, value string, maxBytes int, example string) {
	switch {
	case value == "":
		wrong.Add(field, "empty; give one, such as %q", example)
	case len(value) > maxBytes:
		wrong.Add(field, "%s has %d bytes; give 1 to %d, such as %q", quote.Cut(value), len(value), maxBytes, example)
	default:
		checkText(wrong, field, value, example)
	}
}

// checkText refuses a value that is not UTF-8: decoders may let it pass.
func checkText(wrong *InvalidError, field, value, example string) {
	if !utf8text.Valid(value) {
		wrong.Add(field, "%s is not UTF-8 text; encode it, as in base64, or give one such as %q", quote.Cut(value), example)
	}
}

// unknownPolicy returns the error of a request for a policy that ns does not
// have.
func unknownPolicy(r *Request, ns *policy.Namespace) error {
	known := slices.Sorted(maps.Keys(ns.Policies()))
	if len(known) == 0 {
		return fmt.Errorf("%w %q in namespace %q: the server's configuration has no policy for it; configure one, or send limits", ErrUnknownPolicy, r.Policy, r.Namespace)
	}
	more := ""
	if n := len(known) - MaxShown; n > 0 {
		known, more = known[:MaxShown], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("%w %q in namespace %q: the server's configuration has %s%s", ErrUnknownPolicy, r.Policy, r.Namespace, strings.Join(known, ", "), more)
}

// describe names a limit in a message.
func describe(l *strategy.Limit) string {
	if l.Name != "" {
		return fmt.Sprintf("%s named %q", l.Strategy, l.Name)
	}
	return fmt.Sprintf("%s of %s", l.Strategy, l.Rate)
}
