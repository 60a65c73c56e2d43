package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/denycache"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
)

type serveCmd struct {
	GRPCAddr string `name:"grpc-addr" default:":8081" help:"Where to serve gRPC, as host:port."`
	HTTPAddr string `name:"http-addr" default:":8080" help:"Where to serve HTTP, as host:port: health, readiness and metrics."`

	Store        string        `enum:"memory,redis" default:"memory" help:"Where the counters are: in this process (memory), or in Redis, where several daemons share them (redis)."`
	StoreTimeout time.Duration `default:"50ms" help:"The longest that a decision waits for the store before the failure policy answers."`
	OnError      string        `enum:"allow,deny,error,local" default:"allow" help:"What to answer when the store has failed: allow (fail open), deny (fail closed), error (UNAVAILABLE), or local (count in this process until the store is back)."`
	DenyCacheTTL time.Duration `name:"deny-cache-ttl" default:"1s" help:"With a store outside this process: how long a denial may be repeated without asking the store again, and so how long a Reset by another daemon may go unnoticed. 0s turns that off."`
	RedisURL     []string      `name:"redis-url" sep:" " default:"redis://127.0.0.1:6379" help:"With --store=redis: the server, as redis://[user:password@]host:port[/database], or rediss:// for TLS. Repeat it, or separate several by spaces, for the nodes of a cluster."`

	MemoryShards  int   `default:"0" help:"With --store=memory: how many stripes, each with a lock of its own: a power of two. 0 means 256, or fewer if they would hold fewer than 16 counters each."`
	MemoryMaxKeys int   `default:"1000000" help:"With --store=memory: how many counters to hold, at about 90 bytes each, before those that matter least are dropped."`
	MaxLogCount   int64 `default:"10000" help:"The greatest count of a sliding_window_log limit: each unit of it may take 32 bytes."`

	DrainTimeout time.Duration `default:"10s" help:"The longest that a shutdown waits for calls under way."`
	LogLevel     string        `enum:"debug,info,warn,error" default:"info" help:"Log what is of this level or above: debug, info, warn or error."`
	LogFormat    string        `enum:"text,json" default:"text" help:"Log lines for people (text) or for machines (json)."`
}

// maxMaxLogCount keeps the log of one counter to 16 MB.
const maxMaxLogCount = 1_000_000

// Help is shown by "ratelimitd serve --help".
func (serveCmd) Help() string {
	return `Examples:

  ratelimitd serve
      Counters in memory, gRPC on :8081, HTTP on :8080.

  ratelimitd serve --store=redis --redis-url=redis://10.0.0.5:6379 --on-error=deny
      Counters in Redis, shared by all daemons that use it; deny what can not be decided.

SIGTERM or SIGINT stops it: health turns NOT_SERVING, calls under way are
answered, and it exits with 0.`
}

// Run serves until ctx ends.
func (c *serveCmd) Run(ctx context.Context, logTo stderrWriter) error {
	if err := c.validate(); err != nil {
		return err
	}
	logger := c.logger(logTo)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	counters, err := c.openStore(registry)
	if err != nil {
		return err
	}
	var fallback store.Store
	if c.OnError == string(server.FailLocal) && c.Store != "memory" {
		if fallback, err = c.openMemory(registry); err != nil {
			return errors.Join(err, counters.Close())
		}
	}
	s, err := server.New(server.Options{
		GRPCAddr:     c.GRPCAddr,
		HTTPAddr:     c.HTTPAddr,
		Store:        counters,
		StoreName:    c.Store,
		OnError:      server.OnError(c.OnError),
		Fallback:     fallback,
		MaxLogCount:  c.MaxLogCount,
		DrainTimeout: c.DrainTimeout,
		Logger:       logger,
		Registry:     registry,
	})
	if err != nil {
		return err
	}
	logger.Info("starting", "version", versionString(), "store", c.Store, "on_error", c.OnError)
	return s.Serve(ctx)
}

func (c *serveCmd) validate() error {
	switch {
	case c.StoreTimeout <= 0:
		return fmt.Errorf("--store-timeout %v: must be above 0, such as 50ms", c.StoreTimeout)
	case c.DenyCacheTTL < 0:
		return fmt.Errorf("--deny-cache-ttl %v: must be 0 or above, such as 1s", c.DenyCacheTTL)
	case c.DrainTimeout <= 0:
		return fmt.Errorf("--drain-timeout %v: must be above 0, such as 10s", c.DrainTimeout)
	case c.MaxLogCount <= 0 || c.MaxLogCount > maxMaxLogCount:
		return fmt.Errorf("--max-log-count %d: must be 1 to %d, such as 10000", c.MaxLogCount, maxMaxLogCount)
	case c.MemoryMaxKeys <= 0:
		return fmt.Errorf("--memory-max-keys %d: must be above 0, such as 1000000", c.MemoryMaxKeys)
	}
	return nil
}

func (c *serveCmd) logger(to stderrWriter) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic(err) // the flag allows what is no level
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}

// openStore opens the store that the flags choose, with what stands in front
// of it.
func (c *serveCmd) openStore(registry *prometheus.Registry) (store.Store, error) {
	if c.Store == "memory" {
		return c.openMemory(registry)
	}
	remote, err := redis.New(redis.Options{URLs: c.RedisURL, Timeout: c.StoreTimeout})
	if err != nil {
		return nil, err
	}
	guarded := breaker.New(remote)
	registry.MustRegister(guarded.Collector())
	if c.DenyCacheTTL == 0 {
		return guarded, nil
	}
	cached := denycache.New(guarded, denycache.Options{TTL: c.DenyCacheTTL})
	registry.MustRegister(cached.Collector())
	return cached, nil
}

func (c *serveCmd) openMemory(registry *prometheus.Registry) (store.Store, error) {
	s, err := memory.New(memory.Options{Shards: c.MemoryShards, MaxKeys: c.MemoryMaxKeys, MaxLogCount: c.MaxLogCount})
	if err != nil {
		return nil, err
	}
	registry.MustRegister(s.Collector())
	return s, nil
}
