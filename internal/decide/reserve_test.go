package decide

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/reservation"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/denycache"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/yamlfile"
)

// A faultyStore fails as long as it is told to. With late, it has decided all the same.
type faultyStore struct {
	store.Store
	fails, late atomic.Bool
}

func (s *faultyStore) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	if !s.fails.Load() || s.late.Load() {
		s.Store.Decide(ctx, requests, results)
	}
	if s.fails.Load() {
		for i := range results {
			results[i].All(&requests[i], func(_ *store.Request, res *store.Result) { res.Err = errFails })
		}
	}
}

func (s *faultyStore) Agree(ctx context.Context, name string, value []byte) ([]byte, error) {
	if s.fails.Load() {
		return nil, errFails
	}
	return s.Store.Agree(ctx, name, value)
}

// newFaulty returns a store by the clock of the process, which is virtual in synctest.
func newFaulty(tb testing.TB) *faultyStore {
	tb.Helper()
	s, err := memory.New(memory.Options{Now: func() strategy.Instant { return strategy.InstantOf(time.Now()) }})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return &faultyStore{Store: s}
}

// A desk reserves and settles for one identifier.
type desk struct {
	t *testing.T
	*Core
	r Request
}

func (d *desk) reserve(cost uint64) []byte {
	d.t.Helper()
	id, a, err := d.tryReserve(cost)
	if err != nil || a.Err != nil {
		d.t.Fatal(err, a.Err)
	}
	return id
}

func (d *desk) tryReserve(cost uint64) ([]byte, Answer, error) {
	r := d.r
	r.Cost = cost
	b := &Batch{Requests: []Request{r}}
	id, err := d.Reserve(d.t.Context(), b)
	if err != nil {
		return nil, Answer{}, err
	}
	return id, b.Answers[0], nil
}

func (d *desk) settle(id []byte, used uint64) (Answer, bool) {
	d.t.Helper()
	var b Batch
	repeated, err := d.Settle(d.t.Context(), id, used, &b)
	if err != nil {
		d.t.Fatal(err)
	}
	return b.Answers[0], repeated
}

func (d *desk) settleError(id []byte, used uint64) error {
	var b Batch
	_, err := d.Settle(d.t.Context(), id, used, &b)
	return err
}

// used returns what is used of each limit.
func (d *desk) used() (units []uint64) {
	d.t.Helper()
	r := d.r
	r.Cost, r.DryRun = 0, true
	a := d.decideAll(d.t.Context(), 0, r)[0]
	if a.Err != nil {
		d.t.Fatal(a.Err)
	}
	for _, st := range a.Decision.Statuses {
		units = append(units, st.Limit-st.Remaining)
	}
	return units
}

func (d *desk) wantUsed(units ...uint64) {
	d.t.Helper()
	if got := d.used(); fmt.Sprint(got) != fmt.Sprint(units) {
		d.t.Errorf("used %v, want %v", got, units)
	}
}

func specsOfAll() (specs []strategy.Spec) {
	for _, s := range strategy.All {
		spec := strategy.Spec{Rate: "1000/h", Strategy: s}
		if s == strategy.GCRA {
			spec.Burst = 1000
		}
		specs = append(specs, spec)
	}
	return specs
}

// TestSettle settles reservations of 400 of limits of every strategy, with more, less,
// as much and nothing, and again with other numbers.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cached := range []bool{false, true} {
			s := store.Store(newFaulty(t))
			if cached {
				s = denycache.New(s, denycache.Options{})
			}
			c := newCore(t, Options{Store: s}, "{}")
			for _, used := range []uint64{0, 1, 399, 400, 401, 1000, 1001} {
				d := &desk{t, c, Request{Namespace: "llm", Identifier: fmt.Sprint("user ", used), Specs: specsOfAll()}}
				id := d.reserve(400)
				d.wantUsed(400, 400, 400, 400, 400, 400)
				a, repeated := d.settle(id, used)
				want := Refunded
				switch {
				case used > 1000:
					want = Overcharged
				case used >= 400:
					want = Charged
				}
				if repeated || a.Outcome != want || a.Decision.Allowed != (used <= 1000) || len(a.Limits) != 6 || len(a.Decision.Statuses) != 6 {
					t.Errorf("%d: %+v, repeated %t, want %s", used, a, repeated, want)
				}
				left := 1000 - min(used, 1000)
				for i, st := range a.Decision.Statuses {
					if st.Remaining != left {
						t.Errorf("%d: limit %d: %d remain, want %d", used, i, st.Remaining, left)
					}
				}
				for _, again := range []uint64{used, 0, 5000} {
					a, repeated := d.settle(id, again)
					if !repeated {
						t.Errorf("%d, and then %d: it counts again", used, again)
					}
					for i, st := range a.Decision.Statuses {
						if st.Remaining != left {
							t.Errorf("%d, and then %d: limit %d says that %d remain, want %d", used, again, i, st.Remaining, left)
						}
					}
				}
				u := min(used, 1000)
				d.wantUsed(u, u, u, u, u, u)
			}
		}
	})
}

