package inflight

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestWork has requests be decided. They may take half of the bound, and one alone always
// fits. Beyond that the next is refused, and nobody who holds a body is ended for it.
func TestWork(t *testing.T) {
	var log strings.Builder
	b := New(Options{Bytes: 100, MessageBytes: 100, Wait: time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	release := b.Hold(90, "body", func() { t.Error("the body is ended") })
	defer release()
	for _, n := range []int64{1000, 50, 1} {
		worked := b.Work(n, "a")
		if worked == nil {
			t.Fatalf("there is no room for %d bytes alone", n)
		}
		beside := b.Work(50, "b")
		if beside != nil {
			t.Errorf("there is room for 50 bytes beside %d", n)
		}
		worked()
	}
	one, two := b.Work(20, "a"), b.Work(30, "b")
	if one == nil || two == nil {
		t.Fatal("there is no room for two halves")
	}
	one()
	two()
	if n := b.working.Load(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
	if n := b.shed.Load(); n != 3 || strings.Count(log.String(), "requests=1") != 1 {
		t.Errorf("%d refusals are counted, want 3, and logged once:\n%s", n, log.String())
	}
}
