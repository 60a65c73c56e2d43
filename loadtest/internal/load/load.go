// Package load puts a load on a target and measures it.
package load

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/keys"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
)

// Options describe a load.
type Options struct {
	Workers  int // how many calls are under way at a time, at most
	Batch    int // requests per call
	Warmup   time.Duration
	Duration time.Duration // measured, after the warm-up
	MaxCalls int64         // ends the run early; 0 if only time ends it
	Schedule *Schedule     // for an open loop; nil if each worker asks again once it has its answer
	Keys     *keys.Source
	Seed     uint64

	Limits []strategy.Limit // the limits of the server for each key, if known
	Cost   uint64

	Session  func() target.Session
	Measured func()         // called when the measured part begins, and when it ends
	Progress func(Progress) // called every second

	sleep func(time.Duration) // replaces the precise sleep in tests with virtual time
}

// Progress is the state of a run.
type Progress struct {
	Elapsed   time.Duration // warm-up included
	Warm      bool          // whether the measured part has begun
	CallRate  float64       // per second, since the last Progress
	Decisions int64
	Allowed   int64
	Failed    int64
}

// A Sample is the throughput in one interval of the run.
type Sample struct {
	Seconds            float64 `json:"seconds"` // the end of the interval, from the start of the measured part
	DecisionsPerSecond float64 `json:"decisions_per_second"`
	AllowedPerSecond   float64 `json:"allowed_per_second"`
}

// A Result has what a run measured in its measured part, unless a field says otherwise.
type Result struct {
	Elapsed   time.Duration
	Calls     int64 // how many calls were answered
	Decisions int64
	Allowed   int64
	Denied    int64
	StoreFail int64 // answered by the failure policy
	Failed    int64 // decisions that ended with an error
	Unsent    int64 // in an open loop: calls that were due while every worker was busy, until the end
	FirstErr  error
	Latency   *hdrhistogram.Histogram // of calls, in nanoseconds
	Samples   []Sample

	Correctness Correctness
}

// The range of the histograms. A longer duration counts as the longest.
const (
	shortest = int64(time.Microsecond)
	longest  = int64(time.Minute)
	digits   = 3
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(shortest, longest, digits) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d), shortest), longest)) // no error: the value is within the range
}

// grace is how long to wait at the end for calls that are under way.
const grace = 5 * time.Second

type run struct {
	Options
	start     time.Time
	end       time.Duration // the end of the run, from its start
	tally     *tally
	callsLeft atomic.Int64

	calls, decisions, allowed, failed atomic.Int64 // of the whole run, for progress and samples
	ended                             atomic.Bool
}

// worker has what one goroutine measures.
type worker struct {
	run     *run
	session target.Session
	pick    func() int

	keys     []int
	names    []string
	verdicts []target.Verdict
	text     []byte

	latency  *hdrhistogram.Histogram
	counts   [target.Failed + 1]int64
	calls    int64
	firstErr error
	last     time.Duration // the end of the last call
}

// Run runs until its time is over or ctx ends. The end of ctx is not an error: Run
// returns what it has measured until then.
func Run(ctx context.Context, o Options) Result {
	r := &run{Options: o, start: time.Now(), end: o.Warmup + o.Duration, tally: newTally(o.Limits, o.Cost, o.Keys.Count())}
	r.callsLeft.Store(o.MaxCalls)
	// Calls have no deadline, because that would cost both sides a timer. The end of
	// the run ends calls that hang.
	calls, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	over, stop := context.WithTimeout(ctx, r.end)
	defer stop()
	context.AfterFunc(over, func() { r.ended.Store(true) })
	hanging := time.AfterFunc(r.end+grace, cut)
	defer hanging.Stop()
	defer context.AfterFunc(ctx, func() { hanging.Reset(grace) })()

	var arrivals chan arrival
	var unsent int64
	late := newHistogram()
	var pacing sync.WaitGroup
	if o.Schedule != nil {
		arrivals = make(chan arrival)
		if o.sleep == nil {
			o.sleep = sleep
		}
		p := pacer{o.Schedule, r.start, r.end, o.sleep, func(due arrival) {
			if time.Duration(due) >= o.Warmup && ctx.Err() == nil && r.callsLeft.Load() >= 0 {
				unsent++
				record(late, r.end-time.Duration(due)) // it would have been at least that late
			}
		}}
		pacing.Go(func() { p.pace(over, arrivals) })
	}
	workers := make([]*worker, o.Workers)
	var working sync.WaitGroup
	for i := range workers {
		w := &worker{
			run: r, session: o.Session(), pick: o.Keys.Picker(o.Seed + uint64(i)),
			keys: make([]int, o.Batch), names: make([]string, o.Batch), verdicts: make([]target.Verdict, o.Batch), latency: newHistogram(),
		}
		workers[i] = w
		working.Go(func() {
			w.work(calls, arrivals)
			if r.MaxCalls > 0 && r.callsLeft.Load() < 0 {
				stop() // all calls were made
			}
		})
	}
	watched := make(chan []Sample, 1)
	finished, finish := context.WithCancel(context.Background())
	go func() { watched <- r.watch(finished) }()
	working.Wait()
	stop()
	pacing.Wait()
	finish()
	samples := <-watched
	if o.Measured != nil {
		o.Measured()
	}

	result := Result{Latency: late, Samples: samples, Unsent: unsent, Correctness: r.tally.correctness()}
	for _, w := range workers {
		result.Latency.Merge(w.latency)
		result.Calls += w.calls
		result.Allowed += w.counts[target.Allowed]
		result.Denied += w.counts[target.Denied]
		result.StoreFail += w.counts[target.StoreFailed]
		result.Failed += w.counts[target.Failed]
		result.Elapsed = max(result.Elapsed, w.last-o.Warmup)
		if result.FirstErr == nil {
			result.FirstErr = w.firstErr
		}
	}
	result.Decisions = result.Allowed + result.Denied + result.StoreFail
	return result
}

