package load

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"
)

// A Schedule says when requests start, as times from the start of the run. There are
// Rate requests per second. They start evenly, or at random times as those of
// independent callers (a Poisson process).
type Schedule struct {
	Rate    float64
	Poisson bool
	Seed    uint64

	random *rand.Rand
	issued float64 // if even: how many were issued; if Poisson: the sum of all gaps, in units of the mean gap
}

// Next returns the next start. It is never before the last one.
func (s *Schedule) Next() time.Duration {
	due := time.Duration(s.issued / s.Rate * float64(time.Second))
	step := 1.0
	if s.Poisson {
		if s.random == nil {
			s.random = rand.New(rand.NewPCG(s.Seed, 0))
		}
		step = s.random.ExpFloat64()
	}
	s.issued += step
	return due
}

// An arrival is a request that is due.
type arrival time.Duration

// pace sends each arrival that is due within length when it is due, or as soon after
// that as somebody receives it. Then it closes the channel. When ctx ends, it passes
// the arrivals that nobody has received to missed. A slow server does not change when
// arrivals are due. It makes them late, and their latency counts from when they were
// due.
func pace(ctx context.Context, s *Schedule, start time.Time, length time.Duration, out chan<- arrival, sleep func(time.Duration), missed func(arrival)) { //nolint:revive // a schedule, a clock and two ends, which tests make each for itself
	defer close(out)
	for due := s.Next(); due < length; due = s.Next() {
		for wait := time.Until(start.Add(due)); wait > 0 && ctx.Err() == nil; wait = time.Until(start.Add(due)) {
			sleep(min(wait, longestSleep))
		}
		if ctx.Err() != nil {
			missed(arrival(due))
			continue
		}
		select {
		case out <- arrival(due):
		case <-ctx.Done():
			missed(arrival(due))
		}
	}
}

// longestSleep is how long it may take to notice that ctx has ended.
const longestSleep = 50 * time.Millisecond

// runtimeSlack is how late Go's timers may be on an idle machine.
const runtimeSlack = 2 * time.Millisecond

// sleep sleeps more precisely than time.Sleep, which may be a millisecond late. That
// would count as latency.
func sleep(d time.Duration) {
	if d > runtimeSlack {
		time.Sleep(d - runtimeSlack)
		return // early: the caller sleeps for the rest
	}
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // a signal may end it early
}
