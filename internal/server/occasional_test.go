package server

import (
	"testing"
	"time"
)

func TestOccasional(t *testing.T) {
	var o occasional
	start := time.Unix(1_767_225_600, 0)
	for i, step := range []struct {
		after time.Duration
		want  int64
	}{
		{0, 1}, {0, 0}, {logEvery - 1, 0}, {logEvery, 3}, {logEvery + 1, 0}, {3 * logEvery, 2},
	} {
		if got := o.due(start.Add(step.after)); got != step.want {
			t.Errorf("%d, after %v: %d, want %d", i, step.after, got, step.want)
		}
	}
}
