package redis

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	goredis "github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/store/storetest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

func TestMain(m *testing.M) {
	if storetest.Race(func(url string) (store.Store, error) { return New(Options{URLs: []string{url}, Timeout: patient}) }) {
		return
	}
	// Toxiproxy, now and then, leaves a goroutine of a connection that it has ended.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*NoopToxic).Pipe"))
}

// patient is longer than any call takes on a loaded machine.
const patient = 10 * time.Second

// open returns a store on server that uses the clock of that server.
func open(tb testing.TB, server *redistest.Server) *Store {
	tb.Helper()
	s := openWith(tb, Options{URLs: []string{server.URL}})
	settle(tb, s)
	return s
}

// settle has s connect, and waits until it knows that one server owns all keys.
func settle(tb testing.TB, s *Store) {
	tb.Helper()
	redistest.Eventually(tb, "the server is found to own all keys", func() error {
		if err := s.Health(tb.Context()); err != nil {
			return err
		}
		s.owner.mu.Lock()
		defer s.owner.mu.Unlock()
		if s.owner.looks || !s.pipes.shares() {
			return errors.New(s.owner.said)
		}
		return nil
	})
}

// looksEnded reports an error while s looks who owns the keys.
func looksEnded(s *Store) error {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	if s.owner.looks {
		return errors.New("it looks who owns the keys")
	}
	return nil
}

