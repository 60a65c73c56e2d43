package memory

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

const second = strategy.Instant(1_000_000)

// askIn asks s for one unit in a namespace, and reports whether it is allowed.
func askIn(s *Store, namespace, identifier string, limits ...strategy.Limit) bool {
	return decideIn(s, namespace, identifier, 1, limits...).Allowed
}

func decideIn(s *Store, namespace, identifier string, cost uint64, limits ...strategy.Limit) strategy.Decision {
	results := make([]store.Result, 1)
	s.Decide(nil, []store.Request{{Namespace: namespace, Identifier: identifier, Limits: limits, Cost: cost}}, results) //nolint:staticcheck // the memory store has no use for a context
	return results[0].Decision
}

// TestLongLimitsFreeNobodyElse fills the store with counters that deny for a month, and has
// somebody guess passwords meanwhile. The long limit is that of another namespace, or
// another limit of the same one.
func TestLongLimitsFreeNobodyElse(t *testing.T) {
	for _, mailIn := range []string{"mail", "login"} {
		for _, strat := range strategy.All {
			for _, favoured := range [][]string{nil, {"login"}, {"login", "mail"}} {
				s, set := newStore(t, Options{MaxKeys: 1024, MaxLogCount: 10})
				s.Favour(favoured)
				mail, login := limit(t, "1/30d", strat), limit(t, "5/min", strategy.FixedWindow)
				mails := 0
				flood := func(n int) {
					for range n {
						askIn(s, mailIn, fmt.Sprint("mail ", mails), mail)
						mails++
					}
				}
				flood(1300)
				passed := 0
				for i := range second * 18 / 36_000 { // for 18 seconds
					set(i * 36_000)
					if askIn(s, "login", "victim", login) {
						passed++
					}
					flood(2)
				}
				if passed != 5 {
					t.Errorf("mail in %q with %s, %v favoured: %d guesses pass, want 5", mailIn, strat, favoured, passed)
				}
				checkShares(t, s)
			}
		}
	}
}

// TestJunkNamespacesFreeNobody makes up namespaces with one identifier each.
func TestJunkNamespacesFreeNobody(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 4096})
	s.Favour([]string{"login", "search"})
	login, long := limit(t, "5/h", strategy.FixedWindow), limit(t, "1/30d", strategy.FixedWindow)
	denied := func(i int) string { return fmt.Sprint("denied ", i) }
	const within = 300 // of the third that is the share, as the shards are not filled alike
	for i := range within {
		for range 5 {
			askIn(s, "login", denied(i), login)
		}
	}
	for i := range 30_000 {
		askIn(s, fmt.Sprint("junk ", i), "x", long)
	}
	for i := range within {
		if askIn(s, "login", denied(i), login) {
			t.Errorf("identifier %d, which was denied, is allowed", i)
		}
	}
	checkShares(t, s)
}

// TestJunkLimitsFreeNobody makes up limits, all of one identifier: they are in one shard.
func TestJunkLimitsFreeNobody(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 1024, Shards: 1})
	login := limit(t, "1/h", strategy.FixedWindow)
	for i := range 50 {
		askIn(s, "login", fmt.Sprint(i), login)
	}
	junk := limit(t, "1/30d", strategy.FixedWindow)
	for i := range 20_000 {
		junk.Name = fmt.Sprint("junk ", i)
		askIn(s, "login", "x", junk)
	}
	for i := range 50 {
		if askIn(s, "login", fmt.Sprint(i), login) {
			t.Errorf("identifier %d, which was denied, is allowed", i)
		}
	}
	checkShares(t, s)
}

// TestOneNamespaceMayUseAll checks that what nobody else needs is not kept for him.
func TestOneNamespaceMayUseAll(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 1024, Shards: 1})
	s.Favour([]string{"a", "b", "c", "d"})
	l := limit(t, "1/h", strategy.FixedWindow)
	for i := range 1024 {
		askIn(s, "a", fmt.Sprint(i), l)
	}
	if held(s) != 1024 || s.shards[0].evicted != (evictions{}) {
		t.Errorf("%d counters are held, evicted are %v; want all 1024", held(s), s.shards[0].evicted)
	}
	for i := range 2000 {
		askIn(s, "b", fmt.Sprint(i), l)
	}
	if a, b := s.shards[0].uses[0].counters(), s.shards[0].uses[1].counters(); a != 512 || b != 512 {
		t.Errorf("a has %d counters and b %d, want half each", a, b)
	}
}