// TestReserveNothing has requests that reserve nothing.
func TestReserveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t, newCore(t, Options{Store: newFaulty(t)}, `{llm: {exempt: [staff]}}`), Request{Namespace: "llm", Identifier: "alice", Specs: []strategy.Spec{{Rate: "10/h"}}}}
		d.r.DryRun = true
		if id, a, err := d.tryReserve(1); id != nil || a.Outcome != Allowed || err != nil {
			t.Errorf("a dry run: %q, %+v, %v", id, a, err)
		}
		d.r.DryRun = false
		if id, a, err := d.tryReserve(11); id != nil || a.Outcome != Denied || err != nil {
			t.Errorf("denied: %q, %+v, %v", id, a, err)
		}
		d.r.Specs = nil
		var invalid *InvalidError
		if id, a, err := d.tryReserve(1); id != nil || !errors.As(a.Err, &invalid) || err != nil {
			t.Errorf("invalid: %q, %+v, %v", id, a, err)
		}
		d.r.Identifier, d.r.Specs = "staff", []strategy.Spec{{Rate: "0/h"}}
		if a, repeated := d.settle(d.reserve(5), 9); a.Outcome != Exempt || !a.Decision.Allowed || repeated {
			t.Errorf("exempt: %+v, %t", a, repeated)
		}
		d.r.Identifier, d.r.Specs = "bob", []strategy.Spec{{Rate: "unlimited"}}
		id := d.reserve(5)
		if a, repeated := d.settle(id, math.MaxUint64); !a.Decision.Allowed || repeated || a.Decision.Statuses[0].Remaining != math.MaxUint64 {
			t.Errorf("unlimited: %+v, %t", a, repeated)
		}
		if _, repeated := d.settle(id, 1); !repeated {
			t.Error("unlimited: it counts again")
		}
		d.r.Specs = []strategy.Spec{{Rate: "10/h"}}
		if a, repeated := d.settle(d.reserve(0), 4); a.Outcome != Charged || repeated {
			t.Errorf("an estimate of nothing: %+v", a)
		}
		d.wantUsed(4)
	})
}

// TestSettleShadow settles what was taken from limits in shadow mode, or not taken.
func TestSettleShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := append(fixed(100), fixed(10)[0])
		limits[1].Name, limits[1].Shadow = "shadow", true
		d := &desk{t, newCore(t, Options{Store: newFaulty(t)}, "{}"), Request{Namespace: "llm", Identifier: "alice", Limits: limits}}
		a, _ := d.settle(d.reserve(8), 12) // over the limit in shadow mode alone
		if !a.Decision.Allowed || a.Outcome != Shadowed || a.Decision.Statuses[1].Allowed || a.Decision.RetryAfter != 0 || !a.Limits[1].Shadow {
			t.Errorf("%+v, %+v", a, a.Decision)
		}
		d.wantUsed(12, 10)
		id := d.reserve(5) // takes from the other alone
		d.wantUsed(17, 10)
		if a, _ := d.settle(id, 0); len(a.Limits) != 1 || a.Outcome != Refunded {
			t.Errorf("%+v", a)
		}
		d.wantUsed(12, 10)
	})
}

// TestReservationExpires settles reservations about when they expire.
func TestReservationExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t, newCore(t, Options{Store: newFaulty(t), ReservationLife: time.Minute}, "{}"), Request{Namespace: "llm", Identifier: "alice", Specs: []strategy.Spec{{Rate: "100/day"}}}}
		early, late := d.reserve(10), d.reserve(20)
		time.Sleep(time.Minute - time.Microsecond)
		if _, repeated := d.settle(early, 5); repeated {
			t.Error("just before it expires it was settled")
		}
		time.Sleep(time.Microsecond)
		for _, id := range [][]byte{early, late} {
			if err := d.settleError(id, 5); !errors.Is(err, ErrExpired) {
				t.Errorf("%v, want %v", err, ErrExpired)
			}
		}
		d.wantUsed(25)
	})
}

