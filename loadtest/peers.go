package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ratelimitd/ratelimitd/loadtest/internal/keys"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/target"
)

// peerNames are the other services of --matrix peers. Their programs are not ours to build:
// --peer says where they are.
var peerNames = []string{"throttlecrab", "limitador", "gubernator", "envoyproxy"}

// The other services. Each has the defaults of its project, except that it listens on
// loopback, logs errors alone, and has room for all keys.
var (
	throttlecrabServer = program{
		peer: "throttlecrab",
		command: "--grpc --grpc-host=127.0.0.1 --grpc-port={grpc-port} --http --http-host=127.0.0.1 --http-port={http-port} " +
			"--redis --redis-host=127.0.0.1 --redis-port={resp-port} --log-level=error",
	}
	limitadorServer  = program{peer: "limitador", command: "--rls-ip 127.0.0.1 --rls-port {grpc-port} --http-ip 127.0.0.1 --http-port {http-port} {files}/limitador.yaml"}
	limitadorRedis   = program{peer: "limitador", command: limitadorServer.command + " redis redis://{store}", store: "redis"}
	gubernatorServer = program{
		peer: "gubernator",
		// It is a cluster of one, which it has to find.
		env: "GUBER_GRPC_ADDRESS={grpc} GUBER_HTTP_ADDRESS={http} GUBER_ADVERTISE_ADDRESS={grpc} " +
			"GUBER_MEMBERLIST_ADDRESS={resp} GUBER_MEMBERLIST_BIND_ADDRESS={resp} GUBER_MEMBERLIST_KNOWN_NODES={resp} " +
			"GUBER_CACHE_SIZE=1000000 GUBER_LOG_LEVEL=error",
	}
	envoyproxyServer = program{ // it sends nothing to statsd
		peer: "envoyproxy",
		env: "RUNTIME_ROOT={files} RUNTIME_SUBDIRECTORY=. RUNTIME_WATCH_ROOT=false HOST=127.0.0.1 PORT={http-port} GRPC_HOST=127.0.0.1 GRPC_PORT={grpc-port} " +
			"DEBUG_HOST=127.0.0.1 DEBUG_PORT=0 REDIS_SOCKET_TYPE=tcp REDIS_URL={store} DISABLE_STATS=true LOG_LEVEL=error",
		store: "redis",
	}
)

// limitadorConfig has the limit of envoyConfig as limitador writes it.
const limitadorConfig = "- namespace: " + envoyDomain + "\n  max_value: 1000000000\n  seconds: 1\n  conditions: []\n  variables: [\"descriptors[0]['user']\"]\n"

