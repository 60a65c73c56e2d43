package strategy_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// FuzzDecide reads from arbitrary bytes limits, requests of all modes, dry runs, steps of the
// clock in both directions, and changes of rate. Nothing may panic, and every answer must make
// sense.
func FuzzDecide(f *testing.F) {
	for _, s := range strategy.All {
		unit, second := byte(s-1), []byte{0xe7, 3, 0, 0, 0}
		one := slices.Concat([]byte{0, unit, 0, 5, 0, 0, 0}, second, []byte{10, 0, 0, 0})
		f.Add(slices.Concat(one, []byte{0x00, 3, 0x00, 3, 0x08, 1, 100, 0x04, 200, 0x03, 0x03}))                                          // small costs, a dry run
		f.Add(slices.Concat(one, []byte{0x40, 9, 0x08, 50, 0x00, 1, 0x80, 7, 0xc0, 200, 0x40, 3, 0x80, 255, 0xc4, 1}))                    // a charge, a refund, an overdraw
		f.Add(slices.Concat(one, []byte{0x13, 0, 0, 0, 1, 0x13, 0, 0, 0, 0x80, 0x1a, 1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1}))    // far forth and back
		f.Add(slices.Concat(one, []byte{0x03, 0x20, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0x03, 0x23, 7, 0, 0, 0, 0, 0, 1, 0, 0})) // changes of rate
	}
	f.Add([]byte{3, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, input []byte) {
		s := script(input)
		limits := make([]strategy.Limit, 1+s.read(1)%4)
		for i := range limits {
			limits[i] = s.limit(t, strategy.All[s.read(1)%uint64(len(strategy.All))])
		}
		c := newCounters(limits...)
		now := start
		for steps := 0; len(s) > 0 && steps < 200; steps++ {
			op := s.read(1)
			mode := strategy.Mode(op >> 6)
			if op&0x20 != 0 { // a change of rate
				mode = strategy.Take
				i := (op >> 6) % uint64(len(limits))
				c.limits[i] = s.limit(t, c.limits[i].Strategy)
			}
			now = max(0, min(now+s.gap(op>>3&3), 1<<60))
			cost := s.cost(op&3, c, now)
			d := c.ask(strategy.Ask{Cost: cost, Now: now, Mode: mode, DryRun: op&4 != 0})
			wantSense(t, c, d, now)
			if cost > 0 && op&4 == 0 || mode == strategy.Take { // or else it is the wait of what was not done
				wantExact(t, c, clone(d), cost, now)
			}
		}
	})
}

// wantSense checks what holds for every decision.
func wantSense(t *testing.T, c *counters, d *strategy.Decision, now strategy.Instant) {
	t.Helper()
	all := len(d.Statuses) == len(c.limits)
	for i, st := range d.Statuses {
		all = all && st.Allowed
		if st.Remaining > st.Limit || st.ResetAfter < 0 || st.RetryAfter < strategy.Never || st.Allowed != (st.RetryAfter == 0) {
			t.Fatalf("%+v at %d: %+v", c.limits[i], now, st)
		}
		if s := c.states[i]; s.Used > strategy.MaxUnits || s.Part < 0 {
			t.Fatalf("%+v at %d: state %+v", c.limits[i], now, s)
		}
	}
	if d.Allowed != all || d.Allowed != (d.RetryAfter == 0) || d.RetryAfter < strategy.Never || d.Delay < 0 || d.Delay > 0 && !d.Allowed {
		t.Fatalf("at %d: %+v", now, d)
	}
}

// wantExact checks the wait of a denied request. It does not if the clock has stepped back,
// because then the wait counts from the latest time that the clock has shown.
func wantExact(t *testing.T, c *counters, d strategy.Decision, cost uint64, now strategy.Instant) {
	t.Helper()
	for _, s := range c.states {
		if now < s.Last {
			return
		}
	}
	if d.RetryAfter <= 0 || d.RetryAfter == longest {
		return
	}
	then := after(now, d.RetryAfter)
	if early, on := c.peek(then-1, cost), c.peek(then, cost); early.Allowed || !on.Allowed {
		t.Fatalf("cost %d of %+v at %d: %+v\na microsecond before: %+v\nthen: %+v", cost, c.limits, now, d, early, on)
	}
}

// A script is bytes to read numbers from. After its end, all numbers are 0.
type script []byte

func (s *script) read(n int) uint64 {
	var word [8]byte
	*s = (*s)[copy(word[:n], *s):]
	return binary.LittleEndian.Uint64(word[:])
}

// limit reads a limit of a rate and a burst of any size, or unlimited.
func (s *script) limit(t *testing.T, of strategy.Strategy) strategy.Limit {
	unlimited := s.read(1) == 255
	r := rate.Rate{
		Count:  int64(s.read(4) % (rate.MaxCount + 1)),
		Period: rate.MinPeriod + time.Duration(s.read(5)%uint64(rate.MaxPeriod/ms))*ms,
	}
	burst := s.read(4) % (strategy.MaxBurst + 1)
	if unlimited {
		r = rate.Rate{Count: rate.Unlimited}
	}
	if of < strategy.TokenBucket {
		burst = 0
	}
	return newLimit(t, strategy.Spec{Name: "n", Rate: r.String(), Strategy: of, Burst: burst})
}

// gap reads a step of the clock, of one of four sizes.
func (s *script) gap(size uint64) strategy.Instant {
	switch size {
	case 0:
		return 0
	case 1:
		return strategy.Instant(int8(s.read(1)))
	case 2:
		return strategy.Instant(int32(s.read(4)))
	default:
		return strategy.Instant(int64(s.read(8)) >> 12)
	}
}

// cost reads a cost, of one of three sizes or beside what remains.
func (s *script) cost(size uint64, c *counters, now strategy.Instant) uint64 {
	switch size {
	case 0:
		return s.read(1)
	case 1:
		return s.read(4)
	case 2:
		return s.read(8)
	default:
		return remaining(c.peek(now, 0)) + s.read(1)%3 - 1
	}
}

// FuzzParseLog reads logs that a store holds. One that is read is written in a form that
// reads the same, and using it does not panic.
func FuzzParseLog(f *testing.F) {
	l := &strategy.Limit{Strategy: strategy.SlidingWindowLog, Rate: rate.Rate{Count: 10, Period: time.Second}, Capacity: 10}
	var g strategy.Log
	for i := range 5 {
		f.Add(g.Append(nil))
		g.Add(l, 1, strategy.Instant(i*100_000))
	}
	f.Add([]byte{5, 1, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		var g, again strategy.Log
		if g.Parse(data) != nil {
			return
		}
		written := g.Append(nil)
		if err := again.Parse(written); err != nil {
			t.Fatalf("%x is written as %x: %v", data, written, err)
		}
		for _, now := range []strategy.Instant{0, 1_767_225_600_000_000} {
			ask := strategy.Ask{Cost: 10, Now: now}
			if a, b := g.View(l, ask), again.View(l, ask); a != b {
				t.Fatalf("%x is %+v, and read again %+v", data, a, b)
			}
			g.Add(l, 1, now)
			again.Add(l, 1, now)
		}
	})
}
