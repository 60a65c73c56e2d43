package redis

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/lograte"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// nasty are numbers that no counter should have, among some that it may.
func nasty(random *rand.Rand) float64 {
	now := float64(time.Now().UnixMicro())
	all := []float64{
		0, 1, -1, 0.5, -0.5, 2, 4, 5, 1e9, 1 << 30, 1 << 32, 1 << 44, 1 << 45, 1 << 53, 1 << 55, 1e300, -1e300, 5e-324,
		math.NaN(), math.Inf(1), math.Inf(-1), math.Copysign(0, -1), math.MaxFloat64, now, -now, now + 0.5, now + 1e6, now - 1e6, now * 2,
	}
	if random.IntN(4) == 0 {
		return math.Float64frombits(random.Uint64())
	}
	return all[random.IntN(len(all))]
}

// craft writes something to a key that no counter is.
func craft(t *testing.T, client *goredis.Client, key string, random *rand.Rand) {
	t.Helper()
	var value []byte
	switch random.IntN(6) {
	case 0:
		if err := client.Del(t.Context(), key).Err(); err != nil {
			t.Fatal(err)
		}
		err := []func() error{
			func() error { return client.RPush(t.Context(), key, "a").Err() },
			func() error { return client.HSet(t.Context(), key, "a", "b").Err() },
			func() error { return client.ZAdd(t.Context(), key, goredis.Z{Score: 1, Member: "a"}).Err() },
			func() error {
				return client.XAdd(t.Context(), &goredis.XAddArgs{Stream: key, Values: []string{"a", "b"}}).Err()
			},
		}[random.IntN(4)]()
		if err != nil {
			t.Fatal(err)
		}
		return
	case 1: // any bytes
		value = make([]byte, random.IntN(80))
		for i := range value {
			value[i] = byte(random.Uint32())
		}
	case 2: // a state
		for range 3 {
			value = binary.BigEndian.AppendUint64(value, math.Float64bits(nasty(random)))
		}
		value = binary.BigEndian.AppendUint32(value, random.Uint32())
	default: // a log, torn or whole
		for range 2 * random.IntN(200) {
			value = binary.BigEndian.AppendUint64(value, math.Float64bits(nasty(random)))
		}
		value = value[:len(value)-min(len(value), random.IntN(2)*random.IntN(16))]
	}
	if err := client.Set(t.Context(), key, value, 0).Err(); err != nil {
		t.Fatal(err)
	}
}

// TestCraftedValues has somebody write values of all kinds to the counter of one of nine
// requests that share a script. The others are decided, and charged, as if there were no
// such value.
func TestCraftedValues(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	var log logText
	s := openWith(t, Options{URLs: []string{server.URL}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	settle(t, s)
	const rounds, victim = 600, 4
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not for secrets
	start, failed, charged := time.Now(), 0, make([]uint64, 9)
	specs := make([]strategy.Spec, 9)
	for i := range specs {
		specs[i] = oneOfEach[i%len(oneOfEach)]
		specs[i].Rate, specs[i].Burst = "1000000/366d", 0
		if specs[i].Strategy == strategy.GCRA {
			specs[i].Burst = 1_000_000
		}
		if specs[i].Strategy == strategy.SlidingWindowLog {
			specs[i].Rate = "1000/366d"
		}
	}
	for round := range rounds {
		requests, results := make([]store.Request, 9), make([]store.Result, 9)
		for i := range requests {
			requests[i] = store.Request{Namespace: "test", Identifier: fmt.Sprint(i), Limits: limits(t, specs[i]), Cost: 1}
		}
		requests[victim].Limits = limits(t, oneOfEach[round%len(oneOfEach)], strategy.Spec{Rate: "7/min"})
		key := counterKey("test", fmt.Sprint(victim), &requests[victim].Limits[0])
		craft(t, client, key, random)
		s.Decide(t.Context(), requests, results)
		for i, res := range results {
			if i == victim {
				if res.Err != nil {
					failed++
				}
				if res.Err != nil && !errors.Is(res.Err, store.ErrCounters) {
					t.Fatalf("seed %d, round %d: the request itself: %v", seed, round, res.Err)
				}
				continue
			}
			charged[i]++
			if res.Err != nil || !res.Allowed || res.Statuses[0].Limit-res.Statuses[0].Remaining != charged[i] {
				t.Fatalf("seed %d, round %d: beside a crafted value, request %d: %+v, want %d units charged", seed, round, i, res, charged[i])
			}
		}
		foreign := errors.Is(results[victim].Err, errForeign)
		if res := decide(t.Context(), s, requests[victim]); (res.Err != nil) != foreign && !strings.Contains(fmt.Sprint(results[victim].Err, res.Err), "disagree") {
			t.Fatalf("seed %d, round %d: after %v: %+v", seed, round, results[victim].Err, res)
		}
		if err := client.Del(t.Context(), key).Err(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d of %d crafted values failed their own request; %d foreign, %d corrupt", failed, rounds, s.foreign.Load(), s.damaged.Load())
	most := 1 + int(time.Since(start)/lograte.Every)
	if lines := strings.Count(log.String(), "holds what this program did not write"); lines < 1 || lines > most || s.foreign.Load() == 0 || s.damaged.Load() == 0 {
		t.Errorf("%d lines in the log, %d foreign and %d corrupt values counted", lines, s.foreign.Load(), s.damaged.Load())
	}
}

// TestHugeLog has a log of 512 MB, to which Redis appends nothing more.
func TestHugeLog(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	s := open(t, server)
	requests, results := make([]store.Request, 3), make([]store.Result, 3)
	for i := range requests {
		requests[i] = store.Request{Namespace: "test", Identifier: fmt.Sprint(i), Limits: limits(t, strategy.Spec{Rate: "5/h", Strategy: strategy.SlidingWindowLog}), Cost: 1}
	}
	if err := client.SetRange(t.Context(), counterKey("test", "1", &requests[1].Limits[0]), 512<<20-1, "\x00").Err(); err != nil {
		t.Fatal(err)
	}
	s.Decide(t.Context(), requests, results)
	if results[0].Err != nil || results[2].Err != nil || !errors.Is(results[1].Err, errDamaged) {
		t.Errorf("%+v", results)
	}
}