// peerCases compare other services with the daemon. The baseline is the other.
var peerCases = []benchCase{
	{"throttlecrab, gRPC", gcraLoad(128), throttlecrabServer.by(target.Throttlecrab), memoryServer},
	{"throttlecrab, gRPC, a lone caller", gcraLoad(1), throttlecrabServer.by(target.Throttlecrab), memoryServer},
	{"throttlecrab, gRPC, 3,000/s", paced(gcraLoad(128)), throttlecrabServer.by(target.Throttlecrab), memoryServer},
	{"throttlecrab, Redis's protocol, pipelines of 1", throttleLoad(1), throttlecrabServer, respServer},
	{"throttlecrab, Redis's protocol, pipelines of 16", throttleLoad(16), throttlecrabServer, respServer},
	{"throttlecrab, Redis's protocol, pipelines of 100", throttleLoad(100), throttlecrabServer, respServer},
	{"throttlecrab, HTTP", gcraLoad(128), throttlecrabServer.by(target.ThrottlecrabHTTP), memoryServer.by(target.HTTP)},
	{"limitador, Envoy's protocol", envoyLoad(runCmd{}), limitadorServer, envoyServer},
	{"limitador, Envoy's protocol, a lone caller", envoyLoad(runCmd{Concurrency: 1}), limitadorServer, envoyServer},
	{"limitador, Envoy's protocol, 3,000/s", paced(envoyLoad(runCmd{})), limitadorServer, envoyServer},
	{"limitador, HTTP", envoyLoad(runCmd{}), limitadorServer.by(target.LimitadorHTTP), memoryServer.by(target.HTTP)},
	{"limitador, Envoy's protocol, Redis", envoyLoad(runCmd{}), limitadorRedis, envoyRedis},
	{"limitador, Envoy's protocol, Redis, a lone caller", envoyLoad(runCmd{Concurrency: 1}), limitadorRedis, envoyRedis},
	{"gubernator, gRPC", runCmd{Concurrency: 128, Batch: 1}, gubernatorServer.by(target.Gubernator), memoryServer.by(target.Unary)},
	{"gubernator, gRPC, a lone caller", runCmd{Concurrency: 1, Batch: 1}, gubernatorServer.by(target.Gubernator), memoryServer.by(target.Unary)},
	{"gubernator, gRPC, batches of 100", runCmd{Concurrency: 16, Batch: 100}, gubernatorServer.by(target.Gubernator), memoryServer.by(target.Batch)},
	{"envoyproxy, Envoy's protocol, Redis", envoyLoad(runCmd{}), envoyproxyServer, envoyRedis},
	{"envoyproxy, Envoy's protocol, Redis, a lone caller", envoyLoad(runCmd{Concurrency: 1}), envoyproxyServer, envoyRedis},
	{"envoyproxy with explicit pipelining, Envoy's protocol, Redis", envoyLoad(runCmd{}), envoyproxyServer.with("REDIS_PIPELINE_WINDOW=150us REDIS_PIPELINE_LIMIT=128"), envoyRedis},
	{"envoyproxy with its local cache, one key far over its limit, Redis", envoyLoad(runCmd{KeyDistribution: keys.Hot, DescriptorKey: "hot"}), envoyproxyServer.with("LOCAL_CACHE_SIZE_IN_BYTES=1000000"), envoyRedis},
	{"envoyproxy with Redis, and ours in memory", envoyLoad(runCmd{}), envoyproxyServer, envoyServer},
}

// gcraLoad is calls with one limit that throttlecrab knows too.
func gcraLoad(concurrency int) runCmd {
	return runCmd{Concurrency: concurrency, Limit: []string{"1000000/s,gcra,burst=1000000"}}
}

// paced returns load as callers put it on a server that is not full.
func paced(load runCmd) runCmd {
	load.ArrivalRate, load.Poisson = 3000, true
	return load
}

// findPeers reads --peer: NAME=PATH.
func findPeers(lines []string) (map[string]string, error) {
	found := make(map[string]string)
	for _, line := range lines {
		name, path, isPair := strings.Cut(line, "=")
		if !isPair || !slices.Contains(peerNames, name) {
			return nil, fmt.Errorf("--peer %q: give the name of a service (%s) and its program, such as throttlecrab=/usr/local/bin/throttlecrab-server", line, strings.Join(peerNames, ", "))
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("--peer %q: %w", line, err)
		}
		if info, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("--peer %q: %w; give a program that is there", line, err)
		} else if info.IsDir() || info.Mode()&0o111 == 0 {
			return nil, fmt.Errorf("--peer %q: this is no program; give the file to run", line)
		}
		found[name] = path
	}
	return found, nil
}

// describePeers returns lines of the page's table that say which programs were measured, and
// which were not given.
func describePeers(ctx context.Context, peers map[string]string) string {
	var out strings.Builder
	for _, name := range peerNames {
		path, found := peers[name]
		version := "not given (`--peer " + name + "=PATH`): its cases are left out"
		if found {
			version = peerVersion(ctx, path)
		}
		fmt.Fprintf(&out, "| %s | %s |\n", name, version)
	}
	return out.String()
}

// peerVersion returns what a program says of its version. One in Go carries it in its file.
func peerVersion(ctx context.Context, path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return firstLine(ctx, path, "--version")
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return fmt.Sprintf("%.7s, %s", s.Value, info.GoVersion)
		}
	}
	return info.Main.Version + ", " + info.GoVersion
}
