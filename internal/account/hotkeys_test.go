package account

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/rate"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// newBook returns a Book at a time that forward moves on.
func newBook() (b *Book, forward func(time.Duration)) {
	now := time.Unix(1_767_225_600, 0)
	return New([]string{"allowed", "denied"}, func() time.Time { return now }), func(d time.Duration) { now = now.Add(d) }
}

// note counts one decision.
func (b *Book) note(namespace, identifier string, denied bool) {
	var t Tally
	t.Add(b, &Entry{Namespace: namespace, Identifier: identifier, Denied: denied})
	t.Flush(b)
}

// TestHottestAmongMany has two identifiers ask among many that ask once.
func TestHottestAmongMany(t *testing.T) {
	book, forward := newBook()
	for i := range 6000 { // 100 a second, for 60 s: six half-lives
		identifier := fmt.Sprint("once ", i)
		switch {
		case i%4 == 0:
			identifier = "alice"
		case i%8 == 1:
			identifier = "bob"
		}
		book.note("checkout", identifier, identifier == "bob")
		forward(10 * time.Millisecond)
	}
	top := book.HotKeys(2)
	if len(top) != 1 || top[0].Namespace != "checkout" || len(top[0].Asked) != 2 || len(top[0].Denied) != 1 {
		t.Fatalf("top: %+v", top)
	}
	for i, want := range []struct {
		key       Key
		id        string
		perSecond float64
	}{
		{top[0].Asked[0], "alice", 25}, {top[0].Asked[1], "bob", 12.5}, {top[0].Denied[0], "bob", 12.5},
	} {
		if least := want.key.PerSecond - want.key.Error; want.key.Identifier != want.id || math.Abs(want.key.PerSecond-want.perSecond) > want.perSecond/10 || least > 1.01*want.perSecond {
			t.Errorf("%d: %+v, want %s at %v/s", i, want.key, want.id, want.perSecond)
		}
	}
}

// TestFreshFlood has floods begin: that of an identifier which never asked before, and
// that of one which has asked for long. Both are shown at their rate within a second or
// two, and for as long as they last, beside the one that keeps its rate.
func TestFreshFlood(t *testing.T) {
	for _, perSecond := range []int{40, 400, 20_000} { // the last is sampled
		book, forward := newBook()
		for i := range 60_000 / 20 {
			if i%50 == 0 {
				book.note("checkout", "long known", false)
			}
			book.note("checkout", "steady", true)
			forward(20 * time.Millisecond)
		}
		step := time.Second / time.Duration(perSecond)
		for after := range 30 * perSecond {
			book.note("checkout", "new", true)
			book.note("checkout", "long known", true)
			forward(step)
			if after%50 == 49 {
				book.note("checkout", "steady", true)
			}
			if seconds := (after + 1) / perSecond; (after+1)%perSecond == 0 {
				for _, key := range book.HotKeys(10)[0].Denied {
					want, within := float64(perSecond), 0.2
					switch {
					case key.Identifier == "steady":
						continue
					case key.Identifier == "long known" && seconds == 1:
						within = 0.5 // it is not known yet when it began
					}
					if math.Abs(key.PerSecond-want) > within*want {
						t.Errorf("after %d s, %s asks %v times a second, want %v", seconds, key.Identifier, key.PerSecond, want)
					}
				}
			}
		}
	}
}

// TestBursts has somebody ask as a cron job does. The rate is never more than that of a
// burst, and soon that of all bursts.
func TestBursts(t *testing.T) {
	book, forward := newBook()
	for i := range 100 {
		for range 50 {
			book.note("checkout", "cron", false)
		}
		forward(9 * time.Second)
		rate := book.HotKeys(1)[0].Asked[0].PerSecond
		if rate > 10 || i > 0 && rate < 2 {
			t.Fatalf("burst %d: %v a second, want about 5", i, rate)
		}
		forward(time.Second)
	}
}

// TestDeniedBy names the limit that denies: of several, the one that does so for longest.
func TestDeniedBy(t *testing.T) {
	book, _ := newBook()
	limits := []strategy.Limit{
		{Name: "burst", Strategy: strategy.GCRA}, {Strategy: strategy.FixedWindow, Rate: rate.Rate{Count: 5, Period: time.Hour}, Capacity: 5},
		{Name: "tried", Shadow: true}, {Name: "whole", Strategy: strategy.GCRA},
	}
	statuses := []strategy.Status{{RetryAfter: time.Second}, {RetryAfter: time.Minute}, {RetryAfter: time.Hour}, {Allowed: true}}
	for _, c := range []struct {
		policy, want string
		statuses     []strategy.Status
	}{
		{"default", "fixed_window:5/1h", statuses},
		{"", "burst", []strategy.Status{{RetryAfter: strategy.Never}, statuses[1], {Allowed: true}, {Allowed: true}}},
		{"search", "", nil}, // the failure policy
	} {
		var tally Tally
		tally.Add(book, &Entry{Namespace: "n", Identifier: "alice", Policy: c.policy, Denied: true, Limits: limits, Statuses: c.statuses})
		tally.Flush(book)
		if got := book.HotKeys(1)[0].Denied[0]; got.Policy != c.policy || got.Limit != c.want {
			t.Errorf("%+v, want it denied by %s of %q", got, c.want, c.policy)
		}
	}
}

