package memory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newStore returns a store whose clock the test sets.
func newStore(tb testing.TB, o Options) (*Store, func(strategy.Instant)) {
	tb.Helper()
	var now atomic.Int64
	o.Now = func() strategy.Instant { return strategy.Instant(now.Load()) }
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s, func(to strategy.Instant) { now.Store(int64(to)) }
}

// ask asks s for cost under limits.
func ask(s *Store, identifier string, cost uint64, limits ...strategy.Limit) strategy.Decision {
	results := make([]store.Result, 1)
	s.Decide(nil, []store.Request{{Namespace: "test", Identifier: identifier, Limits: limits, Cost: cost}}, results) //nolint:staticcheck // the memory store has no use for a context
	return results[0].Decision
}

// held returns how many counters s has, including expired ones.
func held(s *Store) (n int) {
	for i := range s.shards {
		n += s.shards[i].held()
	}
	return n
}

// subject returns a store that is not swept: sweeping goes by real time, and so may drop
// what a clock that then steps back still needs.
func subject(t *testing.T, o Options) storetest.Subject {
	s, set := newStore(t, o)
	close(s.closed)
	s.swept.Wait()
	s.closed = make(chan struct{}) // for Close
	return storetest.Subject{Store: s, Set: set}
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject { return subject(t, Options{}) })
}

func TestConformanceWithOneShard(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject { return subject(t, Options{Shards: 1}) })
}

func TestLinearizable(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	storetest.Linear{Stores: []store.Store{s}, Histories: 1000, Calls: 10}.Check(t)
}

// TestAMissingLockIsFound plants one: it asks and consumes under two locks.
func TestAMissingLockIsFound(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	storetest.Linear{Stores: []store.Store{storetest.Split{Store: s}}, Histories: 20_000, Calls: 10, Strategies: storetest.SplitStrategies}.FindsRace(t)
}

// A careless store makes every seventh decision twice, or forgets a counter before it.
type careless struct {
	store.Store
	twice bool

	decided atomic.Int64
}

func (c *careless) Decide(ctx context.Context, requests []store.Request, results []store.Result) {
	if c.decided.Add(1)%7 == 0 {
		if c.twice {
			c.Store.Decide(ctx, requests, results)
		} else {
			_ = c.Reset(ctx, &requests[0])
		}
	}
	c.Store.Decide(ctx, requests, results)
}

func TestADecisionMadeTwiceIsFound(t *testing.T) { testCareless(t, true) }
func TestALostCounterIsFound(t *testing.T)       { testCareless(t, false) }

func testCareless(t *testing.T, twice bool) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	storetest.Linear{Stores: []store.Store{&careless{Store: s, twice: twice}}, Histories: 100}.Finds(t)
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		options Options
		want    string
	}{
		{Options{Shards: 3}, "3 shards: want a power of two from 1 to 65536, such as 256"},
		{Options{Shards: -2}, "-2 shards: want a power of two"},
		{Options{Shards: 1 << 17}, "131072 shards: want a power of two"},
		{Options{MaxKeys: -1}, "at most -1 keys: must be above 0"},
		{Options{Shards: 64, MaxKeys: 1000}, "at most 1000 keys are too few for 64 shards, which should hold 16 each: allow 1024 keys or more, or have fewer shards"},
		{Options{Shards: 1, MaxKeys: 1<<31 + 1}, "too many for 1 shards"},
	} {
		s, err := New(tt.options)
		if err == nil {
			_ = s.Close()
			t.Errorf("New(%+v) succeeds", tt.options)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New(%+v): %q, want it to say %q", tt.options, err, tt.want)
		}
	}
}

func TestShardsByDefault(t *testing.T) {
	for maxKeys, want := range map[int]int{0: 256, 1_000_000: 256, 4096: 256, 4095: 128, 100: 4, 16: 1, 1: 1} {
		s, _ := newStore(t, Options{MaxKeys: maxKeys})
		if len(s.shards) != want {
			t.Errorf("with at most %d keys there are %d shards, want %d", maxKeys, len(s.shards), want)
		}
	}
}

