package respapi

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// A clock is one that a test sets.
type clock struct{ now strategy.Instant }

// answers returns what a connection of a server replies to a command.
func answers(t *testing.T, s *Server, args ...string) string {
	t.Helper()
	out := &recorder{}
	c := &conn{o: &s.o, draining: &s.draining, Conn: out, raw: sink{}, protocol: 2, base: s.ctx, in: []byte(wire(args...))}
	if !s.answer(c) {
		t.Fatalf("%q closes the connection: %q", args, out.text.String())
	}
	return out.text.String()
}

// A recorder is a connection that keeps what is written.
type recorder struct {
	sink
	text strings.Builder
}

func (r *recorder) Write(p []byte) (int, error) { return r.text.Write(p) }

// numbers returns the reply that is an array of integers.
func numbers(all ...int64) string {
	b := appendArray(nil, len(all))
	for _, n := range all {
		b = appendInt(b, n)
	}
	return string(b)
}

// TestCellThrottle goes through the examples that redis-cell has: those of its own tests,
// of its test with a real Redis, and of its README.
func TestCellThrottle(t *testing.T) {
	at := &clock{now: strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))}
	s := newServer(t, func() strategy.Instant { return at.now })
	start := at.now
	for i, tt := range []struct {
		after    time.Duration
		quantity int
		want     string
	}{
		{0, 6, numbers(1, 5, 5, -1, 0)}, // a quantity above the limit never fits
		{0, 1, numbers(0, 5, 4, -1, 1)},
		{0, 1, numbers(0, 5, 3, -1, 2)},
		{0, 1, numbers(0, 5, 2, -1, 3)},
		{0, 1, numbers(0, 5, 1, -1, 4)},
		{0, 1, numbers(0, 5, 0, -1, 5)},
		{0, 1, numbers(1, 5, 0, 1, 5)},
		{3000 * time.Millisecond, 1, numbers(0, 5, 2, -1, 3)},
		{3100 * time.Millisecond, 1, numbers(0, 5, 1, -1, 4)}, // 3.9 s
		{4000 * time.Millisecond, 1, numbers(0, 5, 1, -1, 4)},
		{8000 * time.Millisecond, 1, numbers(0, 5, 4, -1, 1)},
		{9500 * time.Millisecond, 1, numbers(0, 5, 4, -1, 1)},
		{9500 * time.Millisecond, 0, numbers(0, 5, 4, -1, 1)}, // only looks
		{9500 * time.Millisecond, 2, numbers(0, 5, 2, -1, 3)},
		{9500 * time.Millisecond, 5, numbers(1, 5, 2, 3, 3)},
		{9500 * time.Millisecond, -2, numbers(0, 5, 4, -1, 1)}, // gives back
	} {
		at.now = start + strategy.Instant(tt.after/time.Microsecond)
		if got := answers(t, s, "CL.THROTTLE", "foo", "4", "1", "1", strconv.Itoa(tt.quantity)); got != tt.want {
			t.Errorf("case %d: %q, want %q", i, got, tt.want)
		}
	}
	for _, tt := range []struct{ command, want string }{
		{"CL.THROTTLE user123 15 30 60", numbers(0, 16, 15, -1, 2)},
		{"cl.throttle user1 0 1 2 1", numbers(0, 1, 0, -1, 2)},
		{"CL.THROTTLE user1 0 1 2 1", numbers(1, 1, 0, 2, 2)},
	} {
		if got := answers(t, s, strings.Fields(tt.command)...); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.command, got, tt.want)
		}
	}
	at.now += 2_000_000
	if got, want := answers(t, s, "CL.THROTTLE", "user1", "0", "1", "2", "1"), numbers(0, 1, 0, -1, 2); got != want {
		t.Errorf("after retry_after: %q, want %q", got, want)
	}
}