// TestRefundOfAnOldWindow gives nothing to the present window of what an older one has
// counted.
func TestRefundOfAnOldWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t, newCore(t, Options{Store: newFaulty(t)}, "{}"), Request{Namespace: "llm", Identifier: "alice", Specs: []strategy.Spec{{Rate: "100/min"}}}}
		id := d.reserve(50)
		time.Sleep(time.Minute)
		other := d.reserve(30)
		d.settle(id, 0)
		d.wantUsed(30)
		d.settle(other, 40)
		d.wantUsed(40)
	})
}

// TestStoreFailsBetween has the store fail when something is reserved, when it is
// settled, and when that is done and nobody hears of it.
func TestStoreFailsBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty(t)
		d := &desk{t, newCore(t, Options{Store: s, OnError: policy.FailAllow}, "{strict: {on_error: error}, closed: {on_error: deny}}"), Request{Namespace: "llm", Identifier: "alice", Specs: []strategy.Spec{{Rate: "100/day"}}}}
		s.fails.Store(true) // before there is a key
		id, a, err := d.tryReserve(10)
		if err != nil || a.Outcome != FailedOpen || id == nil {
			t.Fatalf("%q, %+v, %v", id, a, err)
		}
		for namespace, want := range map[string]Outcome{"strict": Undecided, "closed": FailedClosed} {
			other := *d
			other.r.Namespace = namespace
			if id, a, err := other.tryReserve(1); id != nil || a.Outcome != want || err != nil || (want == Undecided) != errors.Is(a.Err, ErrStore) {
				t.Errorf("%s: %q, %+v, %v", namespace, id, a, err)
			}
		}
		for range 3 {
			if err := d.settleError(id, 7); !errors.Is(err, ErrStore) {
				t.Errorf("%v, want %v", err, ErrStore)
			}
		}
		s.fails.Store(false)
		time.Sleep(keyAgain)
		if a, repeated := d.settle(id, 7); repeated || a.Outcome != Charged {
			t.Errorf("%+v, repeated %t", a, repeated)
		}
		d.wantUsed(7) // all of it, as nothing was taken

		id = d.reserve(10)
		s.fails.Store(true)
		s.late.Store(true)
		if err := d.settleError(id, 12); !errors.Is(err, ErrStore) {
			t.Errorf("%v, want %v", err, ErrStore)
		}
		s.fails.Store(false)
		if _, repeated := d.settle(id, 12); !repeated {
			t.Error("it has counted, and counts again")
		}
		d.wantUsed(19)
	})
}

// A forgetfulStore forgets what was agreed on when it is told to.
type forgetfulStore struct {
	store.Store
	mu    sync.Mutex // protects the following
	value []byte
	asked int
}

func (s *forgetfulStore) Agree(_ context.Context, _ string, value []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if s.value == nil {
		s.value = value
	}
	return s.value, nil
}

func (s *forgetfulStore) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.value = nil
}

// TestKeys has two daemons agree on a key, lose it, and get that of another.
func TestKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &forgetfulStore{Store: newFaulty(t)}
		newDesk := func() *desk {
			return &desk{t, newCore(t, Options{Store: s}, "{}"), Request{Namespace: "llm", Identifier: "alice", Specs: []strategy.Spec{{Rate: "1000/day"}}}}
		}
		one, two := newDesk(), newDesk()
		two.settle(one.reserve(10), 11)
		one.settle(two.reserve(10), 12)
		one.wantUsed(23)
		if s.asked != 2 {
			t.Errorf("the store was asked %d times for the key, want once for each daemon", s.asked)
		}

		before := one.reserve(100)
		s.forget() // a flush, say
		three := newDesk()
		theirs := three.reserve(50) // with another key
		time.Sleep(keyAgain)
		if _, repeated := one.settle(theirs, 60); repeated {
			t.Error("a reservation under the new key was settled before")
		} else if err := two.settleError(theirs, 70); err != nil {
			t.Error(err)
		}
		if _, repeated := two.settle(before, 90); repeated {
			t.Error("a reservation under the old key was settled before")
		}
		one.wantUsed(23 + 60 + 90)

		s.forget()
		time.Sleep(keyFresh)
		mine := one.reserve(1)
		two.settle(mine, 2) // who knows the key, and tells it again
		newDesk().settle(one.reserve(1), 3)
		one.wantUsed(23 + 60 + 90 + 2 + 3)

		asked := s.asked
		other := reservation.NewKey()
		forged := other.Seal(&reservation.Reservation{Namespace: "llm", Identifier: "alice", Taken: 900, Limits: fixed(1000), Expires: math.MaxInt64})
		for i := range 100 {
			for _, id := range [][]byte{forged, nil, {1}, mine[:len(mine)-1], append([]byte{2}, mine[1:]...)} {
				var invalid *InvalidError
				if err := one.settleError(id, 0); !errors.As(err, &invalid) || invalid.Violations[0].Field != "reservation" {
					t.Fatalf("%d: %q: %v", i, id, err)
				}
			}
		}
		if more := s.asked - asked; more > 1 {
			t.Errorf("500 ids that nobody has made have the store asked %d times, want at most once a second", more)
		}
		one.wantUsed(23 + 60 + 90 + 2 + 3)
	})
}