// TestClock checks that the default clock shows about the wall clock's time, and that it
// never goes backwards.
func TestClock(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := strategy.InstantOf(time.Now()) - 1 // each reading is cut to a microsecond
	now := s.now()
	after := strategy.InstantOf(time.Now()) + 1
	if now < before || now > after {
		t.Errorf("the clock reads %d, want %d to %d", now, before, after)
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	var all []strategy.Limit
	for _, strat := range strategy.All {
		all = append(all, limit(t, "1000/min", strat))
	}
	for name, limits := range map[string][]strategy.Limit{
		"fixed_window": all[:1], "sliding_window_counter": all[1:2], "token_bucket": all[3:4],
		"leaky_bucket": all[4:5], "gcra": all[5:6], "three of them": {all[0], all[1], all[3]},
	} {
		s, set := newStore(t, Options{MaxKeys: 1000})
		requests, results := make([]store.Request, 1), make([]store.Result, 1)
		ids := make([]string, 3000) // three times what the store may hold: evictions do not allocate either
		for i := range ids {
			ids[i] = fmt.Sprint("user:", i)
		}
		n := 0
		decide := func() {
			set(strategy.Instant(n * 1000))
			requests[0] = store.Request{Namespace: "test", Identifier: ids[n%len(ids)], Limits: limits, Cost: 1}
			s.Decide(t.Context(), requests, results)
			n++
		}
		for range 2 * len(ids) {
			decide()
		}
		if allocs := testing.AllocsPerRun(2*len(ids), decide); allocs != 0 {
			t.Errorf("%s: a decision allocates %v times", name, allocs)
		}
	}
}

func TestExpiredCountersAreDropped(t *testing.T) {
	s, set := newStore(t, Options{Shards: 1})
	short, long := limit(t, "10/100ms", strategy.TokenBucket), limit(t, "10/h", strategy.SlidingWindowLog)
	for i := range 100 {
		ask(s, fmt.Sprint("short ", i), 1, short)
		ask(s, fmt.Sprint("long ", i), 1, long)
	}
	set(10_000) // 1 token of 10/100ms is back after 10 ms
	sh := &s.shards[0]
	for range 2 {
		sh.expire(sweepCounters, sweepCounters, nil, s.now())
	}
	if held(s) != 100 || sh.entries != 100*4 {
		t.Errorf("the store holds %d counters and room for %d log entries, want the 100 live ones and 400", held(s), sh.entries)
	}
	set(strategy.Instant(time.Hour / time.Microsecond))
	sh.expire(sweepCounters, sweepCounters, nil, s.now())
	if held(s) != 0 || sh.entries != 0 {
		t.Errorf("after an hour the store holds %d counters and room for %d log entries", held(s), sh.entries)
	}
}

// TestInsertsSweep adds new identifiers all the time. Expired counters must not take more
// than half of the room.
func TestInsertsSweep(t *testing.T) {
	s, set := newStore(t, Options{Shards: 1, MaxKeys: 2000})
	l := limit(t, "1/1ms", strategy.FixedWindow)
	for i := range 100_000 {
		set(strategy.Instant(i * 10)) // so 100 counters are live at any time
		ask(s, fmt.Sprint(i), 1, l)
	}
	if n := held(s); n > 1000 {
		t.Errorf("the store holds %d counters of which 100 are live", n)
	}
}

func TestEvictionTakesTheExpiredFirst(t *testing.T) {
	s, set := newStore(t, Options{MaxKeys: 16})
	long, short := limit(t, "10/h", strategy.FixedWindow), limit(t, "10/s", strategy.FixedWindow)
	for i := range 15 {
		ask(s, fmt.Sprint("live ", i), 1, long)
	}
	ask(s, "dead", 9, short)
	set(1_000_000)
	ask(s, "new", 1, long)
	for i := range 15 {
		if d := ask(s, fmt.Sprint("live ", i), 0, long); d.Statuses[0].Remaining != 9 {
			t.Errorf("live counter %d was evicted though another had expired", i)
		}
	}
	if sh := &s.shards[0]; sh.evicted != (evictions{}) {
		t.Error("dropping the expired counts as an eviction")
	}
}

func TestEvictionTakesTheLeastUsed(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 16})
	l := limit(t, "100/h", strategy.TokenBucket)
	for i := range 16 {
		ask(s, fmt.Sprint(i), uint64(20+i*37%16), l) // 20 to 35 used, in some order
	}
	ask(s, "new", 30, l)
	for i := range 16 {
		used := uint64(20 + i*37%16)
		if used == 20 {
			used = 0 // the victim
		}
		if d := ask(s, fmt.Sprint(i), 0, l); 100-d.Statuses[0].Remaining != used {
			t.Errorf("counter %d has used %d, want %d", i, 100-d.Statuses[0].Remaining, used)
		}
	}
}

