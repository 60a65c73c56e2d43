package strategy_test

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A model is a strategy exactly as the table in section 4 of the design describes it. It is
// slow, computes with rational numbers, and knows nothing about how the strategy keeps
// its state. Times are in microseconds and never step back.
type model interface {
	allows(now, cost int64) bool
	take(now, cost int64)
}

func newModel(l *strategy.Limit) model {
	n, p, burst := l.Rate.Count, l.Rate.Period.Microseconds(), l.Capacity
	switch l.Strategy {
	case strategy.FixedWindow:
		return &fixedWindowModel{n: n, p: p, used: map[int64]int64{}}
	case strategy.SlidingWindowCounter:
		return &slidingWindowCounterModel{n: n, p: p, used: map[int64]int64{}}
	case strategy.SlidingWindowLog:
		return &slidingWindowLogModel{n: n, p: p}
	case strategy.TokenBucket:
		return &tokenBucketModel{rate: big.NewRat(n, p), burst: whole(burst), tokens: whole(burst), last: whole(0)}
	case strategy.LeakyBucket:
		return &leakyBucketModel{rate: big.NewRat(n, p), burst: whole(burst), level: whole(0), last: whole(0)}
	default:
		return &gcraModel{interval: big.NewRat(p, n), burst: whole(burst), tat: whole(0)}
	}
}

// fixedWindowModel: used + cost <= N.
type fixedWindowModel struct {
	n, p int64
	used map[int64]int64 // by number of the window since the epoch
}

func (m *fixedWindowModel) allows(now, cost int64) bool { return m.used[now/m.p]+cost <= m.n }
func (m *fixedWindowModel) take(now, cost int64)        { m.used[now/m.p] += cost }

// slidingWindowCounterModel: previous x (1 - elapsed/P) + current + cost <= N.
type slidingWindowCounterModel struct {
	n, p int64
	used map[int64]int64
}

func (m *slidingWindowCounterModel) allows(now, cost int64) bool {
	previous, current, elapsed := whole(m.used[now/m.p-1]), whole(m.used[now/m.p]), big.NewRat(now%m.p, m.p)
	return sum(mul(previous, sub(whole(1), elapsed)), current, whole(cost)).Cmp(whole(m.n)) <= 0
}

func (m *slidingWindowCounterModel) take(now, cost int64) { m.used[now/m.p] += cost }

// slidingWindowLogModel: (time, cost) entries younger than P; sum + cost <= N.
type slidingWindowLogModel struct {
	n, p    int64
	entries []consumption
}

type consumption struct{ at, cost int64 }

func (m *slidingWindowLogModel) allows(now, cost int64) bool {
	total := cost
	for _, e := range m.entries {
		if now-e.at < m.p {
			total += e.cost
		}
	}
	return total <= m.n
}

func (m *slidingWindowLogModel) take(now, cost int64) {
	m.entries = append(m.entries, consumption{now, cost})
}

// tokenBucketModel: full at first; refills N per P; tokens >= cost.
type tokenBucketModel struct {
	rate         *big.Rat // tokens per microsecond
	burst        *big.Rat
	tokens, last *big.Rat
}

func (m *tokenBucketModel) at(now int64) *big.Rat {
	tokens := sum(m.tokens, mul(m.rate, sub(whole(now), m.last)))
	if tokens.Cmp(m.burst) > 0 {
		return m.burst
	}
	return tokens
}

func (m *tokenBucketModel) allows(now, cost int64) bool { return m.at(now).Cmp(whole(cost)) >= 0 }

func (m *tokenBucketModel) take(now, cost int64) {
	m.tokens, m.last = sub(m.at(now), whole(cost)), whole(now)
}

// leakyBucketModel: drains N per P; level + cost <= burst; delay = time until
// this request's turn.
type leakyBucketModel struct {
	rate        *big.Rat // units per microsecond
	burst       *big.Rat
	level, last *big.Rat
}

func (m *leakyBucketModel) at(now int64) *big.Rat {
	level := sub(m.level, mul(m.rate, sub(whole(now), m.last)))
	if level.Sign() < 0 {
		return whole(0)
	}
	return level
}

func (m *leakyBucketModel) allows(now, cost int64) bool {
	return sum(m.at(now), whole(cost)).Cmp(m.burst) <= 0
}

func (m *leakyBucketModel) take(now, cost int64) {
	m.level, m.last = sum(m.at(now), whole(cost)), whole(now)
}

// delay returns the microseconds until what is in the bucket has drained.
func (m *leakyBucketModel) delay(now int64) *big.Rat {
	return new(big.Rat).Quo(m.at(now), m.rate)
}

// gcraModel: now >= TAT - (burst - cost) x P/N; and, as everywhere, never more
// than the capacity at once, which the condition allows of an idle counter.
type gcraModel struct {
	interval *big.Rat // P/N in microseconds
	burst    *big.Rat
	tat      *big.Rat
}

func (m *gcraModel) allows(now, cost int64) bool {
	tolerance := mul(sub(m.burst, whole(cost)), m.interval)
	return tolerance.Sign() >= 0 && whole(now).Cmp(sub(m.tat, tolerance)) >= 0
}

func (m *gcraModel) take(now, cost int64) {
	if m.tat.Cmp(whole(now)) < 0 {
		m.tat = whole(now)
	}
	m.tat = sum(m.tat, mul(whole(cost), m.interval))
}

