package load

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/permitted"
)

// A tally counts how much each key was allowed, and in which time. A decision was made
// between the start and the end of its call. A tally is safe for concurrent use.
type tally struct {
	limits []strategy.Limit
	cost   uint64
	keys   []allowance
}

type allowance struct {
	calls       atomic.Uint64
	first, last atomic.Int64 // the start of the first allowed call and the end of the last, from the start of the run; 0 if no call was allowed
}

// newTally returns a tally of count keys. It returns nil if no limits are known or the
// number of keys has no bound: then there is nothing to check.
func newTally(limits []strategy.Limit, cost uint64, count int) *tally {
	if len(limits) == 0 || count == 0 {
		return nil
	}
	return &tally{limits: limits, cost: cost, keys: make([]allowance, count)}
}

// allowed counts one request. The times must be above 0.
func (t *tally) allowed(key int, start, end time.Duration) {
	if t == nil {
		return
	}
	a := &t.keys[key]
	a.calls.Add(1)
	for first := a.first.Load(); first == 0 || int64(start) < first; first = a.first.Load() {
		if a.first.CompareAndSwap(first, int64(start)) {
			break
		}
	}
	for last := a.last.Load(); int64(end) > last; last = a.last.Load() {
		if a.last.CompareAndSwap(last, int64(end)) {
			break
		}
	}
}

// Correctness compares how many units the server allowed with how many the limits permit.
type Correctness struct {
	Checked   bool   `json:"checked"`    // false if the limits are not known, or each key was asked about once
	Keys      int    `json:"keys"`       // keys that were allowed anything
	Allowed   uint64 `json:"allowed"`    // in the whole run, including the warm-up
	Permitted uint64 `json:"permitted"`  // the most that the limits permit to these keys in their times
	KeysOver  int    `json:"keys_over"`  // keys that were allowed more than permitted
	UnitsOver uint64 `json:"units_over"` // by how much, in total
}

func (t *tally) correctness() Correctness {
	if t == nil {
		return Correctness{}
	}
	c := Correctness{Checked: true}
	for i := range t.keys {
		a := &t.keys[i]
		calls := a.calls.Load()
		if calls == 0 {
			continue
		}
		c.Keys++
		most := uint64(math.MaxUint64)
		for j := range t.limits {
			most = min(most, permitted.Most(&t.limits[j], time.Duration(a.last.Load()-a.first.Load())))
		}
		allowed := calls * t.cost
		c.Allowed += allowed
		if c.Permitted += most; c.Permitted < most {
			c.Permitted = math.MaxUint64
		}
		if allowed > most {
			c.KeysOver++
			c.UnitsOver += allowed - most
		}
	}
	return c
}