// openWith returns a store with options. If they have no timeout, it is patient.
func openWith(tb testing.TB, o Options) *Store {
	tb.Helper()
	if o.Timeout == 0 {
		o.Timeout = patient
	}
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	s.owner.every = time.Millisecond
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// testClock makes the script read its time from a key. It keeps counters even if little of that
// time passes.
const testClock = `local now, slack = tonumber(redis.call('GET', 'test:now')), 3600000
`

func TestConformance(t *testing.T) {
	t.Parallel() // with tests that mostly wait
	server := redistest.Start(t)
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		client := server.Client(t)
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		s := open(t, server)
		s.pipes.script = newScript(testClock)
		return storetest.Subject{Store: s, Set: func(now strategy.Instant) {
			if err := client.Set(t.Context(), "test:now", int64(now), 0).Err(); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

// TestMuldiv compares the script's arithmetic with big integers.
func TestMuldiv(t *testing.T) {
	client := redistest.Start(t).Client(t)
	_, muldiv, _ := strings.Cut(decideBody, "local function rare()\n")
	muldiv, _, _ = strings.Cut(muldiv, "-- trouble_with returns")
	script := goredis.NewScript(muldiv + `
		local q, r = muldiv(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
		return {string.format('%.0f', q), string.format('%.0f', r)}`)
	number := func(bits int) *rapid.Generator[int64] { // of any length up to bits
		return rapid.Custom(func(rt *rapid.T) int64 {
			return rapid.Int64Range(0, 1<<rapid.IntRange(0, bits).Draw(rt, "bits")-1).Draw(rt, "number")
		})
	}
	exact := new(big.Int).Lsh(big.NewInt(1), 53)
	rapid.Check(t, func(rt *rapid.T) {
		for range 20 {
			a, n := number(52).Draw(rt, "a"), number(44).Draw(rt, "n")
			p := 1 + number(44).Draw(rt, "p")
			c := number(44).Draw(rt, "c") % p
			reply, err := script.Run(t.Context(), client, nil, a, n, c, p).StringSlice()
			if err != nil {
				rt.Fatal(err)
			}
			x := new(big.Int).Mul(big.NewInt(a), big.NewInt(n))
			q, r := x.Add(x, big.NewInt(c)).QuoRem(x, big.NewInt(p), new(big.Int))
			if q.Cmp(exact) >= 0 {
				if got, _ := new(big.Int).SetString(reply[0], 10); got.Cmp(big.NewInt(strategy.MaxUnits)) <= 0 {
					rt.Fatalf("(%d x %d + %d) / %d = %s, want more than any level", a, n, c, p, reply[0])
				}
			} else if reply[0] != q.String() || reply[1] != r.String() {
				rt.Fatalf("(%d x %d + %d) / %d = %s rest %s, want %d rest %d", a, n, c, p, reply[0], reply[1], q, r)
			}
		}
	})
}

// TestLogsAreTrimmed checks that a sliding window log has at most twice the entries of its
// window.
func TestLogsAreTrimmed(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	s.pipes.script = newScript(testClock)
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1000/100ms", Strategy: strategy.SlidingWindowLog}), Cost: 1}
	for i := range 2000 {
		client.Set(t.Context(), "test:now", 1_000_000+i*1000, 0) // 100 entries are in the window
		if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
			t.Fatalf("%+v", res)
		}
		length, err := client.StrLen(t.Context(), counterKey(r.Namespace, r.Identifier, &r.Limits[0])).Result()
		if err != nil || length > 16*210 {
			t.Fatalf("after %d requests the log has %d bytes, %v; want at most 210 entries of 16", i+1, length, err)
		}
	}
}

// TestNamedNumbers has a counter whose name stands for its period, which is a number then, and a limit
// of the same name with another period: both read what the other writes.
func TestNamedNumbers(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	s.pipes.script = newScript(testClock)
	client.Set(t.Context(), "test:now", 1_800_000_000_000_000, 0)
	ls := limits(t, strategy.Spec{Rate: "10/h", Name: "hour"}, strategy.Spec{Rate: "10/day", Name: "hour"}, strategy.Spec{Rate: "2000000/h", Name: "hour"})
	ls[0].NamesPeriod, ls[2].NamesPeriod = true, true
	for i, of := range []struct {
		limit     int
		cost      uint64
		remaining uint64
		size      int64
	}{
		{limit: 0, cost: 4, remaining: 6, size: 16},
		{limit: 1, cost: 7, remaining: 6, size: 16}, // denied
		{limit: 1, cost: 1, remaining: 5, size: 28},
		{limit: 0, cost: 6, remaining: 5, size: 28}, // denied
		{limit: 0, cost: 2, remaining: 3, size: 16},
		{limit: 2, cost: 1_500_000, remaining: 499_993, size: 28},
		{limit: 2, cost: 1, remaining: 499_992, size: 28},
		{limit: 0, cost: 1, remaining: 0, size: 28}, // denied
	} {
		r := store.Request{Namespace: "test", Identifier: "alice", Limits: ls[of.limit : of.limit+1], Cost: of.cost}
		if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != of.remaining {
			t.Errorf("step %d: %+v, want %d left", i, res, of.remaining)
		}
		if n := client.StrLen(t.Context(), "rl:{test:alice}fw:hour").Val(); n != of.size {
			t.Errorf("step %d: the value has %d bytes, want %d", i, n, of.size)
		}
	}
}

// decide asks s for one decision.
func decide(ctx context.Context, s store.Store, r store.Request) store.Result {
	results := make([]store.Result, 1)
	s.Decide(ctx, []store.Request{r}, results)
	return results[0]
}

func limits(tb testing.TB, specs ...strategy.Spec) []strategy.Limit {
	tb.Helper()
	var ls []strategy.Limit
	for _, spec := range specs {
		ls = append(ls, storetest.Limit(tb, spec))
	}
	return ls
}

// oneOfEach is a limit of each strategy.
var oneOfEach = []strategy.Spec{
	{Rate: "100/h"},
	{Rate: "100/h", Strategy: strategy.SlidingWindowCounter},
	{Rate: "100/h", Strategy: strategy.SlidingWindowLog},
	{Rate: "100/h", Strategy: strategy.TokenBucket, Burst: 20, Name: "burst"},
	{Rate: "100/h", Strategy: strategy.LeakyBucket},
	{Rate: "100/h", Strategy: strategy.GCRA},
}

func TestKeys(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	r := store.Request{Namespace: "check:out", Identifier: "user:{42} é", Limits: limits(t, oneOfEach...), Cost: 1}
	if res := decide(t.Context(), s, r); res.Err != nil || !res.Allowed {
		t.Fatalf("%+v", res)
	}
	prefix := "rl:{check%3Aout:user:%7B42%7D%20%C3%A9}"
	ttl := map[string]time.Duration{ // the longest until the counter is unused
		prefix + "100/1h":     time.Hour,
		prefix + "sc100/1h":   2 * time.Hour,
		prefix + "sl100/1h":   time.Hour,
		prefix + "tb:burst":   2 * 36 * time.Second, // see the script
		prefix + "lb100/1h":   2 * 36 * time.Second,
		prefix + "gc100/1h:1": 2 * 36 * time.Second,
	}
	keys, err := client.Keys(t.Context(), "rl:{check*").Result() // without those of Health
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != len(ttl) {
		t.Errorf("keys %q, want those of %v", keys, ttl)
	}
	for _, key := range keys {
		left, err := client.PTTL(t.Context(), key).Result()
		if most, ok := ttl[key]; !ok || err != nil || left > most+time.Second+2*time.Millisecond || left < 0 {
			t.Errorf("key %s expires in %v, %v; want at most %v", key, left, err, most)
		}
	}
}

// TestKeyPrefix has two services on one server, of which one has a prefix.
func TestKeyPrefix(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	r := store.Request{Namespace: "n", Identifier: "i", Limits: limits(t, strategy.Spec{Rate: "1/h"}), Cost: 1}
	for _, prefix := range []string{"", "staging:", "rl:"} {
		s := openWith(t, Options{URLs: []string{server.URL}, KeyPrefix: prefix})
		settle(t, s)
		if first, second := decide(t.Context(), s, r), decide(t.Context(), s, r); !first.Allowed || second.Allowed {
			t.Errorf("%q: %+v, %+v", prefix, first, second)
		}
		if n := client.Exists(t.Context(), prefix+"rl:{n:i}1/1h").Val(); n != 1 {
			t.Errorf("%q: the key is not there", prefix)
		}
		if err := s.Reset(t.Context(), &r); err != nil {
			t.Error(err)
		}
		if n := client.Exists(t.Context(), prefix+"rl:{n:i}1/1h").Val(); n != 0 {
			t.Errorf("%q: after a reset the key is there", prefix)
		}
		if res := decide(t.Context(), s, r); !res.Allowed {
			t.Errorf("%q: after a reset: %+v", prefix, res)
		}
		client.FlushAll(t.Context())
	}
	for _, prefix := range []string{"a{", "}", "a b", "a%", "\n", "é", strings.Repeat("a", 65)} {
		if err := (Options{KeyPrefix: prefix}).Check(); err == nil || !strings.Contains(err.Error(), "staging:") {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

// TestCounterKeys checks the keys of counters. If they change, the counters in running servers
// are lost.
func TestCounterKeys(t *testing.T) {
	for _, tt := range []struct {
		spec strategy.Spec
		want string
	}{
		{strategy.Spec{Rate: "100/min"}, "rl:{n:i}100/1m"},
		{strategy.Spec{Rate: "100/min", Strategy: strategy.TokenBucket, Burst: 100}, "rl:{n:i}tb100/1m"},
		{strategy.Spec{Rate: "100/min", Strategy: strategy.TokenBucket, Burst: 20}, "rl:{n:i}tb100/1m:20"},
		{strategy.Spec{Rate: "100/min", Strategy: strategy.GCRA}, "rl:{n:i}gc100/1m:1"},
		{strategy.Spec{Rate: "0/min", Strategy: strategy.GCRA}, "rl:{n:i}gc0/1m"},
		{strategy.Spec{Rate: "100/min", Strategy: strategy.GCRA, Name: "a:{b} é"}, "rl:{n:i}gc:a%3A%7Bb%7D%20%C3%A9"},
	} {
		ls := limits(t, tt.spec)
		if got := counterKey("n", "i", &ls[0]); got != tt.want {
			t.Errorf("%+v: got %s, want %s", tt.spec, got, tt.want)
		}
		buf := make([]byte, 0, 128)
		if n := testing.AllocsPerRun(100, func() { buf = appendCounterKey(buf[:0], "n", "i", &ls[0]) }); n != 0 {
			t.Errorf("%+v: %v allocations", tt.spec, n)
		}
	}
}

// TestCommands counts the commands that a server gets. There must be at most one per decision,
// whatever the number of limits. Decisions that are asked for together share a command, up
// to maxTogether keys.
func TestCommands(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, oneOfEach...), Cost: 1}
	decide(t.Context(), s, r) // loads the script
	if err := client.ConfigResetStat(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if res := decide(t.Context(), s, r); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	results := make([]store.Result, 7)
	s.Decide(t.Context(), []store.Request{r, r, r, r, r, r, r}, results) // of 6 keys each: as 2, 2, 2 and 1
	for i, res := range results {
		if res.Err != nil {
			t.Errorf("decision %d of seven: %v", i, res.Err)
		}
	}
	if err := s.Reset(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
	if calls := commandCalls(t, client); calls["evalsha"] != 54 || calls["eval"] != 0 || calls["script|load"] != 0 || calls["del"] != 1 {
		t.Errorf("57 decisions and a reset cost these commands: %v", calls)
	}
}

// commandCalls returns how often the server ran each command.
func commandCalls(t *testing.T, client *goredis.Client) map[string]int {
	t.Helper()
	info, err := client.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]int{}
	for line := range strings.Lines(info) {
		var n int
		if name, rest, ok := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":"); ok && strings.HasPrefix(line, "cmdstat_") {
			if _, err := fmt.Sscanf(rest, "calls=%d,", &n); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			calls[name] = n
		}
	}
	return calls
}

func TestScriptIsLoadedAgain(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	if err := client.ConfigResetStat(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "100/h"}), Cost: 1}
	for i := range 5 {
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		results := make([]store.Result, 3)
		s.Decide(t.Context(), []store.Request{r, r, r}, results)
		for j, res := range results {
			if want := uint64(100 - 3*i - j - 1); res.Err != nil || res.Statuses[0].Remaining != want {
				t.Errorf("after flush %d, decision %d: %+v, want %d left", i, j, res, want)
			}
		}
	}
	if calls := commandCalls(t, client); calls["eval"] != 5 {
		t.Errorf("5 times the script had to be sent, and it was %d times", calls["eval"])
	}
}

// TestServerClockDecides uses real time, because it tests the server's clock.
func TestServerClockDecides(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, server)
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "1/100ms", Strategy: strategy.GCRA}), Cost: 1}
	start := time.Now()
	for range 5 {
		res := decide(t.Context(), s, r)
		if res.Allowed || res.Err != nil {
			continue // the first, or the machine was slow
		}
		if res.RetryAfter <= 0 || res.RetryAfter > 100*time.Millisecond {
			t.Fatalf("retry after %v, want up to 100 ms", res.RetryAfter)
		}
		time.Sleep(res.RetryAfter)
		if again := decide(t.Context(), s, r); !again.Allowed {
			t.Fatalf("denied for another %v after a wait of %v", again.RetryAfter, res.RetryAfter)
		}
	}
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("5 requests at 1/100ms took %v, want at least 400 ms", took)
	}
}

