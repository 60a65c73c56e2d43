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

// A pacer sends arrivals when they are due.
type pacer struct {
	schedule *Schedule
	start    time.Time
	length   time.Duration // those that are due within it
	sleep    func(time.Duration)
	missed   func(arrival) // is told those that nobody has received
}

// pace sends each arrival when it is due, or as soon after that as somebody receives it.
// Then it closes the channel. When ctx ends, nobody receives the rest. A slow server does
// not change when arrivals are due. It makes them late, and their latency counts from when
// they were due.
func (p *pacer) pace(ctx context.Context, out chan<- arrival) {
	defer close(out)
	for due := p.schedule.Next(); due < p.length; due = p.schedule.Next() {
		for wait := time.Until(p.start.Add(due)); wait > 0 && ctx.Err() == nil; wait = time.Until(p.start.Add(due)) {
			p.sleep(min(wait, longestSleep))
		}
		if ctx.Err() != nil {
			p.missed(arrival(due))
			continue
		}
		select {
		case out <- arrival(due):
		case <-ctx.Done():
			p.missed(arrival(due))
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
