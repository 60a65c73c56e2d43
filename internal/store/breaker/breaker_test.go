package breaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

var errDown = errors.New("down")

const timeout = 50 * time.Millisecond

// A flakyStore counts its calls, and fails the first so many requests of each.
type flakyStore struct {
	store.Store
	calls atomic.Int64
	fails int
	err   error // errDown if nil
}

// ServerOf takes the identifier for the server.
func (*flakyStore) ServerOf(_ context.Context, r *store.Request) string { return r.Identifier }

func (s *flakyStore) Decide(_ context.Context, _ []store.Request, results []store.Result) {
	s.calls.Add(1)
	for i := range results {
		results[i].Err = nil
		if i < s.fails {
			results[i].Err = cmp.Or(s.err, errDown)
		}
	}
}

// call has b decide n requests and returns the error of the first.
func call(ctx context.Context, b *Breaker, n int) error {
	requests, results := make([]store.Request, n), make([]store.Result, n)
	for i := range requests {
		requests[i].Limits = []strategy.Limit{{Rate: rate.Rate{Count: 1, Period: time.Hour}}}
	}
	b.Decide(ctx, requests, results)
	return results[0].Err
}

func TestOpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &flakyStore{fails: 1}
		b := New(s, timeout)
		for i := range tripAll {
			if err := call(t.Context(), b, 1); !errors.Is(err, errDown) {
				t.Fatalf("call %d: %v, want the store's error", i, err)
			}
		}
		for range 1000 {
			if err := call(t.Context(), b, 1); !errors.Is(err, ErrOpen) {
				t.Fatalf("while open: %v, want ErrOpen", err)
			}
		}
		if n := s.calls.Load(); n != tripAll || b.Open() == 0 || testutil.ToFloat64(b.Collector()) != 1 {
			t.Errorf("the store was asked %d times and the breaker is open: %t", n, b.Open() > 0)
		}

		time.Sleep(probeAfter + time.Millisecond)
		if err := call(t.Context(), b, 1); !errors.Is(err, errDown) {
			t.Errorf("the probe: %v, want the store's error", err)
		}
		if err := call(t.Context(), b, 1); !errors.Is(err, ErrOpen) {
			t.Errorf("after a probe that failed: %v, want ErrOpen", err)
		}

		s.fails = 0
		time.Sleep(probeAfter + time.Millisecond)
		for range 3 {
			if err := call(t.Context(), b, 1); err != nil {
				t.Errorf("after the store came back: %v", err)
			}
		}
		if b.Open() > 0 || testutil.ToFloat64(b.Collector()) != 0 {
			t.Error("the breaker is still open")
		}
	})
}

func TestOpensWhenMostFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &flakyStore{}
		b := New(s, timeout)
		for range 100 {
			_ = call(t.Context(), b, 1)
		}
		s.fails = 1
		for i := range 300 {
			if b.Open() > 0 {
				t.Fatalf("open after %d failures and 100 successes", i)
			}
			_ = call(t.Context(), b, 1)
		}
		if b.Open() == 0 {
			t.Error("closed though three in four calls failed")
		}
	})
}

// TestUnlimited decides, while the breaker is open, what needs no store.
func TestUnlimited(t *testing.T) {
	s := &flakyStore{fails: 1}
	b := New(s, timeout)
	for range tripAll {
		_ = call(t.Context(), b, 1)
	}
	s.fails = 0
	unlimited := store.Request{Limits: []strategy.Limit{{Rate: rate.Rate{Count: rate.Unlimited}}}}
	limited := store.Request{Limits: []strategy.Limit{{Rate: rate.Rate{Count: 1, Period: time.Hour}}}}
	for _, requests := range [][]store.Request{{unlimited}, {unlimited, limited, unlimited}} {
		results := make([]store.Result, len(requests))
		b.Decide(t.Context(), requests, results)
		for i, res := range results {
			if asks := requests[i].Counts(); asks != errors.Is(res.Err, ErrOpen) || !asks && res.Err != nil {
				t.Errorf("request %d: %v", i, res.Err)
			}
		}
	}
	if b.Open() == 0 {
		t.Error("what says nothing of the store closed the breaker")
	}
}

// threeServers is a store of which one server, b, is down.
type threeServers struct {
	flakyStore
	asked map[string]int
}

