package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStore holds a memory store behind an admission to what every store promises.
func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		var now atomic.Int64
		inner, err := memory.New(memory.Options{Now: func() strategy.Instant { return strategy.Instant(now.Load()) }})
		if err != nil {
			t.Fatal(err)
		}
		s := New(inner, Options{})
		t.Cleanup(func() { _ = s.Close() })
		return storetest.Subject{Store: s, Set: func(at strategy.Instant) { now.Store(int64(at)) }}
	})
}

// A slowStore is a server that decides one counter after the other, each in perCounter.
type slowStore struct {
	store.Store
	busy chan struct{} // has room for the one that is decided

	mu         sync.Mutex // protects the following
	perCounter time.Duration
	decided    map[string]int
	order      []string
	most       int // counters at it at a time
	now        int
	err        error
}

func (s *slowStore) Decide(_ context.Context, requests []store.Request, results []store.Result) {
	cost := 0
	for i := range requests {
		cost += costOf(&requests[i])
	}
	s.mu.Lock()
	s.now += cost
	s.most = max(s.most, s.now)
	takes := time.Duration(cost) * s.perCounter
	s.mu.Unlock()
	s.busy <- struct{}{}
	time.Sleep(takes)
	<-s.busy
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now -= cost
	for i := range requests {
		results[i].Err = s.err
		s.decided[requests[i].Namespace]++
		s.order = append(s.order, requests[i].Identifier)
	}
}

func newSlow() *slowStore {
	return &slowStore{perCounter: 10 * time.Microsecond, busy: make(chan struct{}, 1), decided: map[string]int{}}
}

// batch returns requests of a namespace, each of some counters.
func batch(namespace string, requests, counters int) []store.Request {
	limits := make([]strategy.Limit, counters)
	for i := range limits {
		limits[i] = strategy.Limit{Rate: rate.Rate{Count: 1, Period: time.Duration(i+1) * time.Hour}}
	}
	all := make([]store.Request, requests)
	for i := range all {
		all[i] = store.Request{Namespace: namespace, Identifier: fmt.Sprint(namespace, i), Limits: limits, Cost: 1}
	}
	return all
}

// errorsOf returns how many of results are overloads, and how many have other errors.
func errorsOf(results []store.Result) (overloads, others int) {
	for i := range results {
		if _, ok := errors.AsType[*store.Overload](results[i].Err); ok {
			overloads++
		} else if results[i].Err != nil {
			others++
		}
	}
	return overloads, others
}

// TestHeavyCaller has 20 callers of the largest batches that there are, and one that
// asks now and then: that one is decided each time, and soon.
func TestHeavyCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newSlow()
		s := New(inner, Options{})
		stop := make(chan struct{})
		var callers sync.WaitGroup
		var mu sync.Mutex
		overloads := 0
		for range 20 {
			callers.Go(func() {
				requests, results := batch("heavy", 1000, 16), make([]store.Result, 1000)
				for {
					select {
					case <-stop:
						return
					default:
					}
					s.Decide(t.Context(), requests, results)
					shed, failed := errorsOf(results)
					if failed > 0 {
						t.Errorf("%d requests failed, and were not shed", failed)
					}
					mu.Lock()
					overloads += shed
					mu.Unlock()
				}
			})
		}
		requests, results := batch("innocent", 1, 2), make([]store.Result, 1)
		var slowest time.Duration
		for range 100 {
			time.Sleep(7 * time.Millisecond)
			start := time.Now()
			s.Decide(t.Context(), requests, results)
			slowest = max(slowest, time.Since(start))
			if err := results[0].Err; err != nil {
				t.Fatal(err)
			}
		}
		close(stop)
		callers.Wait()
		// What is at the store, and a piece that goes before.
		if most := time.Duration(DefaultCapacity+2*maxPiece) * inner.perCounter; slowest > most {
			t.Errorf("a decision took %v, want at most %v", slowest, most)
		}
		if inner.most > DefaultCapacity {
			t.Errorf("%d counters were at the store at a time", inner.most)
		}
		if overloads == 0 || inner.decided["heavy"] < 2_000 {
			t.Errorf("of the heavy caller, %d requests are shed and %d decided", overloads, inner.decided["heavy"])
		}
		if s.inFlight != 0 || s.waiting.backlog != 0 || len(s.waiting.byName) != 0 {
			t.Errorf("in the end, %d counters are at the store and %d wait, of %d parties", s.inFlight, s.waiting.backlog, len(s.waiting.byName))
		}
	})
}