// Every strategy gives the same answers as its model: allowed, remaining, the wait and, for
// a leaky bucket, the delay.
func TestStrategiesAgreeWithTheirModels(t *testing.T) {
	for _, s := range strategy.All {
		t.Run(s.String(), rapid.MakeCheck(func(t *rapid.T) {
			c, now := anyCounters(t, s)
			m := newModel(&c.limits[0])
			live(t, c, now, func(now strategy.Instant, cost uint64) {
				cost = min(cost, c.capacity()+1)
				at, units := int64(now), int64(cost)
				want := m.allows(at, units)
				st := c.status(0, now)
				d := c.take(now, cost)
				if d.Allowed != want {
					t.Fatalf("cost %d: %+v, the model's answer is %v", cost, d, want)
				}
				if left := int64(st.Remaining); !m.allows(at, left) && left > 0 || m.allows(at, left+1) {
					t.Fatalf("%d remain, but the model does not think so", left)
				}
				if wait := d.RetryAfter.Microseconds(); d.RetryAfter > 0 {
					if m.allows(at+wait-1, units) || !m.allows(at+wait, units) && d.RetryAfter != longest {
						t.Fatalf("cost %d: %+v: the model's wait is another", cost, d)
					}
				}
				wantDelay(t, m, at, d)
				if d.Allowed {
					m.take(at, units)
				}
			})
		}))
	}
}

// wantDelay checks the delay of d before m has taken the request. It must be the delay of
// the leaky bucket, in microseconds, rounded up.
func wantDelay(t *rapid.T, m model, now int64, d strategy.Decision) {
	bucket, leaky := m.(*leakyBucketModel)
	if !leaky || !d.Allowed {
		if d.Delay != 0 {
			t.Fatalf("%+v: a delay", d)
		}
		return
	}
	want := bucket.delay(now)
	most := whole(int64(longest / us))
	if d.Delay == longest {
		if want.Cmp(most) <= 0 {
			t.Fatalf("%+v: the model's delay is %v µs", d, want)
		}
		return
	}
	over := sub(whole(d.Delay.Microseconds()), want)
	if over.Sign() < 0 || over.Cmp(whole(1)) >= 0 || d.Delay%us != 0 {
		t.Fatalf("%+v: the model's delay is %v µs", d, want)
	}
}

// history draws a history of c, which has one limit, and returns what it consumed.
func history(t *rapid.T, c *counters, now strategy.Instant) []consumption {
	var all []consumption
	live(t, c, now, func(now strategy.Instant, cost uint64) {
		if c.take(now, cost).Allowed {
			all = append(all, consumption{int64(now), int64(cost)})
		}
	})
	return all
}

func TestFixedWindowNeverPassesMoreInAnAlignedWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, now := anyCounters(t, strategy.FixedWindow)
		l := c.limits[0]
		used := map[int64]int64{}
		for _, e := range history(t, c, now) {
			window := e.at / l.Rate.Period.Microseconds()
			if used[window] += e.cost; used[window] > l.Rate.Count {
				t.Fatalf("%v: %d in window %d", l.Rate, used[window], window)
			}
		}
	})
}

// It is enough to check the windows that begin with an entry. Any other window of length P
// has no more than the one that begins with its first entry.
func TestSlidingWindowLogNeverPassesMoreInAnyWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, now := anyCounters(t, strategy.SlidingWindowLog)
		l := c.limits[0]
		all := history(t, c, now)
		for i, first := range all {
			var total int64
			for _, e := range all[i:] {
				if e.at < first.at+l.Rate.Period.Microseconds() {
					total += e.cost
				}
			}
			if total > l.Rate.Count {
				t.Fatalf("%v: %d from %d on", l.Rate, total, first.at)
			}
		}
	})
}

// From any consumption to any later one, no more than burst + rate x t pass.
func TestBucketsNeverPassMoreThanBurstAndRate(t *testing.T) {
	for _, s := range []strategy.Strategy{strategy.TokenBucket, strategy.LeakyBucket, strategy.GCRA} {
		t.Run(s.String(), rapid.MakeCheck(func(t *rapid.T) {
			c, now := anyCounters(t, s)
			l := c.limits[0]
			perMicrosecond := big.NewRat(l.Rate.Count, l.Rate.Period.Microseconds())
			all := history(t, c, now)
			for i, first := range all {
				var total int64
				for _, e := range all[i:] {
					total += e.cost
					most := sum(whole(l.Capacity), mul(perMicrosecond, whole(e.at-first.at)))
					if whole(total).Cmp(most) > 0 {
						t.Fatalf("%v, burst %d: %d from %d to %d", l.Rate, l.Capacity, total, first.at, e.at)
					}
				}
			}
		}))
	}
}

// If each request of a leaky bucket is held for its delay, requests leave evenly: each after
// those ahead of it have drained.
func TestLeakyBucketLeavesEvenly(t *testing.T) {
	c := newCounters(newLimit(t, strategy.Spec{Rate: "3/s", Strategy: strategy.LeakyBucket, Burst: 5}))
	var left time.Duration // when the one before left, and 1/3 s ago at first
	for i, at := range []time.Duration{0, 0, 0, 100 * ms, 400 * ms, 2 * sec, 2 * sec, 2 * sec} {
		d := c.take(after(start, at), 1)
		leaves := at + d.Delay
		if gap := leaves - left; !d.Allowed || i > 0 && gap < 333_333*us {
			t.Errorf("request %d leaves %v after the one before: %+v", i, gap, d)
		}
		left = leaves
	}
}

func whole(n int64) *big.Rat     { return new(big.Rat).SetInt64(n) }
func mul(a, b *big.Rat) *big.Rat { return new(big.Rat).Mul(a, b) }
func sub(a, b *big.Rat) *big.Rat { return new(big.Rat).Sub(a, b) }
func sum(terms ...*big.Rat) *big.Rat {
	total := new(big.Rat)
	for _, term := range terms {
		total.Add(total, term)
	}
	return total
}
