package load

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"
)

// A Schedule says when requests are to start, from the start of the run: at
// Rate a second, evenly, or as independent callers come (a Poisson process).
type Schedule struct {
	Rate    float64
	Poisson bool
	Seed    uint64

	random *rand.Rand
	issued float64 // evenly: how many were issued; Poisson: the sum of gaps, in units of the mean gap
}

// Next returns the next start. It never falls before the last.
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

// pace sends the arrivals that are due within length, each when it is due or as
// soon after that as someone takes it, and closes the channel. What was not
// taken when ctx ended it passes to missed. Nothing that servers do changes what
// is due: a slow one makes those that wait for it late, and their latency
// counts from when they were due.
func pace(ctx context.Context, s *Schedule, start time.Time, length time.Duration, out chan<- arrival, sleep func(time.Duration), missed func(arrival)) {
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

// longestSleep is how late the end of ctx may be noticed.
const longestSleep = 50 * time.Millisecond

// runtimeSlack is how late Go's own timers may be when all is idle.
const runtimeSlack = 2 * time.Millisecond

// sleep sleeps more precisely than time.Sleep, which may be a millisecond late:
// that would be counted as latency.
func sleep(d time.Duration) {
	if d > runtimeSlack {
		time.Sleep(d - runtimeSlack)
		return // early: the rest by another call
	}
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // early if a signal came
}