// TestSettleAfterReload settles what was reserved under a policy that is gone, for
// somebody who is exempt by now, and where callers may bring no limits any more.
func TestSettleAfterReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{t, newCore(t, Options{Store: newFaulty(t)}, "{llm: {policies: {tokens: {limits: [{rate: 100/day}]}}}}"), Request{Namespace: "llm", Identifier: "alice", Policy: "tokens"}}
		id := d.reserve(10)
		own := *d
		own.r.Policy, own.r.Specs = "", []strategy.Spec{{Rate: "100/day"}}
		ownID := own.reserve(10)
		set := func(text string) {
			_, root := yamlfile.Parse("test.yaml", []byte(text))
			d.SetPolicies(policy.Read(root, strategy.DefaultMaxLogCount))
		}
		set("{llm: {policies_only: true, policies: {other: {limits: [{rate: 7/day}]}}}}")
		d.settle(id, 15)
		own.settle(ownID, 5)
		set("{llm: {exempt: [alice]}}")
		if a, _ := d.settle(id, 99); a.Outcome != Exempt {
			t.Errorf("%+v", a)
		}
		set("{llm: {policies: {tokens: {limits: [{rate: 100/day}]}}}}")
		d.wantUsed(20)
	})
}

// TestSettleAtOnce has many settle the same reservation at once: one counts.
func TestSettleAtOnce(t *testing.T) {
	c := newCore(t, Options{Store: newFaulty(t)}, "{}")
	d := &desk{t, c, Request{Namespace: "llm", Identifier: "alice", Specs: []strategy.Spec{{Rate: "1000000/366d"}, {Rate: "1000000/366d", Strategy: strategy.SlidingWindowLog, Name: "x"}}}}
	d.r.Specs = d.r.Specs[:1]
	for range 50 {
		before := d.used()[0]
		id := d.reserve(10)
		var counted atomic.Int64
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				if _, repeated := d.settle(id, 10+uint64(i)*3); !repeated {
					counted.Add(1)
				}
			})
		}
		all.Wait()
		if n, used := counted.Load(), d.used()[0]-before; n != 1 || used < 10 || used > 55 || (used-10)%3 != 0 {
			t.Fatalf("%d counted, and %d units", n, used)
		}
	}
}

// TestWhoMaySettle has clients reserve and settle in namespaces of theirs and of others.
func TestWhoMaySettle(t *testing.T) {
	shop, ops, other := auth.NewToken(), auth.NewToken(), auth.NewToken()
	directory, err := auth.Parse("clients.yaml", []byte(fmt.Sprintf(`
clients:
  - {name: shop, tokens: [%s], namespaces: [shop]}
  - {name: ops, tokens: [%s], namespaces: ["*"], operations: [reset, charge, refund]}
  - {name: other, tokens: [%s], namespaces: [other]}
`, auth.HashLine(shop), auth.HashLine(ops), auth.HashLine(other))))
	if err != nil {
		t.Fatal(err)
	}
	c := newCore(t, Options{Store: newFaulty(t), Authenticated: true, ReservationLife: time.Hour}, "{}")
	as := func(token string) context.Context {
		caller, err := directory.Find("Bearer "+token, nil)
		if err != nil {
			t.Fatal(err)
		}
		return auth.NewContext(t.Context(), caller)
	}
	reserve := func(token string) ([]byte, error) {
		b := Batch{Requests: []Request{{Namespace: "shop", Identifier: "alice", Specs: []strategy.Spec{{Rate: "10/h"}}, Cost: 1}}}
		return c.Reserve(as(token), &b)
	}
	id, err := reserve(shop)
	if err != nil || id == nil {
		t.Fatal(id, err)
	}
	for _, token := range []string{ops, other} {
		if id, err := reserve(token); id != nil || !errors.Is(err, auth.ErrForbidden) {
			t.Errorf("reserve: %q, %v", id, err)
		}
		var b Batch
		if _, err := c.Settle(as(token), id, 2, &b); !errors.Is(err, auth.ErrForbidden) || strings.Contains(err.Error(), "alice") {
			t.Errorf("settle: %v", err)
		}
	}
	var b Batch
	if repeated, err := c.Settle(as(shop), id, 2, &b); repeated || err != nil {
		t.Errorf("%t, %v", repeated, err)
	}
}