func TestWhoStoppedIsForgotten(t *testing.T) {
	book, forward := newBook()
	for range 1000 {
		book.note("checkout", "yesterday", true)
	}
	forward(3 * halfLife)
	for range 200 {
		book.note("checkout", "today", true)
	}
	if top := book.HotKeys(1); top[0].Denied[0].Identifier != "today" {
		t.Errorf("top: %+v", top)
	}
	forward(300 * halfLife) // scores are scaled back
	if top := book.HotKeys(10); len(top[0].Asked)+len(top[0].Denied) != 0 {
		t.Errorf("after an hour: %+v", top)
	}
	book.note("checkout", "tomorrow", false)
	if top := book.HotKeys(10); len(top[0].Asked) != 1 || top[0].Asked[0].Identifier != "tomorrow" {
		t.Errorf("top: %+v", top)
	}
}

// TestSampling has a namespace asked so often that it is sampled.
func TestSampling(t *testing.T) {
	book, forward := newBook()
	for range 600_000 { // 10,000 a second, for six half-lives
		book.note("checkout", "alice", false)
		forward(100 * time.Microsecond)
	}
	if rate := book.HotKeys(1)[0].Asked[0].PerSecond; math.Abs(rate-10_000) > 1000 {
		t.Errorf("%v a second, want 10,000", rate)
	}
	if !book.namespace("checkout").hot.sampled.Load() {
		t.Error("each request was counted")
	}
}

// TestBounded makes up namespaces and identifiers.
func TestBounded(t *testing.T) {
	book, _ := newBook()
	for i := range 10 * maxNamespaces {
		for j := range 2 * sketchKeys {
			book.note(fmt.Sprint("namespace ", i), fmt.Sprint(j), true)
		}
	}
	top := book.HotKeys(1 << 20)
	if len(top) != maxNamespaces+1 || top[maxNamespaces].Namespace != Others {
		t.Fatalf("%d namespaces, want %d", len(top), maxNamespaces+1)
	}
	for _, n := range top {
		if len(n.Asked) != sketchKeys || len(n.Denied) != sketchKeys {
			t.Errorf("%s has %d and %d identifiers, want %d", n.Namespace, len(n.Asked), len(n.Denied), sketchKeys)
		}
	}
}

// TestConfiguredAreNotCrowdedOut has callers make up namespaces before anybody
// asks for one of the configuration.
func TestConfiguredAreNotCrowdedOut(t *testing.T) {
	book, _ := newBook()
	for i := range 2 * maxNamespaces {
		book.note(fmt.Sprint("made up ", i), "x", false)
	}
	book.Configured([]string{"checkout"})
	book.note("checkout", "alice", true)
	if top := book.HotKeys(1)[0]; top.Namespace != "checkout" || len(top.Denied) != 1 {
		t.Errorf("the first by name is %+v, want checkout", top)
	}
}

// TestOthersKeepTheirNamespace has one identifier in two namespaces without a
// sketch of their own.
func TestOthersKeepTheirNamespace(t *testing.T) {
	book, _ := newBook()
	for i := range maxNamespaces + 2 {
		book.note(fmt.Sprintf("%03d", i), "alice", false)
	}
	others := book.HotKeys(10)[maxNamespaces].Asked
	if len(others) != 2 || others[0].Namespace == others[1].Namespace {
		t.Errorf("others: %+v", others)
	}
}

func BenchmarkRecord(b *testing.B) {
	identifiers := make([]string, 1<<16)
	for i := range identifiers {
		identifiers[i] = fmt.Sprint("user:", i)
	}
	book := New([]string{"allowed"}, time.Now)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for i := uint32(0); p.Next(); i += 2654435769 {
			book.note("checkout", identifiers[i>>16], i&1 == 0)
		}
	})
}

// BenchmarkRecordUnsampled times what a namespace costs that is asked too seldom to be
// sampled, by so many identifiers.
func BenchmarkRecordUnsampled(b *testing.B) {
	for _, n := range []int{1, 16} {
		b.Run(fmt.Sprintf("of_%d", n), func(b *testing.B) {
			identifiers := make([]string, n)
			for i := range identifiers {
				identifiers[i] = fmt.Sprint("user:", i)
			}
			book, forward := newBook()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				book.note("checkout", identifiers[i%n], false)
				forward(2 * time.Millisecond)
			}
		})
	}
}