// TestCrabThrottle goes through the examples that throttlecrab has in its tests.
func TestCrabThrottle(t *testing.T) {
	at := &clock{now: strategy.InstantOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))}
	s := newServer(t, func() strategy.Instant { return at.now })
	for _, tt := range []struct{ command, want string }{
		{"THROTTLE test_key 10 100 60", numbers(1, 10, 9, 5, 0)},
		{"THROTTLE test_key2 10 100 60 5", numbers(1, 10, 5, 7, 0)},
		{"throttle exhaustion 3 100 60", numbers(1, 3, 2, 1, 0)},
		{"THROTTLE exhaustion 3 100 60", numbers(1, 3, 1, 1, 0)},
		{"THROTTLE exhaustion 3 100 60", numbers(1, 3, 0, 2, 0)},
		{"THROTTLE exhaustion 3 100 60", numbers(0, 3, 0, 2, 1)}, // 0.6 s, rounded up
		{"THROTTLE large_quantity 10 100 60 15", numbers(0, 10, 10, 4, -1)},
		{"THROTTLE zero_quantity 10 100 60 0", numbers(1, 10, 10, 4, 0)},
		{"THROTTLE boundary 1 1 1", numbers(1, 1, 0, 0, 0)},
		{"THROTTLE UTF8:测试键 5 100 60", numbers(1, 5, 4, 2, 0)},
	} {
		if got := answers(t, s, strings.Fields(tt.command)...); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.command, got, tt.want)
		}
	}
}

func TestThrottleErrors(t *testing.T) {
	s := newServer(t, nil)
	for command, want := range map[string]string{
		"CL.THROTTLE a 15 30":                                  "-ERR wrong number of arguments for CL.THROTTLE; write CL.THROTTLE key max_burst count period [quantity], such as",
		"CL.THROTTLE a -1 30 60":                               `-ERR invalid request: max_burst: "-1" is not a whole number of 0 or more; write one such as 15`,
		"CL.THROTTLE a 15 0 60":                                `-ERR invalid request: count: "0" is not a whole number of 1 or more; write one such as 30`,
		"CL.THROTTLE a 15 30 x":                                `period: "x" is not a whole number of 1 or more; write one such as 60`,
		"CL.THROTTLE a 15 30 60 1.5":                           `-ERR invalid request: quantity: "1.5" is not a whole number; write one such as 1`,
		"THROTTLE a 0 30 60":                                   `-ERR invalid request: max_burst: "0" is not a whole number of 1 or more`,
		"THROTTLE a 1 30 60 -1":                                `-ERR invalid request: quantity: "-1" is not a whole number of 0 or more`,
		"THROTTLE a 9223372036854775807 30 60":                 `-ERR invalid request: max_burst: burst 9223372036854775807 is over 1000000000`,
		"CL.THROTTLE a 9223372036854775807 30 60":              `-ERR invalid request: max_burst: burst 9223372036854775808 is over 1000000000`,
		"CL.THROTTLE a 1 9223372036854775807 60":               `-ERR invalid request: count and period: rate "9223372036854775807/60s"`,
		"CL.THROTTLE a 1 1 60 -9223372036854775808":            `quantity: "-9223372036854775808" is not a whole number`,
		"CL.THROTTLE " + strings.Repeat("k", 1025) + " 1 1 60": `-ERR invalid request: key: "kkk`,
	} {
		got := answers(t, s, strings.Fields(command)...)
		if !strings.HasPrefix(got, "-ERR ") || !strings.Contains(got, strings.TrimPrefix(want, "-ERR invalid request: ")) || strings.Count(got, "\n") != 1 {
			t.Errorf("%.80s: %q, want %q", command, got, want)
		}
	}
	if got, want := answers(t, s, "CL.THROTTLE", "a", "1", "1", "60", "9223372036854775807"), numbers(1, 2, 2, -1, 0); got != want {
		t.Errorf("a very large quantity: %q, want %q", got, want)
	}
}
