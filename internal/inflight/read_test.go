package inflight

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestRead has one client bring as many bodies as are read at a time, and more. A body that is
// slow counts for a while only, and another client comes before the rest.
func TestRead(t *testing.T) {
	one, two := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	synctest.Test(t, func(t *testing.T) {
		b := New(Options{Bytes: 100, MessageBytes: 100, Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
		var done []func()
		read := func(from netip.Prefix) {
			end, err := b.Read(t.Context(), from)
			if err != nil {
				t.Error(err)
			}
			done = append(done, end)
		}
		for range readers {
			read(one)
		}
		ctx, cancel := context.WithTimeout(t.Context(), readTime/2)
		defer cancel()
		if _, err := b.Read(ctx, two); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more is read beside %d: %v", readers, err)
		}
		var order []netip.Prefix
		for _, from := range []netip.Prefix{one, one, two} {
			go func() { read(from); order = append(order, from) }()
			synctest.Wait()
		}
		done[0]() // it was soon there
		synctest.Wait()
		done[1]()
		synctest.Wait()
		if len(order) != 2 || order[1] != two {
			t.Errorf("the order is %v", order)
		}
		time.Sleep(readTime) // all others are slow
		synctest.Wait()
		if len(order) != 3 {
			t.Errorf("slow bodies keep others out: %v", order)
		}
		for _, end := range done[2:] {
			end()
		}
		for range readers { // no place is lost, and none is there twice
			read(two)
		}
		ctx, cancel = context.WithTimeout(t.Context(), readTime/2)
		defer cancel()
		if _, err := b.Read(ctx, one); err == nil {
			t.Error("there is one place too many")
		}
		for _, end := range done[len(done)-readers:] {
			end()
		}
	})
}
