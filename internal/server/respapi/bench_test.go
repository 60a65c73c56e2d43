package respapi

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// freeCalls bound nothing.
type freeCalls struct{}

func (freeCalls) Begin() bool { return true }
func (freeCalls) End()        {}

// sink is a connection that nobody reads.
type sink struct{ net.Conn }

func (sink) Write(p []byte) (int, error)      { return len(p), nil }
func (sink) SetWriteDeadline(time.Time) error { return nil }

// newServer returns a Server over a store in memory, whose clock is now; nil: that of the
// process.
func newServer(tb testing.TB, now func() strategy.Instant) *Server {
	tb.Helper()
	s, err := memory.New(memory.Options{Now: now})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	book := account.New(decide.Outcomes, time.Now)
	logger := slog.New(slog.DiscardHandler)
	return New(Options{
		Core:    decide.New(decide.Options{Store: s, Book: book, Logger: logger}),
		Faults:  fault.NewLog(book, logger),
		Latency: histogram.NewVec("x", "x", "method", Method).Of(Method),
		Calls:   freeCalls{}, Bounds: config.DefaultBounds(),
	})
}

// wire returns a command as client libraries send it.
func wire(args ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	return b.String()
}

// BenchmarkTurn answers pipelines about 1,000 identifiers, without a network: an operation
// is a command.
func BenchmarkTurn(b *testing.B) {
	for name, command := range map[string][]string{
		"RL.ALLOW":    {"RL.ALLOW", "bench", "", "1000000000/s"},
		"CL.THROTTLE": {"CL.THROTTLE", "", "1000000", "1000000", "1"},
	} {
		for _, pipeline := range []int{1, 16, 100} {
			b.Run(fmt.Sprintf("%s/%d", name, pipeline), func(b *testing.B) {
				s := newServer(b, nil)
				c := &conn{o: &s.o, draining: &s.draining, Conn: sink{}, raw: sink{}, protocol: 2, base: s.ctx}
				var turns [][]byte
				for id := 0; id < 1000; id += pipeline {
					var text strings.Builder
					for i := range pipeline {
						args := append([]string{}, command...)
						for j := range args {
							if args[j] == "" {
								args[j] = "user:" + strconv.Itoa(id+i)
							}
						}
						text.WriteString(wire(args...))
					}
					turns = append(turns, []byte(text.String()))
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if i%pipeline == 0 { // the other operations are of the same turn
						c.in = append(c.in[:0], turns[i/pipeline%len(turns)]...)
						if !s.answer(c) || len(c.in) != 0 {
							b.Fatal("the connection is closed")
						}
					}
				}
			})
		}
	}
}
