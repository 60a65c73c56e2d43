package logqueue_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/logqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A reader is an io.Writer that a test stops, lets go on, and breaks.
type reader struct {
	mu     sync.Mutex // held while it is stopped; protects the following
	text   strings.Builder
	broken bool
}

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return 0, errors.New("nobody reads")
	}
	return r.text.Write(p)
}

func (r *reader) set(broken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = broken
}

func notice(lost uint64) []byte { return fmt.Appendf(nil, "%d lost\n", lost) }

// write writes a line, and fails the test if that waits.
func write(t *testing.T, q *logqueue.Queue, line string) {
	t.Helper()
	start := time.Now()
	if n, err := q.Write([]byte(line)); n != len(line) || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Fatalf("a line waits %v", took)
	}
}

func TestInOrder(t *testing.T) {
	var r reader
	q := logqueue.New(&r, notice)
	var want strings.Builder
	for i := range 10_000 {
		line := fmt.Sprintf("line %d\n", i)
		want.WriteString(line)
		write(t, q, line)
	}
	if !q.Close(10*time.Second) || !q.Close(0) {
		t.Error("not everything is written")
	}
	if r.text.String() != want.String() || q.Lost() != 0 {
		t.Errorf("%d bytes are written, want %d; %d lines are lost", r.text.Len(), want.Len(), q.Lost())
	}
	write(t, q, "too late\n")
	if q.Lost() != 1 {
		t.Errorf("%d lines are lost, want 1", q.Lost())
	}
}

// TestStuck writes more than there is room for while nobody reads.
func TestStuck(t *testing.T) {
	var r reader
	r.mu.Lock()
	q := logqueue.New(&r, notice)
	const lines = 100
	long := strings.Repeat("x", 100_000) + "\n" // ten of them fit
	for range lines {
		write(t, q, long)
	}
	if q.Close(10 * time.Millisecond) {
		t.Error("everything is written, though nobody reads")
	}
	r.mu.Unlock()
	if !q.Close(10 * time.Second) {
		t.Fatal("not everything is written")
	}
	got := r.text.String()
	kept := strings.Count(got, "x\n")
	if want := fmt.Sprintf("%d lost\n", lines-kept); kept < 10 || kept > 11 || !strings.HasSuffix(got, want) || q.Lost() != uint64(lines-kept) {
		t.Errorf("%d lines are written, and then %q; want about 10, and %q", kept, got[len(got)-20:], want)
	}
}

// TestBroken has the reader gone, and another in its place.
func TestBroken(t *testing.T) {
	var r reader
	r.set(true)
	q := logqueue.New(&r, notice)
	write(t, q, "one\n")
	for deadline := time.Now().Add(10 * time.Second); q.Lost() < 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the line is not lost")
		}
	}
	r.set(false)
	write(t, q, "two\n")
	write(t, q, "three\n")
	if !q.Close(10 * time.Second) {
		t.Error("not everything is written")
	}
	if got := r.text.String(); got != "1 lost\ntwo\nthree\n" {
		t.Errorf("%q is written", got)
	}
}