func (w *worker) work(ctx context.Context, arrivals <-chan arrival) {
	r := w.run
	for !r.ended.Load() && ctx.Err() == nil {
		var due time.Duration
		if arrivals != nil {
			a, ok := <-arrivals
			if !ok {
				return
			}
			due = time.Duration(a)
		}
		if r.MaxCalls > 0 && r.callsLeft.Add(-1) < 0 {
			return
		}
		w.call(ctx, due)
	}
}

// call makes one call. In an open loop it was due at a given time; otherwise it is due
// now.
func (w *worker) call(ctx context.Context, due time.Duration) {
	r := w.run
	for i := range w.keys {
		w.keys[i] = w.pick()
		w.text = append(w.text[:0], "user:"...)
		w.text = strconv.AppendInt(w.text, int64(w.keys[i]), 10)
		w.names[i] = string(w.text)
	}
	start := max(time.Since(r.start), 1)
	if r.Schedule == nil {
		due = start
	}
	err := w.session.Ask(ctx, w.names, w.verdicts)
	end := time.Since(r.start)
	var counts [target.Failed + 1]int64
	if err != nil {
		counts[target.Failed] = int64(len(w.keys))
	} else {
		for i, v := range w.verdicts {
			counts[v]++
			if v == target.Allowed {
				r.tally.allowed(w.keys[i], start, end)
			}
		}
	}
	r.calls.Add(1)
	r.decisions.Add(int64(len(w.keys)))
	r.allowed.Add(counts[target.Allowed])
	r.failed.Add(counts[target.Failed])
	if due < r.Warmup {
		return
	}
	w.last = end
	for v, n := range counts {
		w.counts[v] += n
	}
	if err != nil {
		if w.firstErr == nil {
			w.firstErr = err
		}
		return
	}
	w.calls++
	record(w.latency, end-due)
}

// watch runs until ctx ends. It calls Measured when the warm-up is over, and Progress
// every second. It returns the samples.
func (r *run) watch(ctx context.Context) []Sample {
	every := min(max(r.Duration/100, 100*time.Millisecond), time.Second)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	warm := time.NewTimer(r.Warmup)
	defer warm.Stop()
	warmup := warm.C
	var samples []Sample
	var isWarm bool
	var last, told struct {
		at               time.Duration
		decisions, calls int64
		allowed          int64
	}
	warmedUp := func() {
		isWarm, warmup = true, nil
		if r.Measured != nil {
			r.Measured()
		}
		last.at, last.decisions, last.allowed = time.Since(r.start), r.decisions.Load(), r.allowed.Load()
	}
	if r.Warmup == 0 { // call Measured even if ctx ends at once
		warmedUp()
	}
	for {
		select {
		case <-ctx.Done():
			return samples
		case <-warmup:
			warmedUp()
		case <-ticks.C:
			now, decisions, allowed := time.Since(r.start), r.decisions.Load(), r.allowed.Load()
			if seconds := (now - last.at).Seconds(); isWarm && seconds > 0 && now <= r.end+every {
				samples = append(samples, Sample{(now - r.Warmup).Seconds(), float64(decisions-last.decisions) / seconds, float64(allowed-last.allowed) / seconds})
				last.at, last.decisions, last.allowed = now, decisions, allowed
			}
			if r.Progress != nil && now-told.at >= time.Second {
				calls := r.calls.Load()
				r.Progress(Progress{now, isWarm, float64(calls-told.calls) / (now - told.at).Seconds(), decisions, allowed, r.failed.Load()})
				told.at, told.calls = now, calls
			}
		}
	}
}

// ErrNothing says that the server made no decision in a run.
var ErrNothing = errors.New("the server made no decision")
