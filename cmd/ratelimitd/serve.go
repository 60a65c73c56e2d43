package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/headroom"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/tracing"
)

type serveCmd struct {
	GRPCAddr  string `name:"grpc-addr" default:":8081" help:"Where to serve gRPC, as host:port."`
	HTTPAddr  string `name:"http-addr" default:":8080" help:"Where to serve HTTP, as host:port: health, readiness and metrics."`
	AdminAddr string `name:"admin-addr" default:"127.0.0.1:6070" help:"Where to serve administration, as host:port: profiles, log level, configuration, hot keys. Whoever reaches it needs no password. off: nowhere."`

	Config       string `type:"path" placeholder:"FILE" help:"A YAML file of namespaces and their policies, which are read anew when it changes or on SIGHUP. It may also set these flags, under their names with _ for -; the command line and the environment win over it."`
	PoliciesOnly bool   `help:"Refuse requests that bring limits of their own: only the policies of the configuration decide."`

	Envoy envoyFlags `embed:"" prefix:"envoy-" group:"Envoy's rate limit service:"`

	storeFlags `embed:""`

	DrainTimeout time.Duration `default:"10s" help:"The longest that a shutdown waits for calls under way."`
	Tracing      bool          `help:"Export a span for each gRPC call and what it asks the store, by OTLP over gRPC, to where the standard OTEL_... variables say."`
	LogLevel     string        `enum:"debug,info,warn,error" default:"info" help:"Log what is of this level or above: debug, info, warn or error."`
	LogFormat    string        `enum:"text,json" default:"text" help:"Log lines for people (text) or for machines (json)."`

	file  *configFile       `kong:"-"` // what Config names, or nil
	envoy *envoyEnvironment `kong:"-"` // nil: its variables do not count
	flags []*kong.Flag      `kong:"-"` // all of the above
	given []string          `kong:"-"` // the names of those that were set somewhere
}

// Help is shown by "ratelimitd serve --help".
func (serveCmd) Help() string {
	return `Examples:

  ratelimitd serve
      Counters in memory, gRPC on :8081, HTTP on :8080.

  ratelimitd serve --store=redis --redis-url=redis://10.0.0.5:6379 --on-error=deny
      Counters in Redis, shared by all daemons that use it; deny what can not be decided.
  ratelimitd serve --config=ratelimitd.yaml
      Policies from a file; ratelimitd validate checks it beforehand.

SIGTERM or SIGINT stops it: health turns NOT_SERVING, calls under way are
answered, and it exits with 0. SIGHUP has it read its configuration anew.`
}

// Run serves until ctx ends.
func (c *serveCmd) Run(ctx context.Context, logTo stderrWriter, command *kong.Context) error {
	config, err := c.configuration()
	if err != nil {
		return err
	}
	headroom.Keep(headroom.Default)
	level := new(slog.LevelVar)
	logger := c.logger(logTo, level)
	c.warnOfIdle(logger)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())

	if c.AdminAddr == "off" {
		c.AdminAddr = ""
	}
	counters, err := c.open(registry)
	if err != nil {
		return err
	}
	var grpcOptions []grpc.ServerOption
	if c.Tracing {
		spans, err := tracing.NewProvider(ctx, versionString())
		if err != nil {
			return errors.Join(err, counters.Close())
		}
		defer flush(spans, logger)
		counters = tracing.NewStore(counters, c.Store, spans)
		grpcOptions = append(grpcOptions, tracing.GRPC(spans))
	}
	var fallback store.Store
	if c.Store != "memory" {
		if fallback, err = c.openMemory(registry); err != nil {
			return errors.Join(err, counters.Close())
		}
	}
	s, err := server.New(server.Options{
		GRPCAddr:     c.GRPCAddr,
		HTTPAddr:     c.HTTPAddr,
		GRPC:         grpcOptions,
		AdminAddr:    c.AdminAddr,
		LogLevel:     level,
		Flags:        flagsInForce(command),
		Store:        counters,
		StoreName:    c.Store,
		OnError:      policy.OnError(c.OnError),
		Fallback:     fallback,
		Config:       config.server,
		Envoy:        c.Envoy.options(),
		PoliciesOnly: c.PoliciesOnly,
		MaxLogCount:  c.MaxLogCount,
		DrainTimeout: c.DrainTimeout,
		Logger:       logger,
		Registry:     registry,
	})
	if err != nil {
		return err
	}
	logger.Info("starting", "version", versionString(), "store", c.Store, "on_error", c.OnError)
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	if dirs := c.configDirs(); dirs != nil {
		config.warn(logger)
		logger.Info("the configuration is in force", "version", config.version)
		w := reload.New(reload.Options{
			Dirs:     dirs,
			Load:     func(seen string) (string, func(), error) { return c.reload(seen, s, logger) },
			Version:  config.version,
			Logger:   logger,
			Registry: registry,
		})
		watching.Go(func() { w.Run(ctx, hangups) })
	}
	return s.Serve(ctx)
}

// flushTimeout is the longest that a shutdown waits for a collector of traces.
const flushTimeout = 5 * time.Second

// flush hands over the spans that are left.
func flush(spans *sdktrace.TracerProvider, logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := spans.Shutdown(ctx); err != nil {
		logger.Warn("the last spans are lost", "error", err)
	}
}

func (c *serveCmd) validate() []flagError {
	wrong := c.storeFlags.validate()
	if c.DrainTimeout <= 0 {
		wrong = append(wrong, flagError{"drain-timeout", fmt.Sprintf("%v: must be above 0, such as 10s", c.DrainTimeout)})
	}
	return wrong
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
