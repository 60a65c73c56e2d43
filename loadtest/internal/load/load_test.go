package load

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/keys"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestScheduleEven checks that the n-th start is n/rate, without drift.
func TestScheduleEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0.1, 1e6).Draw(t, "rate")
		s := Schedule{Rate: rate}
		for i := range 1000 {
			want := time.Duration(float64(i) / rate * 1e9)
			if got := s.Next(); (got - want).Abs() > 1 {
				t.Fatalf("start %d at %v, want %v", i, got, want)
			}
		}
	})
}

// TestSchedulePoisson checks the mean and the variance of the gaps.
func TestSchedulePoisson(t *testing.T) {
	const n, rate = 200_000, 1000.0
	s := Schedule{Rate: rate, Poisson: true, Seed: 7}
	var sum, squares float64
	last := s.Next()
	for range n {
		next := s.Next()
		gap := (next - last).Seconds() * rate
		if gap < 0 {
			t.Fatalf("%v after %v", next, last)
		}
		sum, squares, last = sum+gap, squares+gap*gap, next
	}
	mean := sum / n
	if variance := squares/n - mean*mean; math.Abs(mean-1) > 0.02 || math.Abs(variance-1) > 0.05 {
		t.Errorf("gaps have mean %.3f and variance %.3f, want 1 and 1", mean, variance)
	}
}

// TestPace receives arrivals at different speeds. No arrival may be lost or added.
func TestPace(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rate := rapid.Float64Range(1, 2000).Draw(rt, "rate")
		slow := time.Duration(rapid.Int64Range(0, int64(20*time.Millisecond)).Draw(rt, "slow"))
		synctest.Test(t, func(t *testing.T) {
			const length = time.Second
			ctx, cancel := context.WithTimeout(t.Context(), length)
			defer cancel()
			start := time.Now()
			out := make(chan arrival)
			var missed []arrival
			p := pacer{&Schedule{Rate: rate}, start, length, time.Sleep, func(a arrival) { missed = append(missed, a) }}
			go p.pace(ctx, out)
			var taken []arrival
			for a := range out {
				if now := time.Since(start); now < time.Duration(a) {
					rt.Fatalf("taken at %v, due at %v", now, time.Duration(a))
				}
				taken = append(taken, a)
				time.Sleep(slow)
			}
			all := append(taken, missed...)
			if want := int(math.Ceil(rate)); len(all) < want-1 || len(all) > want+1 {
				rt.Fatalf("%d taken and %d missed, want %d in sum", len(taken), len(missed), want)
			}
			s := Schedule{Rate: rate}
			for i, a := range all {
				if want := s.Next(); time.Duration(a) != want {
					rt.Fatalf("arrival %d is of %v, want %v", i, time.Duration(a), want)
				}
			}
		})
	})
}

// A scriptedServer answers one call after the other, and takes a given time for each.
type scriptedServer struct {
	turn    chan struct{} // of length 1: virtual time does not pass while a mutex is waited for
	calls   int
	takes   func(call int) time.Duration
	verdict target.Verdict
	err     error
}

func (s *scriptedServer) Ask(_ context.Context, _ []string, verdicts []target.Verdict) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	time.Sleep(s.takes(s.calls))
	s.calls++
	for i := range verdicts {
		verdicts[i] = s.verdict
	}
	return s.err
}

// TestNoCoordinatedOmission stalls a server for one second of ten. A client that waits for the
// server would measure only one slow call. All calls that were due meanwhile must count
// as slow.
func TestNoCoordinatedOmission(t *testing.T) {
	stalls := func(call int) time.Duration {
		if call == 300 {
			return time.Second
		}
		return time.Millisecond
	}
	for _, open := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := &scriptedServer{turn: make(chan struct{}, 1), takes: stalls, verdict: target.Allowed}
			o := Options{
				Workers: 1, Batch: 1, Duration: 10 * time.Second, Keys: keys.New(keys.Uniform, 10), Cost: 1,
				Session: func() target.Session { return s }, sleep: time.Sleep,
			}
			if open {
				o.Schedule = &Schedule{Rate: 100}
			}
			r := Run(t.Context(), o)
			p := time.Duration(r.Latency.ValueAtQuantile(95))
			// A tenth of the calls was due in that second, and the last of them did
			// not wait. So a twentieth waited for half a second or more.
			if open && (r.Calls != 1000 || p < 400*time.Millisecond || p > 600*time.Millisecond) {
				t.Errorf("open loop: %d calls with a 95th percentile of %v; want 1000 and about 500ms", r.Calls, p)
			}
			if !open && p > 2*time.Millisecond {
				t.Errorf("closed loop: a 95th percentile of %v, want 1ms", p)
			}
		})
	}
}

