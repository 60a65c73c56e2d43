package web

import (
	"errors"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// TestTakeTurn has all turns taken: a small body needs none, and a large one waits, for a
// while.
func TestTakeTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := turns.New()
		var held []*turns.Turn
		for range max(1, runtime.GOMAXPROCS(0)/2) {
			turn, err := of.Take(t.Context(), netip.Prefix{})
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, turn)
		}
		r := httptest.NewRequest("POST", "/v1/should-allow", nil)
		if _, turn, err := TakeTurn(of, r, make([]byte, freeBytes)); err != nil || turn != nil {
			t.Errorf("a small body: %v, %v", turn, err)
		}
		large := make([]byte, freeBytes+1)
		begin := time.Now()
		if _, _, err := TakeTurn(of, r, large); !errors.Is(err, fault.ErrBusy) || time.Since(begin) != longestWait {
			t.Errorf("a large body: %v after %v", err, time.Since(begin))
		}
		time.AfterFunc(longestWait/2, held[0].End)
		ctx, turn, err := TakeTurn(of, r, large)
		if err != nil || ctx.Err() != nil {
			t.Fatalf("a large body after another: %v", err)
		}
		time.Sleep(2 * longestWait)
		if ctx.Err() != nil {
			t.Errorf("the context ends while the body has its turn: %v", ctx.Err())
		}
		turn.End()
		turn.End()
		for _, turn := range held {
			turn.End()
		}
	})
}
