package strategy_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// TestMoreAfter looks whether one more unit remains after as long as a status says, and not
// before. A bucket may say a microsecond less.
func TestMoreAfter(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	said := map[strategy.Strategy]int{}
	for range 3000 {
		for _, s := range strategy.All {
			spec := strategy.Spec{Rate: []string{"7/s", "100/min", "3/100ms", "1/h", "1000/10s"}[random.IntN(5)], Strategy: s}
			if s >= strategy.TokenBucket {
				spec.Burst = uint64(1 + random.IntN(50))
			}
			l := newLimit(t, spec)
			c := newCounters(l)
			now := start
			look := func(at strategy.Instant) strategy.Status {
				return c.decide(at, 0, true).Statuses[0]
			}
			for range 1 + random.IntN(20) {
				now += strategy.Instant(random.Int64N(int64(l.Rate.Period/time.Microsecond)/2 + 1))
				c.decide(now, uint64(1+random.IntN(3)), false)
			}
			now += strategy.Instant(random.Int64N(1000))
			st := look(now)
			wait, ok := st.MoreAfter(&l)
			if !ok {
				if s != strategy.SlidingWindowLog && st.ResetAfter > 0 {
					t.Fatalf("%s: it does not say, of %+v", l.Counter(), st)
				}
				continue
			}
			said[s]++
			short := strategy.Instant(0)
			if s >= strategy.TokenBucket {
				short = 1
			}
			after := now + strategy.Instant(wait/time.Microsecond)
			if wait <= 0 && short == 0 || look(after-1).Remaining != st.Remaining || look(after+short).Remaining <= st.Remaining {
				t.Fatalf("%s: %v after %+v there is %+v, before %+v", l.Counter(), wait, st, look(after+short), look(after-1))
			}
		}
	}
	for _, s := range strategy.All {
		if (said[s] == 0) != (s == strategy.SlidingWindowLog) {
			t.Errorf("%s said so %d times", s, said[s])
		}
	}
}