// TestFloodDoesNotFreeTheDenied floods a store with many more new identifiers than it has
// room for. A denied identifier must stay denied.
func TestFloodDoesNotFreeTheDenied(t *testing.T) {
	for _, strat := range strategy.All {
		s, set := newStore(t, Options{MaxKeys: 1024, Shards: 1})
		strict, wide := limit(t, "5/h", strat), limit(t, "1000/h", strategy.FixedWindow)
		cost := uint64(strict.Capacity)
		for i := range 200 {
			ask(s, fmt.Sprint("denied ", i), cost, strict)
		}
		for i := range 20_000 {
			set(strategy.Instant(i))
			ask(s, fmt.Sprint("flood ", i), 1, wide)
		}
		for i := range 200 {
			if d := ask(s, fmt.Sprint("denied ", i), cost, strict); d.Allowed {
				t.Errorf("%s: identifier %d is allowed again after a flood", strat, i)
			}
		}
		if n := held(s); n > 1024 {
			t.Errorf("%s: the store holds %d counters, more than 1024", strat, n)
		}
	}
}

func TestWhenAllAreDeniedTheSoonestFreeGoes(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 16})
	for i := range 16 {
		ask(s, fmt.Sprint(i), 1, limit(t, fmt.Sprintf("1/%ds", 100+i*7%16), strategy.GCRA))
	}
	ask(s, "new", 1, limit(t, "1/s", strategy.GCRA))
	for i := range 16 {
		seconds := 100 + i*7%16
		d := ask(s, fmt.Sprint(i), 1, limit(t, fmt.Sprintf("1/%ds", seconds), strategy.GCRA))
		if victim := seconds == 100; d.Allowed != victim {
			t.Errorf("the counter that is free in %d s was evicted: %t", seconds, d.Allowed)
		}
		if d.Allowed {
			break // it is back, and has cost another its place
		}
	}
}

// TestTimeOpensTheShut checks that a counter whose denial has passed is evicted before one
// that denies at present.
func TestTimeOpensTheShut(t *testing.T) {
	s, set := newStore(t, Options{MaxKeys: 16})
	bucket := limit(t, "10/10s", strategy.TokenBucket)
	ask(s, "passed", 10, bucket)
	set(500_000)
	for i := range 15 {
		ask(s, fmt.Sprint(i), 10, bucket)
	}
	set(1_000_000) // "passed" has one token again, and is live
	ask(s, "new", 1, bucket)
	for i := range 15 {
		if d := ask(s, fmt.Sprint(i), 1, bucket); d.Allowed {
			t.Errorf("denied identifier %d was evicted", i)
		}
	}
}

// TestARequestKeepsItsOwnCounters fills a store with requests that need all its room.
func TestARequestKeepsItsOwnCounters(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 16})
	var limits []strategy.Limit
	for i := range 16 {
		limits = append(limits, limit(t, fmt.Sprintf("3/%dh", i+1), strategy.All[i%len(strategy.All)]))
	}
	for i := range 4 {
		d := ask(s, fmt.Sprint("caller ", i), 1, limits...)
		if !d.Allowed {
			t.Fatalf("%+v, want allowed", d)
		}
		for j, st := range ask(s, fmt.Sprint("caller ", i), 0, limits...).Statuses {
			if st.Remaining != st.Limit-1 {
				t.Errorf("caller %d, limit %d: %d of %d left", i, j, st.Remaining, st.Limit)
			}
		}
	}
	if held(s) > 16 {
		t.Errorf("the store holds %d counters, more than 16", held(s))
	}
}

