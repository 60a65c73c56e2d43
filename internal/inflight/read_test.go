package inflight

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
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
		var mu sync.Mutex // protects the following
		var done []func()
		var order []netip.Prefix
		read := func(from netip.Prefix) {
			end, err := b.Read(t.Context(), from)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			done, order = append(done, end), append(order, from)
		}
		ends := func() []func() {
			mu.Lock()
			defer mu.Unlock()
			return done
		}
		came := func() []netip.Prefix {
			mu.Lock()
			defer mu.Unlock()
			return order
		}
		for range readers {
			read(one)
		}
		ctx, cancel := context.WithTimeout(t.Context(), readTime/2)
		defer cancel()
		if _, err := b.Read(ctx, two); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one more is read beside %d: %v", readers, err)
		}
		for _, from := range []netip.Prefix{one, one, two} {
			go read(from)
			synctest.Wait()
		}
		ends()[0]() // it was soon there
		synctest.Wait()
		ends()[1]()
		synctest.Wait()
		if got := came()[readers:]; len(got) != 2 || got[1] != two {
			t.Errorf("the order is %v", got)
		}
		time.Sleep(readTime) // all others are slow
		synctest.Wait()
		if got := came()[readers:]; len(got) != 3 {
			t.Errorf("slow bodies keep others out: %v", got)
		}
		for _, end := range ends()[2:] {
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
		for _, end := range ends()[readers+3:] {
			end()
		}
	})
}
