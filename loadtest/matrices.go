package main

import (
	"github.com/ratelimitd/ratelimitd/loadtest/internal/keys"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
)

// matrices are the comparisons that are published. Fields of a load that are zero get the
// defaults of the flags.
var matrices = map[string][]benchCase{
	// How much a decision costs: the daemon against a server that decides nothing.
	"server": {
		{"unary, memory", runCmd{}, nullServer, memoryServer},
		{"unary, memory, Zipf", runCmd{KeyDistribution: keys.Zipf}, nullServer, memoryServer},
		{"unary, memory, one key far over its limit", runCmd{KeyDistribution: keys.Hot, Scenario: "over"}, nullServer, memoryServer},
		{"unary, memory, new keys alone", runCmd{KeyDistribution: keys.Flood}, nullServer, memoryServer},
		{"unary, memory, four limits", runCmd{Scenario: "several"}, nullServer, memoryServer},
		{"unary, memory, Envoy's protocol", envoyLoad(runCmd{Concurrency: 64}), nullServer, envoyServer},
		{"unary, memory, JSON over HTTP, 128 connections", runCmd{Target: target.HTTP, Concurrency: 128}, nullServer, memoryServer},
		{"batches of 100, memory", runCmd{Target: target.Batch, Batch: 100}, nullServer, memoryServer},
		{"stream, memory", runCmd{Target: target.Stream, Concurrency: 256}, nullServer, memoryServer},
		{"stream of batches of 100, memory", runCmd{Target: target.Stream, Batch: 100}, nullServer, memoryServer},
		{"stream of batches of 100, memory, sliding_window_counter", runCmd{Target: target.Stream, Batch: 100, Strategy: "sliding_window_counter"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, sliding_window_log", runCmd{Target: target.Stream, Batch: 100, Limit: []string{"100/s,sliding_window_log"}}, nullServer, memoryServer},
		{"stream of batches of 100, memory, token_bucket", runCmd{Target: target.Stream, Batch: 100, Strategy: "token_bucket"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, leaky_bucket", runCmd{Target: target.Stream, Batch: 100, Strategy: "leaky_bucket"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, gcra", runCmd{Target: target.Stream, Batch: 100, Strategy: "gcra"}, nullServer, memoryServer},
		{"stream of batches of 100, memory, windows of 100 ms", runCmd{Target: target.Stream, Batch: 100, Scenario: "boundary", Keys: 1000}, nullServer, memoryServer},
		{"unary, Redis", runCmd{Concurrency: 128, Limit: []string{"1000000/s,token_bucket"}}, nullServer, redisServer},
		{"unary, Redis, one key far over its limit", runCmd{Concurrency: 128, KeyDistribution: keys.Hot, Scenario: "over"}, nullServer, redisServer},
		{"unary, memcached", runCmd{Concurrency: 128}, nullServer, memcachedServer},
		{"unary, memory; the null server with Go's own GOGC", runCmd{}, nullServer.with("GOGC=100"), memoryServer},
		{"batches of 100, memory; likewise", runCmd{Target: target.Batch, Batch: 100}, nullServer.with("GOGC=100"), memoryServer},
		{"stream, memory; likewise", runCmd{Target: target.Stream, Concurrency: 256}, nullServer.with("GOGC=100"), memoryServer},
		{"stream of batches of 100, memory; likewise", runCmd{Target: target.Stream, Batch: 100}, nullServer.with("GOGC=100"), memoryServer},
		{"unary, Redis; likewise", runCmd{Concurrency: 128, Limit: []string{"1000000/s,token_bucket"}}, nullServer.with("GOGC=100"), redisServer},
		{"unary, memory, open loop of 5,000/s", runCmd{ArrivalRate: 5000, Poisson: true}, nullServer, memoryServer},
	},
	// The protocol of Redis: the daemon against a server of the library redcon that decides
	// nothing.
	"resp": {
		{"pipelines of 1, 8 connections", respLoad(1, 8), nullRESP, respServer},
		{"pipelines of 16, 8 connections", respLoad(16, 8), nullRESP, respServer},
		{"pipelines of 100, 8 connections", respLoad(100, 8), nullRESP, respServer},
		{"a lone caller", respLoad(1, 1), nullRESP, respServer},
		{"pipelines of 16, THROTTLE", throttleLoad(16), nullRESP, respServer},
		{"pipelines of 16, one key far over its limit", runCmd{Target: target.RESP, Batch: 16, Concurrency: 8, KeyDistribution: keys.Hot, Scenario: "over"}, nullRESP, respServer},
	},
	// A server that is not full. The last cases compare the daemon with itself:
	// asked by callers that send BDP probes, as those in Go do by default, and on one thread.
	"paced": {
		{"one caller", aloneLoad, nullServer, memoryServer},
		{"3,000/s", pacedLoad(3000), nullServer, memoryServer},
		{"20,000/s", pacedLoad(20_000), nullServer, memoryServer},
		{"3,000/s, Envoy's protocol", envoyLoad(pacedLoad(3000)), nullServer, envoyServer},
		{"one caller that sends BDP probes", aloneLoad, memoryServer, memoryServer.byProbers()},
		{"3,000/s, with BDP probes", pacedLoad(3000), memoryServer, memoryServer.byProbers()},
		{"one caller, GOMAXPROCS=1", aloneLoad, memoryServer, memoryServer.with("GOMAXPROCS=1")},
		{"3,000/s, GOMAXPROCS=1", pacedLoad(3000), memoryServer, memoryServer.with("GOMAXPROCS=1")},
		{"20,000/s, GOMAXPROCS=1", pacedLoad(20_000), memoryServer, memoryServer.with("GOMAXPROCS=1")},
		{"as many as it can, GOMAXPROCS=1", runCmd{}, memoryServer, memoryServer.with("GOMAXPROCS=1")},
	},
	// Other services against the daemon, each with its own Redis.
	"peers": peerCases,
	// The Go client against calls of which each goes on its own, as generated code makes them.
	"client": {
		{"1 caller", runCmd{Concurrency: 1}, memoryServer.byProbers(), memoryServer.by(target.Client)},
		{"16 callers", runCmd{Concurrency: 16}, memoryServer.byProbers(), memoryServer.by(target.Client)},
		{"256 callers", runCmd{Concurrency: 256}, memoryServer.byProbers(), memoryServer.by(target.Client)},
		{"256 callers, four limits", runCmd{Concurrency: 256, Scenario: "several"}, memoryServer.byProbers(), memoryServer.by(target.Client)},
		{"1 caller, Redis", runCmd{Concurrency: 1}, redisServer.byProbers(), redisServer.by(target.Client)},
		{"256 callers, Redis", runCmd{Concurrency: 256}, redisServer.byProbers(), redisServer.by(target.Client)},
	},
	// The transport's options, on the null server: each option on its own against the
	// defaults of gRPC, and the options that the null server uses.
	"transport": {
		{"unary, stream workers: as many as processors", runCmd{}, plain(""), plain("--stream-workers=2")},
		{"unary, stream workers: 16", runCmd{}, plain(""), plain("--stream-workers=16")},
		{"unary, stream workers: 64", runCmd{}, plain(""), plain("--stream-workers=64")},
		{"unary, stream workers: 128", runCmd{}, plain(""), plain("--stream-workers=128")},
		{"unary, generated code", runCmd{}, plain(""), plain("--codec=generated")},
		{"unary, read buffer of 64 KiB", runCmd{}, plain(""), plain("--read-buffer=65536")},
		{"unary, write buffer of 64 KiB", runCmd{}, plain(""), plain("--write-buffer=65536")},
		{"unary, generated code and 128 workers", runCmd{}, plain(""), plain("--codec=generated --stream-workers=128")},
		{"batches of 100, generated code", runCmd{Target: target.Batch, Batch: 100}, plain(""), plain("--codec=generated")},
		{"stream, generated code", runCmd{Target: target.Stream, Concurrency: 256}, plain(""), plain("--codec=generated")},
		{"stream of batches of 100, generated code", runCmd{Target: target.Stream, Batch: 100}, plain(""), plain("--codec=generated")},
	},
}