// TestShutCountersThatTimeHasOpenedGoFirst has many counters that deny for a long time, and
// among them some that denied for a short time.
func TestShutCountersThatTimeHasOpenedGoFirst(t *testing.T) {
	s, set := newStore(t, Options{MaxKeys: 4000, Shards: 1})
	bucket := limit(t, "10/10s", strategy.TokenBucket)
	for i := range 4000 {
		if i%10 == 0 {
			set(0)
			ask(s, fmt.Sprint("opened ", i), 10, bucket)
		} else {
			set(1_500_000)
			ask(s, fmt.Sprint("denied ", i), 10, bucket)
		}
	}
	set(2_000_000)
	for i := range 400 {
		ask(s, fmt.Sprint("new ", i), 10, bucket)
	}
	for i := range 4000 {
		if i%10 == 0 {
			continue
		}
		if d := ask(s, fmt.Sprint("denied ", i), 0, bucket); d.Statuses[0].Remaining != 0 {
			t.Fatalf("identifier %d, which was denied, was evicted", i)
		}
	}
	want := evictions{forKeys: {wasUsed: {sameNamespace: 400}}}
	if got := s.shards[0].evicted; got != want {
		t.Errorf("evictions: %v, want %v", got, want)
	}
}

func TestLogsAreBounded(t *testing.T) {
	s, set := newStore(t, Options{MaxKeys: 1000, MaxLogCount: 200})
	log, strict := limit(t, "200/h", strategy.SlidingWindowLog), limit(t, "1/h", strategy.FixedWindow)
	for i := range 100 {
		ask(s, fmt.Sprint("denied ", i), 1, strict)
	}
	for i := range 20_000 {
		set(strategy.Instant(i))
		ask(s, fmt.Sprint(i%100), 1, log) // a hundred logs, which would grow to 256 entries each
		entries := 0
		for j := range s.shards {
			entries += s.shards[j].entries
		}
		if total := s.logEntries.Load(); total > s.maxLogEntries || total != int64(entries) {
			t.Fatalf("after %d requests the logs have room for %d entries, counted as %d; want at most %d", i+1, entries, total, s.maxLogEntries)
		}
	}
	for i := range 100 {
		if d := ask(s, fmt.Sprint("denied ", i), 1, strict); d.Allowed {
			t.Errorf("identifier %d, which was denied by a counter without a log, was evicted for logs", i)
		}
	}
}

// TestLargestRequestFits fills all logs that one request can have.
func TestLargestRequestFits(t *testing.T) {
	s, set := newStore(t, Options{MaxKeys: 16, MaxLogCount: 1000})
	var limits []strategy.Limit
	for i := range strategy.MaxLimits {
		l := limit(t, "1000/h", strategy.SlidingWindowLog)
		l.Name = fmt.Sprint(i)
		limits = append(limits, l)
	}
	for i := range 1100 {
		set(strategy.Instant(i))
		if d := ask(s, "alice", 1, limits...); d.Allowed != (i < 1000) {
			t.Fatalf("request %d: allowed %t", i, d.Allowed)
		}
	}
}

// TestAFullLogIsExact fills the largest log that the default options allow for one
// identifier, while other identifiers come and go.
func TestAFullLogIsExact(t *testing.T) {
	s, set := newStore(t, Options{})
	log, other := limit(t, "10000/h", strategy.SlidingWindowLog), limit(t, "1/h", strategy.FixedWindow)
	allowed := 0
	for i := range 30_000 {
		set(strategy.Instant(i))
		if d := ask(s, "alice", 1, log); d.Allowed {
			allowed++
		}
		ask(s, fmt.Sprint(i), 1, other)
	}
	if allowed != 10_000 {
		t.Errorf("%d requests got through a limit of 10000", allowed)
	}
}