func TestCountersExpire(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	var specs []strategy.Spec
	for _, strat := range strategy.All {
		specs = append(specs, strategy.Spec{Rate: "5/20ms", Strategy: strat})
	}
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, specs...), Cost: 1}
	if res := decide(t.Context(), s, r); !res.Allowed {
		t.Fatalf("%+v", res)
	}
	for deadline := time.Now().Add(patient); ; time.Sleep(5 * time.Millisecond) {
		keys, err := client.Keys(t.Context(), "*").Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v these are left: %q", patient, keys)
		}
	}
}

// TestEveryKeyExpires consumes from limits of all strategies, in every possible way.
func TestEveryKeyExpires(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	ls := limits(t, oneOfEach...)
	var requests []store.Request
	for i := range 300 {
		r := store.Request{
			Namespace: "test", Identifier: strconv.Itoa(i % 3), Limits: slices.Clone(ls[i%4 : i%4+3]),
			Cost: uint64(i % 4), DryRun: i%11 == 0,
		}
		r.Limits[0].Shadow = i%7 == 0
		requests = append(requests, r)
	}
	results := make([]store.Result, len(requests))
	s.Decide(t.Context(), requests, results)
	for i, res := range results {
		if res.Err != nil {
			t.Errorf("request %d: %v", i, res.Err)
		}
	}
	keys, err := client.Keys(t.Context(), "rl:{test:*").Result()
	if want := 3 * len(ls); err != nil || len(keys) > want || len(keys) < want/2 { // some may be unused again
		t.Errorf("%d keys, %v, want up to %d: %q", len(keys), err, want, keys)
	}
	for _, key := range keys {
		if left, err := client.PTTL(t.Context(), key).Result(); err != nil || left == -1 {
			t.Errorf("key %s never expires: %v, %v", key, left, err)
		}
	}
}

