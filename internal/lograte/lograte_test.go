package lograte

import (
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	var g Gate
	start := time.Unix(1_767_225_600, 0)
	for _, step := range []struct {
		after time.Duration
		want  int64
	}{
		{0, 1}, {time.Millisecond, 0}, {time.Second, 0}, {Every - 1, 0}, {Every, 4}, {2*Every - 1, 0}, {3 * Every, 2},
	} {
		if got := g.Pass(start.Add(step.after)); got != step.want {
			t.Errorf("after %v: %d, want %d", step.after, got, step.want)
		}
	}
}
