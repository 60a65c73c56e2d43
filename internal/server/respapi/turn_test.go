package respapi

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// TestTurns has all turns at a processor taken. What is soon answered needs none. What takes
// long waits for one, also if it asks for nothing, or for what is refused.
func TestTurns(t *testing.T) {
	allow := func(rate string) string { return wire("RL.ALLOW", "a", "b", rate) }
	for _, tt := range []struct {
		name, text string
		full       bool // whether the connection has more than was read
		waits      bool
	}{
		{name: "a pipeline", text: strings.Repeat(allow("1000/s"), 100)},
		{name: "a few errors", text: strings.Repeat(allow("1000/x"), 10) + strings.Repeat(wire("NONE"), 5)},
		{name: "the first of much", text: allow("1000/s"), full: true, waits: true},
		{name: "a long pipeline", text: strings.Repeat(allow("1000/s"), 200), waits: true},
		{name: "refusals", text: strings.Repeat(allow("1000/x"), maxBatch+1), waits: true},
		{name: "errors", text: strings.Repeat(wire("NONE"), 20), waits: true},
		{name: "guesses", text: strings.Repeat(wire("AUTH", "token"), 20), waits: true},
		{name: "empty lines", text: strings.Repeat("\r\n", freeWork/2+1), waits: true},
		{name: "empty commands", text: strings.Repeat("*0\r\n", freeWork/4+1), waits: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, nil)
			synctest.Test(t, func(t *testing.T) {
				s.o.Turns = turns.New()
				var held []*turns.Turn
				for range max(1, runtime.GOMAXPROCS(0)/2) {
					turn, err := s.o.Turns.Take(t.Context(), netip.Prefix{})
					if err != nil {
						t.Fatal(err)
					}
					held = append(held, turn)
				}
				c := &conn{o: &s.o, draining: &s.draining, Conn: sink{}, raw: sink{}, protocol: 2, base: s.ctx, in: []byte(tt.text), full: tt.full}
				answered := false
				go func() {
					answered = s.answer(c)
				}()
				synctest.Wait()
				if answered == tt.waits {
					t.Errorf("answered without a turn: %v, want %v", answered, !tt.waits)
				}
				for _, turn := range held {
					turn.End()
				}
				synctest.Wait()
				if !answered || len(c.in) != 0 {
					t.Errorf("answered with a turn: %v, and %d bytes are left", answered, len(c.in))
				}
			})
		})
	}
}