func TestForeignValues(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "5/h"}), Cost: 1}
	key := counterKey(r.Namespace, r.Identifier, &r.Limits[0])

	for _, foreign := range []string{"not a state", "", "as long as a state: 28 bytes", "1234567890123456789012345678", strings.Repeat("\xff", 28)} {
		client.Set(t.Context(), key, foreign, 0)
		if res := decide(t.Context(), s, r); !errors.Is(res.Err, store.ErrCounters) || !errors.Is(res.Err, errDamaged) {
			t.Errorf("over %q: %+v, want an error that says so, and of the counters alone", foreign, res)
		}
		if res := decide(t.Context(), s, r); res.Err != nil || res.Statuses[0].Remaining != 4 {
			t.Errorf("after %q: %+v, want a counter that starts again", foreign, res)
		}
	}
	client.Del(t.Context(), key)
	client.LPush(t.Context(), key, "not a state")
	if res := decide(t.Context(), s, r); !errors.Is(res.Err, store.ErrCounters) || !strings.Contains(res.Err.Error(), "WRONGTYPE") {
		t.Errorf("over a foreign list: %+v, want an error that says WRONGTYPE, and of the counters alone", res)
	}
}

// TestForeignValuesAmongOthers has a key with a foreign value among the keys of one command. The
// decisions about the other keys must not be disturbed.
func TestForeignValuesAmongOthers(t *testing.T) {
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	for _, spec := range []strategy.Spec{{Rate: "5/h"}, {Rate: "5/h", Strategy: strategy.SlidingWindowLog}, {Rate: "5/h", Name: "named"}, {Rate: "5/h", Burst: 5, Strategy: strategy.TokenBucket}} {
		second := strategy.Spec{Rate: "7/min"}
		if spec.Name != "" || spec.Strategy == strategy.TokenBucket { // so that the run is of states alone
			second.Name = "second"
		}
		requests, results := make([]store.Request, 9), make([]store.Result, 9)
		for i := range requests {
			requests[i] = store.Request{Namespace: "test", Identifier: fmt.Sprint(i), Limits: limits(t, spec, second), Cost: 1}
		}
		const of = 4
		client.LPush(t.Context(), counterKey("test", fmt.Sprint(of), &requests[of].Limits[0]), "not a state")
		s.Decide(t.Context(), requests, results)
		for i, res := range results {
			if i == of && (!errors.Is(res.Err, store.ErrCounters) || !strings.Contains(res.Err.Error(), "WRONGTYPE")) {
				t.Errorf("%+v: %+v, want an error that says WRONGTYPE", spec, res)
			}
			if i != of && (res.Err != nil || res.Statuses[0].Remaining != 4) {
				t.Errorf("%+v, beside that key: %+v", spec, res)
			}
		}
		if n := client.Exists(t.Context(), counterKey("test", fmt.Sprint(of), &requests[of].Limits[1])).Val(); n != 0 {
			t.Errorf("%+v: the request that failed has consumed from its other limit", spec)
		}
		client.FlushAll(t.Context())
	}
}