// TestTableAgreesWithAMap compares the table with a map, through growth,
// removal and the opening and shutting of counters.
func TestTableAgreesWithAMap(t *testing.T) {
	type known struct {
		number uint32
		open   bool
		rank   int64
	}
	var tab table
	tab.init(600)
	owner := &namespace{name: "test"}
	want := map[key]known{}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 100_000 {
		// Few distinct low halves, so that probes collide and wrap around.
		k := key{hi: random.Uint64N(16), lo: random.Uint64N(512)}
		n, found := tab.find(k)
		w, held := want[k]
		if found != held || (held && (n != w.number || tab.at(n).isOpen() != w.open || tab.at(n).rank != w.rank)) {
			t.Fatalf("step %d: find(%v) = %d, %t; want %+v, %t", step, k, n, found, w, held)
		}
		rank := random.Int64N(1000)
		switch action := random.IntN(4); {
		case !found && len(want) < 600:
			want[k] = known{number: tab.insert(k, tab.join(owner, 7, false)), open: true}
		case found && action == 0:
			tab.remove(n)
			delete(want, k)
		case found && action == 1:
			tab.rankOpen(n, rank)
			want[k] = known{n, true, rank}
		case found:
			tab.rankShut(n, strategy.Instant(rank))
			want[k] = known{n, false, rank}
		}
		if step%1000 == 0 {
			checkRanking(t, &tab, len(want))
		}
		if step%100 == 0 {
			now := random.Int64N(100)
			soonest := int64(1 << 62)
			for k, w := range want {
				switch {
				case !w.open && w.rank <= now:
					want[k] = known{w.number, true, maxShare}
				case !w.open:
					soonest = min(soonest, w.rank)
				}
			}
			if len(want) == 0 {
				continue
			}
			first, ok := tab.groups[tab.holdings[0].groups[0]].firstShut(&tab.slab, strategy.Instant(now))
			if ok != (soonest < 1<<62) || (ok && tab.at(first).rank != soonest) {
				t.Fatalf("step %d: the first of the shut opens at %d, want %d", step, tab.at(first).rank, soonest)
			}
		}
	}
}

// checkRanking checks that each counter is at its position, and that the shut ones are a
// heap.
func checkRanking(t *testing.T, tab *table, held int) {
	t.Helper()
	if tab.held() != held {
		t.Fatalf("the table holds %d counters, want %d", tab.held(), held)
	}
	if held == 0 {
		return
	}
	group := &tab.groups[tab.holdings[0].groups[0]]
	for i, n := range group.open {
		if tab.at(n).position != uint32(i) {
			t.Fatalf("open counter %d is at %d and says %d", n, i, tab.at(n).position)
		}
	}
	for i, slot := range group.shut {
		if tab.at(slot.number).position != uint32(i)|shutBit || slot.opens > tab.at(slot.number).rank || group.shut[(i+1)/2-min(1, (i+1)/2)].opens > slot.opens {
			t.Fatalf("slot %d of the shut, %+v, is out of place", i, slot)
		}
	}
}

func TestContentionIsCounted(t *testing.T) {
	s, _ := newStore(t, Options{Shards: 1})
	sh := &s.shards[0]
	l := limit(t, "10/s", strategy.FixedWindow)
	var rounds uint64
	for sh.contended == 0 { // until the other goroutine has come while the lock was held
		rounds++
		asking := make(chan struct{})
		var waiting sync.WaitGroup
		sh.mu.Lock()
		waiting.Go(func() { close(asking); ask(s, "alice", 1, l) })
		<-asking
		for range 1000 {
			runtime.Gosched()
		}
		sh.mu.Unlock()
		waiting.Wait()
	}
	if sh.acquired != rounds || sh.contended != 1 || sh.waited <= 0 {
		t.Errorf("%d acquisitions, %d contended, %v waited; want %d, 1, and some", sh.acquired, sh.contended, sh.waited, rounds)
	}
	var waits uint64
	for _, n := range sh.waits {
		waits += n
	}
	if waits != 1 {
		t.Errorf("the histogram has %d waits, want 1", waits)
	}
}