// TestLogsAreShared has a namespace fill the room for logs while another is denied by a log.
func TestLogsAreShared(t *testing.T) {
	for _, favoured := range [][]string{nil, {"login"}, {"mail"}} {
		s, set := newStore(t, Options{MaxKeys: 1024, MaxLogCount: 200})
		s.Favour(favoured)
		mail, login := limit(t, "100/30d", strategy.SlidingWindowLog), limit(t, "5/h", strategy.SlidingWindowLog)
		passed := 0
		for i := range strategy.Instant(20_000) {
			set(i)
			if askIn(s, "login", "victim", login) {
				passed++
			}
			askIn(s, "mail", fmt.Sprint(i/100), mail) // hundred after hundred
		}
		if passed != 5 {
			t.Errorf("%v favoured: %d guesses pass, want 5", favoured, passed)
		}
		if total := s.logEntries.Load(); total > s.maxLogEntries {
			t.Errorf("the logs have room for %d entries, more than %d", total, s.maxLogEntries)
		}
		checkShares(t, s)
	}
}

// TestFloods is the promise itself: whoever holds no more than his share is decided about
// as if nobody else was there, whatever the others do.
func TestFloods(t *testing.T) {
	limits := []strategy.Limit{
		limit(t, "2/h", strategy.FixedWindow), limit(t, "3/30d", strategy.TokenBucket), limit(t, "2/10s", strategy.LeakyBucket),
		limit(t, "3/min", strategy.SlidingWindowCounter), limit(t, "1/s", strategy.GCRA), limit(t, "2/min", strategy.SlidingWindowLog),
	}
	rapid.Check(t, func(t *rapid.T) {
		const room = 120
		var now strategy.Instant
		s, err := New(Options{MaxKeys: room, Shards: 1, MaxLogCount: 10, Now: func() strategy.Instant { return now }})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()

		// Some limits of some namespaces stay within their share, and the others do not.
		type user struct {
			namespace string
			limit     strategy.Limit
			ids       int // 0: ever new ones
		}
		var users []user
		namespaces := rapid.IntRange(1, 5).Draw(t, "namespaces")
		var favoured []string
		ofNamespace := make([]int, namespaces) // how many limits it has
		for i := range namespaces {
			if rapid.Bool().Draw(t, "favoured") {
				favoured = append(favoured, fmt.Sprint(i))
			}
			ofNamespace[i] = rapid.IntRange(1, 3).Draw(t, "limits")
		}
		s.Favour(favoured)
		other := namespaces - len(favoured)
		junk := rapid.Bool().Draw(t, "junk") // ever new namespaces
		if junk {
			other = room + 1 // so many that no share is left to those that are not favoured
		}
		for i := range namespaces {
			share := float64(room) / float64(len(favoured)+min(1, other))
			if !slices.Contains(favoured, fmt.Sprint(i)) {
				share /= float64(other)
			}
			first := rapid.IntRange(0, len(limits)-1).Draw(t, "limit")
			for j := range ofNamespace[i] {
				u := user{namespace: fmt.Sprint(i), limit: limits[(first+j)%len(limits)]}
				if rapid.Bool().Draw(t, "within") {
					u.ids = int(share) / ofNamespace[i]
					if u.ids == 0 {
						continue
					}
				}
				users = append(users, u)
			}
		}

		reference, _ := New(Options{MaxKeys: 100_000, Shards: 1, Now: s.now})
		defer reference.Close()
		fresh := 0
		for range rapid.IntRange(1, 40).Draw(t, "rounds") {
			now += strategy.Instant(rapid.Int64Range(0, 20_000_000).Draw(t, "passed"))
			if junk {
				for range 20 {
					fresh++
					askIn(s, fmt.Sprint("junk ", fresh), "x", limits[fresh%len(limits)])
				}
			}
			if len(users) == 0 {
				return
			}
			u := rapid.SampledFrom(users).Draw(t, "user")
			for range rapid.IntRange(1, 40).Draw(t, "requests") {
				if u.ids == 0 {
					fresh++
					askIn(s, u.namespace, fmt.Sprint("fresh ", fresh), u.limit)
					continue
				}
				id := fmt.Sprint(rapid.IntRange(1, u.ids).Draw(t, "id"))
				got, want := decideIn(s, u.namespace, id, 1, u.limit), decideIn(reference, u.namespace, id, 1, u.limit)
				if got.Allowed != want.Allowed || got.Statuses[0] != want.Statuses[0] {
					t.Fatalf("namespace %s, %s, identifier %s of %d: %+v, alone it would be %+v", u.namespace, u.limit.Counter(), id, u.ids, got, want)
				}
			}
		}
		checkShares(t, s)
	})
}

// TestFloodsRace floods a store from many sides, while namespaces are favoured and no more
// favoured. Somebody who is denied must stay denied.
func TestFloodsRace(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 2048, Shards: 8, MaxLogCount: 10})
	hot, long, log := limit(t, "1/h", strategy.FixedWindow), limit(t, "1/30d", strategy.GCRA), limit(t, "3/h", strategy.SlidingWindowLog)
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for racer := range 4 {
		wg.Go(func() {
			for i := range 3000 {
				if askIn(s, "login", "hot", hot) {
					allowed.Add(1)
				}
				askIn(s, "mail", fmt.Sprint(racer, i), long)
				askIn(s, "logs", fmt.Sprint(racer, i), log)
				askIn(s, fmt.Sprint("junk ", racer, i), "x", long)
			}
		})
	}
	wg.Go(func() {
		for i := range 200 {
			s.Favour([][]string{{"login"}, {"login", "mail", "logs"}, {"login", "unseen"}}[i%3])
			s.names.forget()()
		}
	})
	wg.Wait()
	if allowed.Load() != 1 {
		t.Errorf("%d were allowed, want 1", allowed.Load())
	}
	checkShares(t, s)
}

