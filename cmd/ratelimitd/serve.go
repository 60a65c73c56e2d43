package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store"
)

type serveCmd struct {
	GRPCAddr  string `name:"grpc-addr" default:":8081" help:"Where to serve gRPC, as host:port."`
	HTTPAddr  string `name:"http-addr" default:":8080" help:"Where to serve HTTP, as host:port: health, readiness and metrics."`
	AdminAddr string `name:"admin-addr" default:"127.0.0.1:6070" help:"Where to serve administration, as host:port: profiles, log level, configuration, hot keys. Whoever reaches it needs no password. off: nowhere."`

	storeFlags `embed:""`

	DrainTimeout time.Duration `default:"10s" help:"The longest that a shutdown waits for calls under way."`
	LogLevel     string        `enum:"debug,info,warn,error" default:"info" help:"Log what is of this level or above: debug, info, warn or error."`
	LogFormat    string        `enum:"text,json" default:"text" help:"Log lines for people (text) or for machines (json)."`
}

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
func (c *serveCmd) Run(ctx context.Context, logTo stderrWriter, command *kong.Context) error {
	if err := c.validate(); err != nil {
		return err
	}
	level := new(slog.LevelVar)
	logger := c.logger(logTo, level)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())

	if c.AdminAddr == "off" {
		c.AdminAddr = ""
	}
	counters, err := c.open(registry)
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
		GRPCAddr:      c.GRPCAddr,
		HTTPAddr:      c.HTTPAddr,
		AdminAddr:     c.AdminAddr,
		LogLevel:      level,
		Configuration: func() any { return map[string]any{"flags": flagsInForce(command)} },
		Store:         counters,
		StoreName:     c.Store,
		OnError:       server.OnError(c.OnError),
		Fallback:      fallback,
		MaxLogCount:   c.MaxLogCount,
		DrainTimeout:  c.DrainTimeout,
		Logger:        logger,
		Registry:      registry,
	})
	if err != nil {
		return err
	}
	logger.Info("starting", "version", versionString(), "store", c.Store, "on_error", c.OnError)
	return s.Serve(ctx)
}

func (c *serveCmd) validate() error {
	if c.DrainTimeout <= 0 {
		return fmt.Errorf("--drain-timeout %v: must be above 0, such as 10s", c.DrainTimeout)
	}
	return c.storeFlags.validate()
}

func (c *serveCmd) logger(to stderrWriter, level *slog.LevelVar) *slog.Logger {
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic(err) // the flag allows what is no level
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, o))
	}
	return slog.New(slog.NewTextHandler(to, o))
}