func (s *threeServers) Decide(_ context.Context, requests []store.Request, results []store.Result) {
	for i := range requests {
		s.asked[requests[i].Identifier]++
		if results[i].Err = nil; requests[i].Identifier == "b" {
			results[i].Err = errDown
		}
	}
}

// TestOneServerOfThree has one of three servers gone: what is for the others,
// in the same call or another, is decided as ever.
func TestOneServerOfThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &threeServers{asked: map[string]int{}}
		b := New(s, timeout)
		limits := []strategy.Limit{{Rate: rate.Rate{Count: 1, Period: time.Hour}}}
		for i := range 1000 {
			requests := []store.Request{
				{Identifier: "a", Limits: limits}, {Identifier: "b", Limits: limits}, {Limits: []strategy.Limit{{Rate: rate.Rate{Count: rate.Unlimited}}}},
				{Identifier: "c", Limits: limits}, {Identifier: "b", Limits: limits},
			}
			results := make([]store.Result, len(requests))
			b.Decide(t.Context(), requests, results)
			want := errDown
			if i >= tripAll {
				want = ErrOpen
			}
			for j, want := range []error{nil, want, nil, nil, want} {
				if !errors.Is(results[j].Err, want) {
					t.Fatalf("call %d, request %d: %v, want %v", i, j, results[j].Err, want)
				}
			}
		}
		if s.asked["a"] != 1000 || s.asked["b"] != 2*tripAll || s.asked["c"] != 1000 || b.Open() != 1 {
			t.Errorf("the servers were asked %v times, and %d circuits are open", s.asked, b.Open())
		}
		time.Sleep(forgetAfter + time.Second)
		if b.Open() != 0 {
			t.Error("a server that nobody asks any more is still counted")
		}
	})
}

// TestCircuitsAreBounded has far more servers than a cluster has.
func TestCircuitsAreBounded(t *testing.T) {
	b := New(&flakyStore{}, timeout)
	for i := range 3 * maxCircuits {
		b.Decide(t.Context(), []store.Request{{Identifier: fmt.Sprint(i), Limits: []strategy.Limit{{Rate: rate.Rate{Count: 1, Period: time.Hour}}}}}, make([]store.Result, 1))
	}
	if n := len(b.circuits); n > maxCircuits {
		t.Errorf("%d circuits", n)
	}
}

// TestWhatIsNoFailure calls a breaker often in ways that must not open it.
func TestWhatIsNoFailure(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(context.WithoutCancel(t.Context()), time.Now())
	defer cancel()
	for name, tt := range map[string]struct {
		ctx      context.Context
		requests int
		fails    int
		err      error
	}{
		"a batch that fails in part":    {t.Context(), 3, 2, nil},
		"callers that are gone":         {cancelled, 1, 1, nil},
		"callers whose time is up":      {late, 1, 1, nil},
		"calls that ask nothing at all": {cancelled, 2, 0, nil},
		"counters that many write":      {t.Context(), 1, 1, fmt.Errorf("a conflict: %w", store.ErrCounters)},
	} {
		b := New(&flakyStore{fails: tt.fails, err: tt.err}, timeout)
		for range 100 {
			_ = call(tt.ctx, b, tt.requests)
		}
		if b.Open() > 0 {
			t.Errorf("%s open the breaker", name)
		}
	}
}

type panickingStore struct{ *flakyStore }

func (panickingStore) Decide(context.Context, []store.Request, []store.Result) { panic("a defect") }

func TestPanicIsPassedOn(t *testing.T) {
	b := New(panickingStore{}, timeout)
	for range 2 * tripAll {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_ = call(t.Context(), b, 1)
		}()
	}
}

// TestNoGarbage has a call of one request, to a server that is well, leave
// nothing to collect.
func TestNoGarbage(t *testing.T) {
	b := New(noStore{}, timeout)
	requests := []store.Request{{Identifier: "a", Limits: []strategy.Limit{{Rate: rate.Rate{Count: 1, Period: time.Hour}}}}}
	results := make([]store.Result, 1)
	if n := testing.AllocsPerRun(100, func() { b.Decide(t.Context(), requests, results) }); n != 0 {
		t.Errorf("%v allocations a decision", n)
	}
}
