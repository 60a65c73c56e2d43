package reservation

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/timezone"
)

func limit(tb testing.TB, spec strategy.Spec) strategy.Limit {
	tb.Helper()
	l, wrong := strategy.NewLimit(spec, math.MaxInt64)
	if wrong != nil {
		tb.Fatal(wrong)
	}
	return l
}

// reservations returns one of each kind, and the longest.
func reservations(tb testing.TB) []*Reservation {
	berlin, err := timezone.Load("Europe/Berlin")
	if err != nil {
		tb.Fatal(err)
	}
	const at = 1_767_225_600_000_000
	shadow := limit(tb, strategy.Spec{Rate: "9/s"})
	shadow.Shadow = true
	all := []*Reservation{
		{Namespace: "llm", Identifier: "user:42", Taken: 400, At: at, Expires: at + 1000, Nonce: NewNonce(), Limits: []strategy.Limit{
			limit(tb, strategy.Spec{Rate: "1000/h", MaxDebt: strategy.AtMost(0)}),
			limit(tb, strategy.Spec{Rate: "1000/month", Zone: berlin, AnchorDay: 15, Name: "billed"}),
			limit(tb, strategy.Spec{Rate: "10/s", Strategy: strategy.TokenBucket, Burst: 50}),
			limit(tb, strategy.Spec{Rate: "10/s", Strategy: strategy.GCRA}),
			limit(tb, strategy.Spec{Rate: "11/s", Strategy: strategy.GCRA, Burst: 11}),
			limit(tb, strategy.Spec{Rate: "0/s", Strategy: strategy.LeakyBucket}),
			limit(tb, strategy.Spec{Rate: "20000/s", Strategy: strategy.SlidingWindowLog}),
			limit(tb, strategy.Spec{Rate: "unlimited"}),
			shadow,
		}},
		{Namespace: "llm", Identifier: "exempt", At: at, Expires: at + 1, Nonce: NewNonce()},
	}
	longest := &Reservation{
		Namespace: strings.Repeat("\x01", 128), Identifier: strings.Repeat("\x02", 1024), Policy: strings.Repeat("<", 128),
		Taken: math.MaxUint64, At: at, Expires: math.MaxInt64, Nonce: NewNonce(),
	}
	for range strategy.MaxLimits {
		longest.Limits = append(longest.Limits, limit(tb, strategy.Spec{Name: strings.Repeat("\x03", strategy.MaxNameBytes), Rate: "999999999/366d", Strategy: strategy.TokenBucket, Burst: 1e9}))
	}
	return append(all, longest)
}

func TestSealAndOpen(t *testing.T) {
	key, other := NewKey(), NewKey()
	for _, r := range reservations(t) {
		id := key.Seal(r)
		got, err := key.Open(id)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: got %+v, %v\nwant %+v", r.Identifier, got, err, r)
		}
		if _, err := other.Open(id); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: with another key: %v", r.Identifier, err)
		}
		for i := range id {
			altered := bytes.Clone(id)
			altered[i] ^= 1
			if _, err := key.Open(altered); err == nil {
				t.Fatalf("%s: with byte %d of %d altered: it is opened", r.Identifier, i, len(id))
			}
			if _, err := key.Open(id[:i]); err == nil {
				t.Fatalf("%s: cut to %d bytes: it is opened", r.Identifier, i)
			}
		}
		if _, err := key.Open(append(id, 0)); err == nil {
			t.Errorf("%s: with a byte more: it is opened", r.Identifier)
		}
	}
}

// TestOnce has the counter of a reservation last longer than the reservation, and
// belong to no other.
func TestOnce(t *testing.T) {
	const hour = strategy.Instant(time.Hour / time.Microsecond)
	r := &Reservation{At: 1000 * hour, Expires: 1001 * hour, Nonce: NewNonce()}
	once := []strategy.Limit{r.Once()}
	states := make([]strategy.State, 1)
	var d strategy.Decision
	for _, step := range []struct {
		at   strategy.Instant
		want bool
	}{{r.At, true}, {r.At, false}, {r.Expires - 1, false}, {r.Expires + 1, false}} {
		if d.Decide(once, states, strategy.Ask{Cost: 1, Now: step.at}); d.Allowed != step.want {
			t.Errorf("at %d: settled %t, want %t", step.at, d.Allowed, step.want)
		}
	}
	another := &Reservation{At: r.At, Expires: r.Expires, Nonce: NewNonce()}
	if l := another.Once(); l.SameCounter(&once[0]) {
		t.Error("two reservations share a counter")
	}
	for _, life := range []strategy.Instant{1, strategy.Instant(MaxLife / time.Microsecond)} {
		(&Reservation{At: 1, Expires: 1 + life}).Once() // it does not panic
	}
}

func FuzzOpen(f *testing.F) {
	var key Key
	for _, r := range reservations(f) {
		f.Add(key.Seal(r)[headBytes:])
	}
	f.Add([]byte(`{"l":[{"r":"1/month","s":2}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = key.Open(body)
		id := append(make([]byte, headBytes), body...)
		id[0] = version
		copy(id[1:], key.code(body))
		if r, err := key.Open(id); err == nil {
			again, err := key.Open(key.Seal(r))
			if err != nil || !reflect.DeepEqual(again, r) {
				t.Errorf("%q: %+v, and again %+v, %v", body, r, again, err)
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	key, r := NewKey(), reservations(b)[0]
	r.Limits = r.Limits[:2]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := key.Open(key.Seal(r)); err != nil {
			b.Fatal(err)
		}
	}
}