// TestErrors asks a server that is not there, and one that does not answer.
func TestErrors(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()

	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "5/h"}), Cost: 1}
	for name, addr := range map[string]string{"silent": silent.Addr().String(), "closed": closed.Addr().String()} {
		s, err := New(Options{URLs: []string{"redis://" + addr}, Timeout: 50 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		res := decide(t.Context(), s, r)
		if res.Err == nil || time.Since(start) > patient {
			t.Errorf("%s: %+v after %v, want an error soon", name, res, time.Since(start))
		}
		if err := s.Reset(t.Context(), &r); err == nil {
			t.Errorf("%s: Reset succeeds", name)
		}
		if err := s.Health(t.Context()); err == nil {
			t.Errorf("%s: Health reports nothing", name)
		}
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("%s: Close: %v", name, err)
			}
		}
	}
}

func TestHealth(t *testing.T) {
	if err := open(t, redistest.Start(t)).Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestProcessesShareCounters(t *testing.T) { storetest.RaceProcesses(t, redistest.Start(t).URL) }

// BenchmarkDecide measures decisions one at a time and many at once, and a PING: every store
// needs at least that round trip.
func BenchmarkDecide(b *testing.B) {
	server := redistest.Start(b)
	s, client := open(b, server), server.Client(b)
	b.Run("ping", func(b *testing.B) {
		for b.Loop() {
			if err := client.Ping(b.Context()).Err(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, spec := range oneOfEach {
		spec.Rate = "1000/min"
		r := store.Request{Namespace: "bench", Identifier: "alice", Limits: limits(b, spec), Cost: 1}
		b.Run(spec.Strategy.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if res := decide(b.Context(), s, r); res.Err != nil {
					b.Fatal(res.Err)
				}
			}
		})
	}
	b.Run("batch_of_100", func(b *testing.B) {
		requests, results := make([]store.Request, 100), make([]store.Result, 100)
		for i := range requests {
			requests[i] = store.Request{Namespace: "bench", Identifier: strconv.Itoa(i), Limits: limits(b, oneOfEach[3]), Cost: 1}
		}
		for b.Loop() {
			s.Decide(b.Context(), requests, results)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(requests)), "ns/decision")
	})
}

// TestMetrics checks the metrics after known calls.
func TestMetrics(t *testing.T) {
	s := open(t, redistest.Start(t))
	r := store.Request{Namespace: "test", Identifier: "alice", Limits: limits(t, strategy.Spec{Rate: "9/h"}), Cost: 1}
	decide(t.Context(), s, r) // sends the script too, as Redis does not know it
	before, decisions := s.pipes.pipelines.Load(), s.pipes.questions.Load()
	s.Decide(t.Context(), []store.Request{r, r, r}, make([]store.Result, 3))
	if p, d := s.pipes.pipelines.Load()-before, s.pipes.questions.Load()-decisions; p != 1 || d != 3 {
		t.Errorf("3 requests of one call are counted as %d decisions in %d round trips", d, p)
	}
	if err := testutil.CollectAndCompare(s.Collector(), strings.NewReader(`# HELP ratelimitd_redis_pool_timeouts_total Round trips that got no connection in time, because all were in use.
# TYPE ratelimitd_redis_pool_timeouts_total counter
ratelimitd_redis_pool_timeouts_total 0
# HELP ratelimitd_redis_waiting Calls that wait for the next round trip.
# TYPE ratelimitd_redis_waiting gauge
ratelimitd_redis_waiting 0
`), "ratelimitd_redis_pool_timeouts_total", "ratelimitd_redis_waiting"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(s.Collector()); n != 10 {
		t.Errorf("%d metrics", n)
	}
}

// TestStateFromTheFuture has the server's own clock, and states that one ten years ahead has
// left, as they do not expire for ten years. A decision that is denied brings them back.
func TestStateFromTheFuture(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s, client := open(t, server), server.Client(t)
	ahead := float64(time.Now().AddDate(10, 0, 0).UnixMicro())
	pack := func(numbers ...float64) (b []byte) {
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(n))
		}
		return b
	}
	const period = 30 * 24 * time.Hour // so long that no window ends within this test
	for _, spec := range oneOfEach {
		spec.Rate, spec.Burst = "2/30d", 0
		if spec.Strategy == strategy.GCRA {
			spec.Burst = 2
		}
		r := store.Request{Namespace: "future", Identifier: spec.Strategy.String(), Limits: limits(t, spec), Cost: 2}
		key, value := counterKey(r.Namespace, r.Identifier, &r.Limits[0]), append(pack(ahead, 2, 0), 0, 0, 0, 0)
		if spec.Strategy == strategy.SlidingWindowLog {
			value = pack(0, 0, ahead-1, 1, ahead, 2)
		}
		if err := client.Set(t.Context(), key, value, 10*366*24*time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
		res := decide(t.Context(), s, r)
		if res.Err != nil || res.Allowed || res.RetryAfter <= 0 || res.RetryAfter > 2*period {
			t.Errorf("%s: %+v, want denied for two periods at most", spec.Strategy, res)
		}
		if ttl := client.PTTL(t.Context(), key).Val(); ttl <= 0 || ttl > 4*period+time.Second { // twice what a bucket needs
			t.Errorf("%s: the key lives for %v", spec.Strategy, ttl)
		}
		time.Sleep(2 * time.Millisecond) // of the server's clock
		if again := decide(t.Context(), s, r); again.Allowed || again.RetryAfter >= res.RetryAfter {
			t.Errorf("%s: %+v, and then %+v: time stands still", spec.Strategy, res, again)
		}
	}
}
