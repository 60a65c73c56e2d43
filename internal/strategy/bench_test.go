package strategy_test

import (
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A kind says which limits the requests of a benchmark have.
type kind struct {
	name       string
	strategies []strategy.Strategy
}

// kinds returns one limit of each strategy, and all of them together.
func kinds() []kind {
	all := []kind{{"all six", strategy.All[:]}}
	for _, s := range strategy.All {
		all = append(all, kind{s.String(), []strategy.Strategy{s}})
	}
	return all
}

// steady asks for one unit again and again, in the steady state of a store: its counters
// were used for a while, and nothing has to grow any more. Either a millisecond passes
// before each request, and every request is allowed; or no time passes, and every
// request is denied.
type steady struct {
	*counters
	now, gap strategy.Instant
}

func newSteady(t testing.TB, k kind, allowed bool) *steady {
	var limits []strategy.Limit
	for _, s := range k.strategies {
		spec := strategy.Spec{Rate: "20/10ms", Strategy: s}
		if s >= strategy.TokenBucket {
			spec.Burst = 20
		}
		limits = append(limits, newLimit(t, spec))
	}
	c := &steady{newCounters(limits...), start, 1000}
	for range 100 {
		c.ask()
	}
	if !allowed {
		for c.gap = 0; c.ask(); {
		}
	}
	return c
}

// ask reports whether the next request is allowed.
func (c *steady) ask() bool {
	c.now += c.gap
	return c.decide(c.now, 1, false).Allowed
}

func outcome(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}

func TestDecideDoesNotAllocate(t *testing.T) {
	for _, k := range kinds() {
		for _, allowed := range []bool{true, false} {
			c := newSteady(t, k, allowed)
			if n := testing.AllocsPerRun(1000, func() {
				if c.ask() != allowed {
					t.Fatalf("%s: not %s: %+v", k.name, outcome(allowed), c.decision)
				}
			}); n != 0 {
				t.Errorf("%s, %s: %v allocations", k.name, outcome(allowed), n)
			}
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, k := range kinds() {
		for _, allowed := range []bool{true, false} {
			b.Run(k.name+"/"+outcome(allowed), func(b *testing.B) {
				c := newSteady(b, k, allowed)
				b.ReportAllocs()
				for b.Loop() {
					if c.ask() != allowed {
						b.Fatalf("%+v", c.decision)
					}
				}
			})
		}
	}
}
