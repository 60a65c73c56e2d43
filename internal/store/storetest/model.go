package storetest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// drawMode draws a mode: mostly Take.
func drawMode() *rapid.Generator[strategy.Mode] {
	return rapid.SampledFrom([]strategy.Mode{strategy.Take, strategy.Take, strategy.Take, strategy.Charge, strategy.Refund, strategy.Refund, strategy.Overdraw})
}

// drawLimit draws limits of all strategies. To decide some of them takes numbers of
// more than 53 bits.
func drawLimit(tb testing.TB) *rapid.Generator[strategy.Limit] {
	return rapid.Custom(func(rt *rapid.T) strategy.Limit {
		spec := strategy.Spec{Strategy: rapid.SampledFrom(strategy.All[:]).Draw(rt, "strategy")}
		if rapid.IntRange(0, 3).Draw(rt, "named") == 0 {
			spec.Name = rapid.SampledFrom([]string{"a", "b", "{c}:"}).Draw(rt, "name")
		}
		counts := []uint64{0, 1, 2, 3, 7, 10, 97, 100, 1000, 9973}
		if spec.Strategy != strategy.SlidingWindowLog {
			counts = append(counts, 1_000_000, 999_999_937, 1_000_000_000)
		}
		count := rapid.SampledFrom(counts).Draw(rt, "count")
		period := rapid.SampledFrom([]string{"1ms", "7ms", "100ms", "s", "min", "h", "d", "w", "366d", "31622399999ms"}).Draw(rt, "period")
		if spec.Strategy == strategy.FixedWindow && rapid.IntRange(0, 2).Draw(rt, "calendar") == 0 {
			period = rapid.SampledFrom([]string{"d", "w", "3d", "month", "2 months", "year"}).Draw(rt, "period of the calendar")
			spec.Zone = zone(tb, rapid.SampledFrom([]string{"", "UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Chatham"}).Draw(rt, "zone"))
			if strings.HasSuffix(period, "month") || strings.HasSuffix(period, "months") || period == "year" {
				spec.AnchorDay = rapid.Uint32Range(0, strategy.MaxAnchorDay).Draw(rt, "anchor")
			}
		}
		spec.Rate = fmt.Sprintf("%d/%s", count, period)
		switch spec.Strategy {
		case strategy.TokenBucket, strategy.LeakyBucket, strategy.GCRA:
			spec.Burst = rapid.SampledFrom([]uint64{0, 1, 2, 5, 100, 999_999_937, 1_000_000_000}).Draw(rt, "burst")
		}
		if rapid.IntRange(0, 1).Draw(rt, "bounded debt") == 0 {
			spec.MaxDebt = strategy.AtMost(rapid.SampledFrom([]uint64{0, 1, 5, 1000, 1_000_000_000, strategy.MaxUnits}).Draw(rt, "max debt"))
		}
		l := Limit(tb, spec)
		l.Shadow = rapid.IntRange(0, 4).Draw(rt, "shadow") == 0
		return l
	})
}

// counterOf returns the same limit for all limits that share l's counter.
func counterOf(l strategy.Limit) strategy.Limit {
	if l.Name != "" {
		return strategy.Limit{Name: l.Name, Strategy: l.Strategy}
	}
	l.Shadow, l.MaxDebt = false, strategy.Bound(0)
	return l
}

// changedRates returns limits, with other rates for the named ones. A log keeps its
// period: when the period gets longer, it depends on the store how much of what is
// older than the short period is still there.
func changedRates(rt *rapid.T, tb testing.TB, limits []strategy.Limit) []strategy.Limit {
	changed := slices.Clone(limits)
	for i, l := range limits {
		if l.Name != "" {
			other := drawLimit(tb).Filter(func(m strategy.Limit) bool { return m.Strategy == l.Strategy }).Draw(rt, "changed")
			if l.Strategy == strategy.SlidingWindowLog {
				other.Rate.Period = l.Rate.Period
			}
			changed[i].Rate, changed[i].Capacity, changed[i].MaxDebt = other.Rate, other.Capacity, other.MaxDebt
			changed[i].Zone, changed[i].AnchorDay = other.Zone, other.AnchorDay
		}
	}
	return changed
}

// drawPause draws the microseconds between two decisions. They are about as long as a
// unit or a period of the limits takes, and sometimes negative.
func drawPause(limits []strategy.Limit) *rapid.Generator[int64] {
	var unit, period int64 = 1, 1
	for _, l := range limits {
		if p := int64(l.Rate.Period / time.Microsecond); p > period {
			period, unit = p, p/max(1, l.Rate.Count)
		}
	}
	return rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 3*unit), rapid.Int64Range(0, 2*period), rapid.Int64Range(-unit, 0), rapid.Int64Range(-2*period, 0), rapid.Just(10*period))
}

func drawCost(limits []strategy.Limit) *rapid.Generator[uint64] {
	capacity := uint64(1)
	for _, l := range limits {
		capacity = max(capacity, uint64(l.Capacity))
	}
	return rapid.OneOf(rapid.Just(uint64(1)), rapid.Uint64Range(0, 3), rapid.Uint64Range(0, capacity), rapid.Just(capacity/3+1), rapid.Uint64())
}

// A model is the simplest possible store: the algorithms and a map.
type model struct {
	counters map[modelKey]*modelCounter
	skew     strategy.Instant
}

// A modelKey identifies a counter. It has no namespace, because each test uses only one.
type modelKey struct {
	identifier string
	limit      strategy.Limit
}

type modelCounter struct {
	state strategy.State
	log   strategy.Log
}

func newModel(of Subject) *model { return &model{map[modelKey]*modelCounter{}, of.Skew} }

// decideRun decides requests, together or each on its own.
func (m *model) decideRun(requests []store.Request, now strategy.Instant, together bool) []strategy.Decision {
	decide := func(dryRun bool) (decisions []strategy.Decision, refused bool) {
		for _, r := range requests {
			r.DryRun = r.DryRun || dryRun
			d := m.decide(r, now)
			decisions, refused = append(decisions, d), refused || d.Refused
		}
		return decisions, refused
	}
	if together && len(requests) > 1 {
		if decisions, refused := decide(true); refused {
			return decisions
		}
	}
	decisions, _ := decide(false)
	return decisions
}

func (m *model) decide(r store.Request, now strategy.Instant) strategy.Decision {
	counters := make([]*modelCounter, len(r.Limits))
	states := make([]strategy.State, len(r.Limits))
	for i, l := range r.Limits {
		known := modelKey{r.Identifier, counterOf(l)}
		if m.counters[known] == nil {
			m.counters[known] = &modelCounter{}
		}
		c := m.counters[known]
		c.state.Settle(&l, now, m.skew)
		counters[i], states[i] = c, c.state
		if l.Strategy == strategy.SlidingWindowLog {
			c.log.Settle(&l, now, m.skew)
			states[i] = c.log.View(&l, r.Ask(now))
		}
	}
	var d strategy.Decision
	consumed := d.Decide(r.Limits, states, r.Ask(now))
	for i := range r.Limits {
		l := &r.Limits[i]
		if !consumed.From(l) {
			continue
		}
		counters[i].state = states[i]
		if l.Strategy == strategy.SlidingWindowLog && !l.Rate.IsUnlimited() {
			counters[i].log.Apply(l, r.Ask(now))
		}
	}
	return d
}
