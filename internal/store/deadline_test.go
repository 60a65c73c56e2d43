package store

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := time.Until(Deadline(t.Context(), 50*time.Millisecond)); got != 50*time.Millisecond {
			t.Errorf("without a deadline: %v", got)
		}
		for _, tt := range []struct{ left, want time.Duration }{
			{time.Minute, 50 * time.Millisecond},
			{55 * time.Millisecond, 50 * time.Millisecond},
			{50 * time.Millisecond, 45 * time.Millisecond},
			{20 * time.Millisecond, 15 * time.Millisecond}, // Envoy's default
			{time.Millisecond, 750 * time.Microsecond},
			{0, 0},
			{-time.Second, -time.Second},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), tt.left)
			if got := time.Until(Deadline(ctx, 50*time.Millisecond)); got != tt.want {
				t.Errorf("with %v left: %v, want %v", tt.left, got, tt.want)
			}
			cancel()
		}
	})
}
