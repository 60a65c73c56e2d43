package turns

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
)

var (
	one = netip.MustParsePrefix("192.0.2.1/32")
	two = netip.MustParsePrefix("192.0.2.2/32")
)

// take takes the only turn of t.
func take(t *testing.T, of *Turns, from netip.Prefix) (context.Context, *Turn) {
	t.Helper()
	turn, err := of.Take(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	return NewContext(t.Context(), turn), turn
}

func alone() *Turns {
	t := New()
	t.free = 1
	return t
}

// TestOrder has one client wait with three calls before another comes with two: they get
// turns in turn.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := alone()
		_, held := take(t, of, one)
		var got []string
		for _, c := range []struct {
			name string
			from netip.Prefix
		}{{"a1", one}, {"a2", one}, {"a3", one}, {"b1", two}, {"b2", two}} {
			go func() {
				_, turn := take(t, of, c.from)
				got = append(got, c.name) // by whoever has the turn
				turn.End()
			}()
			synctest.Wait()
		}
		if of.waiting != 5 {
			t.Errorf("%d wait, want 5", of.waiting)
		}
		held.End()
		held.End()
		synctest.Wait()
		if want := []string{"a1", "b1", "a2", "b2", "a3"}; !slices.Equal(got, want) {
			t.Errorf("the order is %v, want %v", got, want)
		}
		if of.free != 1 || of.waiting != 0 || len(of.clients) != 0 || of.order.Len() != 0 {
			t.Errorf("left are %d free, %d waiting, %d and %d clients", of.free, of.waiting, len(of.clients), of.order.Len())
		}
	})
}

// TestGone has a call end while it waits, also just when it gets its turn: none is lost.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := alone()
		_, held := take(t, of, one)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := of.Take(ctx, two)
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		held.End()
		for range 200 { // either may come first
			_, held := take(t, of, one)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				turn, err := of.Take(ctx, two)
				if err == nil {
					turn.End()
				}
			}()
			synctest.Wait()
			go cancel()
			held.End()
			synctest.Wait()
		}
		if of.free != 1 || of.waiting != 0 || len(of.clients) != 0 {
			t.Errorf("left are %d free, %d waiting, %d clients", of.free, of.waiting, len(of.clients))
		}
	})
}

// TestAside has a call wait for a store: another has its turn meanwhile.
func TestAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := alone()
		ctx, turn := take(t, of, one)
		back := Aside(ctx)
		_, other := take(t, of, two)
		returned := false
		go func() {
			back()
			returned = true
			turn.End()
		}()
		synctest.Wait()
		if returned {
			t.Error("it is back beside another")
		}
		other.End()
		synctest.Wait()
		if !returned || of.free != 1 {
			t.Errorf("back: %v, %d free", returned, of.free)
		}
	})
}

// TestNone has those that take no turns.
func TestNone(t *testing.T) {
	turn, err := (*Turns)(nil).Take(t.Context(), one)
	ctx := NewContext(t.Context(), turn)
	if err != nil || ctx != t.Context() {
		t.Errorf("%v", err)
	}
	turn.End()
	Aside(ctx)()
}