// TestNamespacesAreForgotten has many namespaces one after the other. Each must find a share
// of its own.
func TestNamespacesAreForgotten(t *testing.T) {
	s, set := newStore(t, Options{MaxKeys: 1000, Shards: 4})
	l := limit(t, "1/s", strategy.FixedWindow)
	for i := range 10 * maxNamespaces {
		set(strategy.Instant(i) * second)
		name := fmt.Sprint(i)
		askIn(s, name, "x", l)
		if s.names.find(name) == s.names.rest {
			t.Fatalf("namespace %d has no share of its own", i)
		}
		for j := range s.shards {
			sh := &s.shards[j]
			sh.lock()
			sh.expire(sweepCounters, sweepCounters, nil, s.now())
			sh.unlock()
		}
		s.names.forget()()
	}
	if len(s.names.all) > maxNamespaces+1 {
		t.Errorf("there are %d numbers for namespaces", len(s.names.all))
	}
	checkShares(t, s)
}

func TestReport(t *testing.T) {
	var log bytes.Buffer
	s, set := newStore(t, Options{MaxKeys: 16, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	set(1_767_225_600 * second)
	l := limit(t, "1/h", strategy.FixedWindow)
	for i := range 16 {
		askIn(s, "mail", fmt.Sprint(i), l)
	}
	if log.Len() > 0 {
		t.Errorf("logged before anybody was freed: %s", &log)
	}
	for i := range 8 {
		askIn(s, "login", fmt.Sprint(i), l)
	}
	askIn(s, "mail", "new", l)
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[0], "--memory-max-keys") ||
		!strings.HasSuffix(lines[0], "namespace=mail for=login full=keys times=1") || !strings.HasSuffix(lines[1], "namespace=mail for=mail full=keys times=1") {
		t.Errorf("the log is\n%s", &log)
	}
	want := evictions{forKeys: {wasShut: {sameNamespace: 1, otherNamespace: 8}}}
	if got := s.shards[0].evicted; got != want {
		t.Errorf("evictions: %v, want %v", got, want)
	}
}

// checkShares checks that the books agree with the counters.
func checkShares(t interface{ Errorf(string, ...any) }, s *Store) {
	entries := map[*namespace]int64{}
	holdings := map[*namespace]int32{}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.lock()
		groups := 0
		total := [causes]int{}
		for j, h := range sh.holdings {
			if sh.places[h.owner.number] != uint32(j+1) || sh.uses[j].favoured() != h.owner.favoured.Load() || len(h.groups) == 0 {
				t.Errorf("shard %d: holding %d of %q is out of place", i, j, h.owner.name)
			}
			sum := [causes]int{}
			for _, g := range h.groups {
				of := &sh.groups[g]
				if of.owner != h.owner || of.used[forKeys] != len(of.open)+len(of.shut) || of.used[forKeys] == 0 {
					t.Errorf("shard %d: group %d of %q is wrong: %+v", i, g, h.owner.name, of.used)
				}
				for why := range causes {
					sum[why] += of.used[why]
				}
			}
			if sum != [causes]int{sh.uses[j].counters(), h.entries} {
				t.Errorf("shard %d: %q has %d counters and %d entries, its limits have %v", i, h.owner.name, sh.uses[j].counters(), h.entries, sum)
			}
			for why := range causes {
				total[why] += sum[why]
			}
			groups += len(h.groups)
			entries[h.owner] += int64(h.entries)
			holdings[h.owner]++
		}
		if total != [causes]int{sh.held(), sh.entries} || groups != len(sh.groups)-len(sh.freeGroups) {
			t.Errorf("shard %d has %d counters, %d entries and %d groups; the books say %v", i, sh.held(), sh.entries, len(sh.groups)-len(sh.freeGroups), total)
		}
		sh.unlock()
	}
	for owner, n := range entries {
		if owner.entries.Load() != n || owner.holdings.Load() != holdings[owner] {
			t.Errorf("%q has %d entries in %d shards, the books say %d in %d", owner.name, n, holdings[owner], owner.entries.Load(), owner.holdings.Load())
		}
	}
}

// TestAStateIsKept checks that a counter remembers all of a State.
func TestAStateIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := strategy.State{
			Last: strategy.Instant(rapid.Int64().Draw(t, "last")), Part: rapid.Int64Range(0, 1<<partBits-1).Draw(t, "part"),
			Used: rapid.Int64Range(0, strategy.MaxUnits).Draw(t, "used"),
		}
		var c counter
		c.setState(&want)
		if got := c.state(); got != want {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
}