// keepAsking has callers ask without a pause until stop is closed.
func keepAsking(ctx context.Context, s *Store, callers *sync.WaitGroup, stop chan struct{}, requests []store.Request) {
	callers.Go(func() {
		results := make([]store.Result, len(requests))
		for {
			select {
			case <-stop:
				return
			default:
			}
			if s.Decide(ctx, requests, results); results[0].Err != nil {
				time.Sleep(time.Millisecond)
			}
		}
	})
}

type nameKey struct{}

// TestShares has parties that all ask for more than their share.
func TestShares(t *testing.T) {
	known := func(ctx context.Context) (string, int) {
		switch name, _ := ctx.Value(nameKey{}).(string); name {
		case "":
			return "", 0
		case "large":
			return name, 3
		default:
			return name, 1
		}
	}
	for _, test := range []struct {
		name     string
		favoured []string
		ask      []string       // namespaces, or client/namespace
		want     map[string]int // in parts of the whole
		whole    int
	}{
		{name: "namespaces have the same", ask: []string{"a", "b", "b", "b"}, want: map[string]int{"a": 1, "b": 1}, whole: 2},
		{name: "the others share one", favoured: []string{"a"}, ask: []string{"a", "x", "y", "z"}, want: map[string]int{"a": 3, "x": 1, "y": 1, "z": 1}, whole: 6},
		{name: "clients have theirs", favoured: []string{"a"}, ask: []string{"large/a", "small/b", "small/c"}, want: map[string]int{"a": 6, "b": 1, "c": 1}, whole: 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := newSlow()
				s := New(inner, Options{CallerOf: known})
				s.Favour(test.favoured)
				stop := make(chan struct{})
				var callers sync.WaitGroup
				for _, who := range test.ask {
					client, namespace, found := strings.Cut(who, "/")
					if !found {
						client, namespace = "", who
					}
					ctx := context.WithValue(t.Context(), nameKey{}, client)
					for range 20 {
						keepAsking(ctx, s, &callers, stop, batch(namespace, 100, 1))
					}
				}
				time.Sleep(time.Second / 2)
				close(stop)
				callers.Wait()
				all := 0
				for _, n := range inner.decided {
					all += n
				}
				for namespace, parts := range test.want {
					want := all * parts / test.whole
					if got := inner.decided[namespace]; got < want*9/10 || got > want*11/10 {
						t.Errorf("%s has %d of %d decisions, want about %d", namespace, got, all, want)
					}
				}
			})
		})
	}
}

// TestStuck has requests wait while the store fails to decide anything: that is no
// overload.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newSlow()
		inner.perCounter, inner.err = 40*time.Millisecond, errors.New("down")
		s := New(inner, Options{Capacity: 1})
		var before sync.WaitGroup
		for range 2 {
			before.Go(func() { s.Decide(t.Context(), batch("a", 1, 1), make([]store.Result, 1)) })
			synctest.Wait()
		}
		results := make([]store.Result, 1)
		start := time.Now()
		s.Decide(t.Context(), batch("a", 1, 1), results)
		if took := time.Since(start); took != DefaultTimeout || !errors.Is(results[0].Err, errStuck) {
			t.Errorf("after %v: %v", took, results[0].Err)
		}
		before.Wait()
	})
}

// TestCallerLeaves has callers leave while they wait.
func TestCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newSlow()
		inner.perCounter = 20 * time.Millisecond
		s := New(inner, Options{Capacity: 1})
		var first sync.WaitGroup
		first.Go(func() { s.Decide(t.Context(), batch("a", 1, 1), make([]store.Result, 1)) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		results := make([]store.Result, 1)
		if s.Decide(ctx, batch("a", 1, 1), results); !errors.Is(results[0].Err, context.Canceled) {
			t.Error(results[0].Err)
		}
		// One whose deadline is before its turn is told in time.
		ctx, cancel = context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		start := time.Now()
		if s.Decide(ctx, batch("a", 1, 1), results); results[0].Err == nil || time.Since(start) > 5*time.Millisecond {
			t.Errorf("%v after %v", results[0].Err, time.Since(start))
		}
		first.Wait()
		if s.inFlight != 0 || s.waiting.backlog != 0 {
			t.Errorf("%d counters are at the store and %d wait", s.inFlight, s.waiting.backlog)
		}
	})
}

