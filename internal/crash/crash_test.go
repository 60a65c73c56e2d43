package crash_test

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/crash"
)

// crashes panics with what, and returns the error that became of it.
func crashes(l *crash.Log, what any) (err error) {
	defer l.Recover("the test", func(e error) { err = e })
	if what != nil {
		panic(what)
	}
	return nil
}

func TestRecover(t *testing.T) {
	var text strings.Builder
	var count atomic.Uint64
	l := crash.NewLog(slog.New(slog.NewTextHandler(&text, nil)))
	l.CountIn(&count)
	if err := crashes(l, nil); err != nil {
		t.Errorf("without a panic: %v", err)
	}
	for range 100 {
		if err := crashes(l, strings.Repeat("boom", 1000)); !errors.Is(err, crash.Err) {
			t.Errorf("%v", err)
		}
	}
	if lines := strings.Count(text.String(), "\n"); lines != 1 || !strings.Contains(text.String(), "crash_test.go") || text.Len() > 10_000 || count.Load() != 100 {
		t.Errorf("%d panics are counted; %d lines, want 1 with the stack: %s", count.Load(), lines, text.String())
	}
	var none *crash.Log
	none.CountIn(&count)
	if err := crashes(none, "boom"); !errors.Is(err, crash.Err) {
		t.Errorf("without a log: %v", err)
	}
}
