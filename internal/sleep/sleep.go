// Package sleep waits no longer than somebody is interested.
package sleep

import (
	"context"
	"time"
)

// For waits for d, and reports whether ctx let it.
func For(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