// TestUnsent overloads a server. Calls that were due and could not be made must be reported, and
// their wait must be in the latency.
func TestUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scriptedServer{turn: make(chan struct{}, 1), takes: func(int) time.Duration { return 100 * time.Millisecond }, verdict: target.Allowed}
		r := Run(t.Context(), Options{
			Workers: 1, Batch: 1, Duration: 10 * time.Second, Keys: keys.New(keys.Uniform, 10), Cost: 1,
			Session: func() target.Session { return s }, sleep: time.Sleep, Schedule: &Schedule{Rate: 100},
		})
		if n := r.Calls + r.Unsent; n != 1000 || r.Calls < 99 || r.Calls > 101 || r.Latency.TotalCount() != 1000 {
			t.Errorf("%d calls and %d unsent, %d latencies; want 100 and 900, 1000", r.Calls, r.Unsent, r.Latency.TotalCount())
		}
		if longest := time.Duration(r.Latency.Max()); longest < 8*time.Second {
			t.Errorf("the longest wait is %v, want most of the run", longest)
		}
	})
}

func TestRunCounts(t *testing.T) {
	limit, _ := strategy.NewLimit(strategy.Spec{Rate: "100/h"}, 1)
	for name, tt := range map[string]struct {
		server    scriptedServer
		max       int64
		allowed   int64
		failed    int64
		keysOver  int
		unitsOver uint64
	}{
		"within":   {server: scriptedServer{verdict: target.Allowed}, max: 20, allowed: 200},
		"too many": {server: scriptedServer{verdict: target.Allowed}, max: 50, allowed: 500, keysOver: 1, unitsOver: 300},
		"denied":   {server: scriptedServer{verdict: target.Denied}, max: 50},
		"errors":   {server: scriptedServer{verdict: target.Allowed, err: errors.New("no")}, max: 50, failed: 500},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.server.turn = make(chan struct{}, 1)
				tt.server.takes = func(int) time.Duration { return time.Millisecond }
				marks := 0
				r := Run(t.Context(), Options{
					Workers: 4, Batch: 10, Duration: time.Minute, MaxCalls: tt.max, Keys: keys.New(keys.Hot, 99), Cost: 1, Limits: []strategy.Limit{limit},
					Session: func() target.Session { return &tt.server }, Measured: func() { marks++ },
				})
				c := r.Correctness
				if r.Allowed != tt.allowed || r.Failed != tt.failed || c.KeysOver != tt.keysOver || c.UnitsOver != tt.unitsOver || !c.Checked || marks != 2 {
					t.Errorf("%+v, marked %d times; want %+v", r, marks, tt)
				}
			})
		})
	}
}

// TestHang asks a server that never answers. The run must end all the same.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := Run(t.Context(), Options{Workers: 2, Batch: 1, Duration: time.Second, Keys: keys.New(keys.Flood, 1), Cost: 1, Session: func() target.Session { return hangingServer{} }})
		if d := time.Since(start); d > time.Second+grace || r.Failed != 2 || !errors.Is(r.FirstErr, context.Canceled) || r.Correctness.Checked {
			t.Errorf("after %v: %d failed, %v", d, r.Failed, r.FirstErr)
		}
	})
}

type hangingServer struct{}

func (hangingServer) Ask(ctx context.Context, _ []string, _ []target.Verdict) error {
	<-ctx.Done()
	return ctx.Err()
}
