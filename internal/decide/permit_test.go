package decide

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestNobodyMayDoNothing has a front forget who asks: that closes the core, and does not
// open it.
func TestNobodyMayDoNothing(t *testing.T) {
	var failures auth.Failures
	c := newCore(t, Options{Authenticated: true, Failures: &failures}, "{checkout: {exempt: [bob], policies: {default: {limits: [{rate: 1/s}]}}}}")
	specs := []strategy.Spec{{Rate: "1/min"}}
	for _, r := range []Request{
		{Namespace: "checkout", Identifier: "alice", Specs: specs, Cost: 1},
		{Namespace: "checkout", Identifier: "alice", Policy: "none", Cost: 1}, // and learns nothing of it
		{Namespace: "checkout", Identifier: "bob", Specs: specs, Cost: 1},
		{Namespace: "edge", Identifier: "a", Limits: fixed(1), Cost: 1},
		{},
	} {
		if a := c.decideAll(t.Context(), 0, r)[0]; !errors.Is(a.Err, auth.ErrUnauthenticated) || a.Decision.Allowed {
			t.Errorf("%+v: %v", r, a.Err)
		}
		if err := c.Reset(t.Context(), &r); !errors.Is(err, auth.ErrUnauthenticated) {
			t.Errorf("Reset: %v", err)
		}
	}
	counted := map[string]uint64{}
	failures.Each(func(reason string, n uint64) { counted[reason] = n })
	if counted["no_credentials"] != 10 || c.book.Refused.Load() != 0 {
		t.Errorf("counted: %v, and %d invalid requests", counted, c.book.Refused.Load())
	}
}

// TestForbiddenRequestFailsAlone has a caller ask what it may beside what it may not:
// only the former consumes.
func TestForbiddenRequestFailsAlone(t *testing.T) {
	c := newCore(t, Options{Authenticated: true}, "{}")
	known, err := auth.Parse("clients.yaml", fmt.Appendf(nil, "clients: [{name: shop, tokens: ['%s'], namespaces: [checkout]}]", auth.HashLine("a")))
	if err != nil {
		t.Fatal(err)
	}
	shop, err := known.Find("Bearer a", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx := auth.NewContext(t.Context(), shop)
	mine := Request{Namespace: "checkout", Identifier: "alice", Specs: []strategy.Spec{{Rate: "2/day"}}, Cost: 1}
	other := mine
	other.Namespace = "billing"
	answers := c.decideAll(ctx, 0, mine, other, mine, mine)
	for i, want := range []Outcome{Allowed, Allowed, Allowed, Denied} { // that of the second means nothing
		if err := answers[i].Err; (i == 1) != errors.Is(err, auth.ErrForbidden) || i != 1 && answers[i].Outcome != want {
			t.Errorf("request %d: %v, %v", i, answers[i].Outcome, err)
		}
	}
	if err := c.Permit(context.WithoutCancel(ctx), auth.Reset, "checkout", ""); !errors.Is(err, auth.ErrForbidden) {
		t.Errorf("Permit: %v", err)
	}
}

// TestModesArePermitted has callers who may do one of the operations each: a mode takes its own.
func TestModesArePermitted(t *testing.T) {
	c := newCore(t, Options{Authenticated: true}, "{}")
	modes := map[auth.Operation]strategy.Mode{auth.Decide: strategy.Take, auth.Charge: strategy.Charge, auth.Refund: strategy.Refund}
	for may := range modes {
		ctx := auth.NewContext(t.Context(), auth.Anonymous(may))
		for needs, mode := range modes {
			r := Request{Namespace: "checkout", Identifier: "alice", Specs: []strategy.Spec{{Rate: "9/day"}}, Cost: 1, Mode: mode}
			if err := c.decideAll(ctx, 0, r)[0].Err; (err == nil) != (may == needs) || err != nil && !errors.Is(err, auth.ErrForbidden) {
				t.Errorf("who may %s asks for a %s: %v", may, mode, err)
			}
		}
	}
}