func TestCollector(t *testing.T) {
	s, set := newStore(t, Options{MaxKeys: 16})
	set(1)
	l, log := limit(t, "2/h", strategy.FixedWindow), limit(t, "2/h", strategy.SlidingWindowLog)
	for i := range 20 {
		ask(s, fmt.Sprint(i), 1, l)
	}
	ask(s, "log", 1, log)
	want := `
# HELP ratelimitd_memory_evictions_total Live counters dropped to make room, by what was full (keys, logs), by what they were (open: used by less than half; used: by half or more; shut: denied, and so set free) and by whose new counter took the room (same or other namespace).
# TYPE ratelimitd_memory_evictions_total counter
ratelimitd_memory_evictions_total{cause="keys",pushed_by="other",state="open"} 0
ratelimitd_memory_evictions_total{cause="keys",pushed_by="other",state="shut"} 0
ratelimitd_memory_evictions_total{cause="keys",pushed_by="other",state="used"} 0
ratelimitd_memory_evictions_total{cause="keys",pushed_by="same",state="open"} 0
ratelimitd_memory_evictions_total{cause="keys",pushed_by="same",state="shut"} 0
ratelimitd_memory_evictions_total{cause="keys",pushed_by="same",state="used"} 5
ratelimitd_memory_evictions_total{cause="logs",pushed_by="other",state="open"} 0
ratelimitd_memory_evictions_total{cause="logs",pushed_by="other",state="shut"} 0
ratelimitd_memory_evictions_total{cause="logs",pushed_by="other",state="used"} 0
ratelimitd_memory_evictions_total{cause="logs",pushed_by="same",state="open"} 0
ratelimitd_memory_evictions_total{cause="logs",pushed_by="same",state="shut"} 0
ratelimitd_memory_evictions_total{cause="logs",pushed_by="same",state="used"} 0
# HELP ratelimitd_memory_keys Counters in memory. An expired counter counts until it is swept.
# TYPE ratelimitd_memory_keys gauge
ratelimitd_memory_keys 16
# HELP ratelimitd_memory_log_entries Room for entries of all sliding window logs in memory. An entry takes 16 bytes.
# TYPE ratelimitd_memory_log_entries gauge
ratelimitd_memory_log_entries 4
# HELP ratelimitd_memory_max_keys How many counters may be in memory before some are evicted.
# TYPE ratelimitd_memory_max_keys gauge
ratelimitd_memory_max_keys 16
# HELP ratelimitd_memory_shards Shards. Each has its own lock.
# TYPE ratelimitd_memory_shards gauge
ratelimitd_memory_shards 1
`
	if err := testutil.CollectAndCompare(s.Collector(), strings.NewReader(want),
		"ratelimitd_memory_evictions_total", "ratelimitd_memory_keys", "ratelimitd_memory_log_entries", "ratelimitd_memory_max_keys", "ratelimitd_memory_shards"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(s.Collector()); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestCloseTwice(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestTogetherRace has callers decide about overlapping identifiers together, in
// differing orders: none waits for ever, and the counters stay equal.
func TestTogetherRace(t *testing.T) {
	s, _ := newStore(t, Options{})
	l := limit(t, "500/h", strategy.FixedWindow)
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for racer := range 8 {
		wg.Go(func() {
			results := make([]store.Result, 1)
			for range 200 {
				requests := make([]store.Request, 3)
				for i := range requests {
					requests[i] = store.Request{Namespace: "test", Identifier: fmt.Sprint((racer + i) % 3), Limits: []strategy.Limit{l}, Cost: 1}
				}
				requests[0].With = requests[1:]
				s.Decide(t.Context(), requests[:1], results)
				if results[0].Allowed && results[0].With[0].Allowed && results[0].With[1].Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 500 {
		t.Errorf("%d were allowed, want 500", allowed.Load())
	}
}

// TestBatchesRace decides batches, which look ahead at counters, while other goroutines add
// and evict counters and consume from them. A denied caller must stay denied.
func TestBatchesRace(t *testing.T) {
	s, _ := newStore(t, Options{MaxKeys: 600, Shards: 2})
	hot, others := []strategy.Limit{limit(t, "1/h", strategy.FixedWindow)}, []strategy.Limit{limit(t, "100/h", strategy.SlidingWindowLog)}
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for racer := range uint64(4) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(racer, 0))
			requests, results := make([]store.Request, 50), make([]store.Result, 50)
			for range 300 {
				for i := range requests {
					requests[i] = store.Request{Namespace: "test", Identifier: fmt.Sprint(random.IntN(2000)), Limits: others, Cost: 1}
				}
				hottest := random.IntN(len(requests))
				requests[hottest].Identifier, requests[hottest].Limits = "hot", hot
				s.Decide(t.Context(), requests, results)
				if results[hottest].Allowed {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 1 {
		t.Errorf("%d were allowed, want 1", allowed.Load())
	}
	if held(s) > 600 {
		t.Errorf("the store holds %d counters, want at most 600", held(s))
	}
}