// TestBounds has more wait than may.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newSlow()
		inner.perCounter = time.Millisecond
		s := New(inner, Options{Capacity: 10})
		var callers sync.WaitGroup
		var mu sync.Mutex
		shed := map[string]int{}
		ask := func(namespace string) {
			callers.Go(func() {
				results := make([]store.Result, 1)
				s.Decide(t.Context(), batch(namespace, 1, 10), results)
				overloads, _ := errorsOf(results)
				mu.Lock()
				defer mu.Unlock()
				shed[namespace] += overloads
			})
		}
		for range 50 {
			ask("many")
		}
		synctest.Wait()
		if n := s.waiting.backlog; n > maxWaiting*10 {
			t.Errorf("%d counters of one namespace wait", n)
		}
		for i := range 1000 {
			ask(fmt.Sprint("some", i))
		}
		synctest.Wait()
		if n := s.waiting.backlog; n > maxWaitingInAll*10 {
			t.Errorf("%d counters wait in all", n)
		}
		if out := s.waiting.last(); out.leaf.backlog > 10 {
			t.Errorf("%d counters of one namespace wait, and other namespaces were shed", out.leaf.backlog)
		}
		callers.Wait()
		if shed["many"] < 40 {
			t.Errorf("%d of 50 were shed", shed["many"])
		}
	})
}

// TestLargeBatch has a batch that is cut into pieces: its order stays, and what has no
// counter is decided though the rest is shed.
func TestLargeBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newSlow()
		s := New(inner, Options{})
		requests, results := batch("a", 1000, 1), make([]store.Result, 1000)
		s.Decide(t.Context(), requests, results)
		want := make([]string, len(requests))
		for i := range requests {
			want[i] = requests[i].Identifier
		}
		if !slices.Equal(inner.order, want) || inner.most > maxPiece {
			t.Errorf("%d requests in this order: %v; and %d at a time", len(inner.order), inner.order, inner.most)
		}

		inner.order, inner.perCounter = nil, time.Millisecond
		requests[999].Limits = []strategy.Limit{{Rate: rate.Rate{Count: rate.Unlimited}}}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		s.Decide(ctx, requests, results)
		if results[0].Err != nil || results[998].Err == nil || results[999].Err != nil {
			t.Errorf("%v, %v and %v, want only the second to fail", results[0].Err, results[998].Err, results[999].Err)
		}
	})
}

// capacityNow returns how many counters may be at the store at present.
func (s *Store) capacityNow() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capacity
}

// TestSlowStore has a store that becomes slow: there is less at it then, so that what
// others ask is still decided in time.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := newSlow()
		inner.perCounter = 100 * time.Microsecond // 100 ms for the default capacity
		s := New(inner, Options{})
		stop := make(chan struct{})
		var callers sync.WaitGroup
		for range 10 {
			keepAsking(t.Context(), s, &callers, stop, batch("heavy", 500, 16))
		}
		time.Sleep(time.Second)
		if capacity := s.capacityNow(); capacity > 512 {
			t.Errorf("the capacity is %d of %d", capacity, DefaultCapacity)
		}
		results := make([]store.Result, 1)
		for range 30 {
			start := time.Now()
			if s.Decide(t.Context(), batch("innocent", 1, 2), results); results[0].Err != nil || time.Since(start) > DefaultTimeout {
				t.Errorf("%v after %v", results[0].Err, time.Since(start))
			}
			time.Sleep(10 * time.Millisecond)
		}
		inner.mu.Lock()
		inner.perCounter = 10 * time.Microsecond
		inner.mu.Unlock()
		time.Sleep(time.Second)
		if capacity := s.capacityNow(); capacity < DefaultCapacity {
			t.Errorf("the capacity is %d when the store is fast again", capacity)
		}
		close(stop)
		callers.Wait()
	})
}

func TestMetrics(t *testing.T) {
	s := New(newSlow(), Options{})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collector())
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// BenchmarkDecide times what an admission adds to the store behind it.
func BenchmarkDecide(b *testing.B) {
	for _, size := range []int{1, 16} {
		requests := batch("a", size, 2)
		b.Run(fmt.Sprintf("requests=%d", size), func(b *testing.B) {
			s, results := New(noStore{}, Options{}), make([]store.Result, size)
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(b.Context(), requests, results)
			}
		})
		b.Run(fmt.Sprintf("requests=%d/parallel", size), func(b *testing.B) {
			s := New(noStore{}, Options{})
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				results := make([]store.Result, size)
				for pb.Next() {
					s.Decide(b.Context(), requests, results)
				}
			})
		})
	}
}

// A noStore decides nothing.
type noStore struct{ store.Store }

func (noStore) Decide(context.Context, []store.Request, []store.Result) {}
