package inflight

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// TestFairByAddress has one client hold much with one request, and another far more with
// many small ones from many ports: one of the latter's is ended each time, also when it is the
// former that asks for more.
func TestFairByAddress(t *testing.T) {
	b := New(Options{Bytes: 10 * littleBytes, MessageBytes: littleBytes, Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
	const innocent, attackers = "192.0.2.1", "[2001:db8::%d]" // a network is one client
	ended, inAll := map[string]int{}, 0
	hold := func(n int64, from string, port int) (release func()) {
		return b.Hold(n, fmt.Sprintf("%s:%d", from, port), func() { ended[from]++; inAll++ })
	}
	const large = 3 * littleBytes
	var releases []func()
	releases = append(releases, hold(large, innocent, 1))
	const small = 64 << 10
	refused := 0
	for port := range 200 {
		if release := hold(small, fmt.Sprintf(attackers, port%10), port); release == nil {
			refused++
		} else {
			releases = append(releases, release)
		}
	}
	most := (10*littleBytes + 10*littleBytes/slack - large) / small
	if n := len(releases) - 1; ended[innocent] != 0 || n+refused != 200 || n-inAll > most {
		t.Errorf("%v are ended, %d refused, %d held", ended, refused, n)
	}
	again := hold(littleBytes, innocent, 2)
	if ended[innocent] != 0 || again == nil { // now it has 4 of 10
		t.Errorf("the client that holds less is ended: %v", ended)
	}
	if n := b.bytes.Load(); n > 10*littleBytes {
		t.Errorf("%d bytes are held, want at most %d", n, 10*littleBytes)
	}
	for _, release := range append(releases, again) {
		release()
	}
	if b.bytes.Load() != 0 || len(b.holders) != 0 || len(b.clients) != 0 {
		t.Errorf("%d bytes, %d holders, %d clients are left", b.bytes.Load(), len(b.holders), len(b.clients))
	}
}
