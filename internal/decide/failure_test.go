package decide

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/policy"
)

// TestOutageIsLoggedOnce has a store fail, go on failing, and come back.
func TestOutageIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		o := outage{log: slog.New(slog.NewJSONHandler(&log, nil))}
		lines := func(text string) int { return strings.Count(log.String(), text) }
		for range 100 {
			o.failed(policy.FailAllow, errors.New("gone"), 1)
			o.over() // one of many requests got through
			time.Sleep(50 * time.Millisecond)
		}
		if failed, back := lines("the store fails"), lines("the store is back"); failed != 1 || back != 0 {
			t.Errorf("in 5 s of failures the log says %d times that the store fails and %d times that it is back; want 1 and 0", failed, back)
		}
		for range 60 {
			o.failed(policy.FailAllow, errors.New("gone"), 1)
			time.Sleep(time.Second)
		}
		if failed := lines("the store fails"); failed != 7 {
			t.Errorf("in 65 s of failures the log says %d times that the store fails, want 7", failed)
		}
		for range 3 {
			o.over()
		}
		if back := lines("the store is back"); back != 1 {
			t.Errorf("the log says %d times that the store is back, want 1", back)
		}
	})
}
