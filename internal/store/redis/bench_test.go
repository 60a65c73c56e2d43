package redis

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// BenchmarkPipelining lets many callers decide at the same time, each with one token bucket.
// It compares the store's pipelines, one round trip per decision, and the client's own
// autopipelining. It also reports the processor time per decision, here and in Redis.
func BenchmarkPipelining(b *testing.B) {
	server := redistest.Start(b)
	s, client := open(b, server), server.Client(b)
	auto, err := s.client.AutoPipeline()
	if err != nil {
		b.Fatal(err)
	}
	defer auto.Close()
	alone := func(c goredis.UniversalClient) func(context.Context, []store.Request, []store.Result) {
		return func(ctx context.Context, requests []store.Request, results []store.Result) {
			ctx, cancel := context.WithTimeout(ctx, s.timeout)
			defer cancel()
			call := s.newExchange(&requests[0], &results[0])
			questions, answers := []question{call.question}, make([]reply, 1)
			command := s.pipes.script.command(ctx, questions, false, false)
			replies(command, c.Process(ctx, command), questions, answers)
			call.reply = &answers[0]
			call.decide()
		}
	}
	for _, by := range []struct {
		name   string
		decide func(context.Context, []store.Request, []store.Result)
	}{{"store", s.Decide}, {"alone", alone(s.client)}, {"autopipeline", alone(auto)}} {
		for _, callers := range []int{1, 16, 128} {
			b.Run(fmt.Sprintf("%s/callers=%d", by.name, callers), func(b *testing.B) {
				requests := make([]store.Request, 1000)
				for i := range requests {
					requests[i] = store.Request{
						Namespace: "bench", Identifier: strconv.Itoa(i), Cost: 1,
						Limits: limits(b, strategy.Spec{Rate: "1000/s", Strategy: strategy.TokenBucket}),
					}
				}
				s.Decide(b.Context(), requests, make([]store.Result, len(requests))) // loads the script, and connects
				here, there := ownCPU(b), redisCPU(b, client)
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range callers {
					wg.Go(func() {
						results := make([]store.Result, 1)
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							at := i % 1000
							by.decide(b.Context(), requests[at:at+1], results)
							if results[0].Err != nil {
								b.Error(results[0].Err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				n := float64(b.N)
				b.ReportMetric(n/b.Elapsed().Seconds(), "decisions/s")
				b.ReportMetric(float64((ownCPU(b)-here).Nanoseconds())/n/1000, "cpu-µs")
				b.ReportMetric(float64((redisCPU(b, client)-there).Nanoseconds())/n/1000, "redis-cpu-µs")
			})
		}
	}
}

// ownCPU returns how much processor time this process has used.
func ownCPU(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// redisCPU returns the same of a server.
func redisCPU(b *testing.B, client *goredis.Client) time.Duration {
	info, err := client.InfoMap(b.Context(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	var busy time.Duration
	for _, field := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(info["CPU"][field], 64)
		if err != nil {
			b.Fatal(err)
		}
		busy += time.Duration(seconds * float64(time.Second))
	}
	return busy
}

// BenchmarkLimits reports the processor time, here and in Redis, of a decision of several
// limits of one identifier, for one caller and in batches of 100. Beside it,
// counters=incrby is what envoyproxy/ratelimit sends for as many limits: an INCRBY and an
// EXPIRE each, in one pipeline.
//
//	go test -run '^$' -bench BenchmarkLimits -benchtime 20000x ./internal/store/redis
func BenchmarkLimits(b *testing.B) {
	server := redistest.Start(b)
	s, client := open(b, server), server.Client(b)
	for _, batch := range []int{1, 100} {
		for _, n := range []int{1, 2, 4, 8, 16} {
			for _, counters := range []string{"fixed_window", "token_bucket", "mixed"} {
				requests := manyLimits(b, counters, n)
				benchmarkLimits(b, fmt.Sprintf("batch=%d/limits=%d/counters=%s", batch, n, counters), client, batch, func(ctx context.Context, first, end int) error {
					results := make([]store.Result, end-first)
					s.Decide(ctx, requests[first:end], results)
					for i := range results {
						if results[i].Err != nil {
							return results[i].Err
						}
					}
					return nil
				})
			}
			benchmarkLimits(b, fmt.Sprintf("batch=%d/limits=%d/counters=incrby", batch, n), client, batch, func(ctx context.Context, first, end int) error {
				pipe := client.Pipeline()
				for i := first; i < end; i++ {
					for j := range n {
						key := fmt.Sprintf("bench_user_%d_limit_%d_%d", i, j, time.Now().Unix()/3600*3600)
						pipe.IncrBy(ctx, key, 1)
						pipe.Expire(ctx, key, time.Hour)
					}
				}
				_, err := pipe.Exec(ctx)
				return err
			})
		}
	}
}

// manyLimits returns requests of 10,000 identifiers, each with n limits.
func manyLimits(b *testing.B, counters string, n int) []store.Request {
	var specs []strategy.Spec
	for i := range n {
		spec := strategy.Spec{Rate: fmt.Sprintf("%d/h", 1_000_000+i), Strategy: strategy.FixedWindow}
		if counters == "token_bucket" || counters == "mixed" && i%2 == 1 {
			spec.Strategy = strategy.TokenBucket
		}
		specs = append(specs, spec)
	}
	requests := make([]store.Request, 10_000)
	ls := limits(b, specs...)
	for i := range requests {
		requests[i] = store.Request{Namespace: "bench", Identifier: "user:" + strconv.Itoa(i), Cost: 1, Limits: ls}
	}
	return requests
}

// benchmarkLimits has decide make b.N decisions, in batches.
func benchmarkLimits(b *testing.B, name string, client *goredis.Client, batch int, decide func(ctx context.Context, first, end int) error) {
	b.Run(name, func(b *testing.B) {
		here, there := ownCPU(b), redisCPU(b, client)
		for done := 0; done < b.N; done += batch {
			first := done % 10_000
			if err := decide(b.Context(), first, first+min(batch, b.N-done)); err != nil {
				b.Fatal(err)
			}
		}
		n := float64(b.N)
		b.ReportMetric(float64((ownCPU(b)-here).Nanoseconds())/n/1000, "cpu-µs")
		b.ReportMetric(float64((redisCPU(b, client)-there).Nanoseconds())/n/1000, "redis-cpu-µs")
	})
}
