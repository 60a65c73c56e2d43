package console

import (
	"sync"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
)

// A latency remembers how long calls took in the last 15 minutes.
type latency struct {
	of *histogram.Vec

	mu           sync.Mutex        // protects the following
	last, before *histogram.Counts // at the end of the last step, and of the one before
	steps        [account.Steps][2]float32
	taken        int // how many steps were taken
}

// median and tail are what is shown of all calls.
const median, tail = 0.5, 0.99

// step ends a step.
func (l *latency) step() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before, l.last = l.last, l.of.Counts()
	in := l.last.Since(l.before)
	l.steps[l.taken%account.Steps] = [2]float32{float32(in.Quantile(median).Seconds()), float32(in.Quantile(tail).Seconds())}
	l.taken++
}

// show returns what is remembered.
func (l *latency) show() latencies {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.of.Counts().Since(l.before)
	shown := latencies{P50: now.Quantile(median).Seconds(), P99: now.Quantile(tail).Seconds(), P50Steps: []float32{}, P99Steps: []float32{}}
	for i := max(0, l.taken-account.Steps); i < l.taken; i++ {
		at := l.steps[i%account.Steps]
		shown.P50Steps, shown.P99Steps = append(shown.P50Steps, at[0]), append(shown.P99Steps, at[1])
	}
	return shown
}
