package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/gctuning"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/stores"
	"github.com/ratelimitd/ratelimitd/internal/tracing"
)

func serveCommand() *command.Command {
	return &command.Command{
		Name:    "serve",
		Summary: "Run the service. With no flags it keeps its counters in memory and needs nothing installed.",
		Examples: `Examples:
  ratelimitd serve
      Counters in memory, gRPC on :8081, HTTP on :8080.
  ratelimitd serve --store=redis --redis-url=redis://10.0.0.5:6379 --on-error=deny
      Counters in Redis, shared by all daemons that use it. While Redis is away, deny.
  ratelimitd serve --config=ratelimitd.yaml
      Policies from a file. Check it beforehand with ratelimitd validate.

SIGTERM and SIGINT stop it: its health turns to NOT_SERVING, it answers the calls
under way, and exits with 0. On SIGHUP it reads its configuration again.`,
		Flags: config.Default().Flags(),
		Run:   serve,
	}
}

// serve serves until ctx ends.
func serve(ctx context.Context, call command.Call) error {
	c, policies, err := config.Read(call.Line, os.LookupEnv)
	if err != nil {
		return err
	}
	gctuning.KeepRoom(gctuning.DefaultRoom)
	level := new(slog.LevelVar)
	logger := c.Log.New(call.Stderr, level)
	c.LogUnused(os.Environ(), logger)
	if limit, err := gctuning.KeepWithinContainer(); err != nil {
		logger.Warn("the garbage collector does not know how much memory it may use; set GOMEMLIMIT", "error", err)
	} else if limit > 0 {
		logger.Info("the garbage collector keeps within the memory of the container", "bytes", limit)
	}
	policies.Log(logger)
	options := server.OptionsOf(c, policies)
	options.LogLevel, options.Logger = level, logger
	options.Registry = prometheus.NewRegistry()
	options.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build.Collector(build.Version(version)))
	var spans *sdktrace.TracerProvider
	if c.Tracing {
		if spans, err = tracing.NewProvider(ctx, build.Version(version), logger); err != nil {
			return err
		}
		defer tracing.Flush(spans, logger)
		options.GRPC = append(options.GRPC, tracing.GRPC(spans))
	}
	var pair *keypair.Pair
	if c.Trust.CertFile != "" {
		files, version := c.Trust.TLSFiles()
		pair = keypair.New(keypair.Options{Files: files, MinVersion: version, Logger: logger, Registry: options.Registry})
		options.Trust.TLS = pair
	}
	if options.Store, options.Fallback, err = stores.Open(c, options.Registry); err != nil {
		return err
	}
	if c.Tracing {
		options.Store = tracing.NewStore(options.Store, options.StoreName, spans)
	}
	s, err := server.New(options)
	if err != nil {
		return c.ListenError(err)
	}
	logger.Info("starting", "version", build.Version(version), "store", c.Store.Kind, "on_error", c.Store.OnError)
	ctx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	_, ignore := hangups() // SIGHUP would end a daemon that has nothing to read again
	defer ignore()
	if pair != nil {
		told, stop := hangups()
		defer stop()
		watching.Go(func() { pair.Run(ctx, told) })
	}
	if dirs := c.WatchedDirs(); dirs != nil {
		logger.Info("the configuration is in force", "version", policies.Version)
		w := reload.New(reload.Options{
			Dirs: dirs, Load: loader(c, policies, s, logger), Version: policies.Version,
			Logger: logger, Registry: options.Registry,
		})
		told, stop := hangups()
		defer stop()
		watching.Go(func() { w.Run(ctx, told) })
	}
	return s.Serve(ctx)
}

// hangups returns a channel of SIGHUP, and what ends it.
func hangups() (<-chan os.Signal, func()) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGHUP)
	return told, func() { signal.Stop(told) }
}

// loader returns what reads the policies again for s.
func loader(c *config.Config, inForce *config.Policies, s *server.Server, logger *slog.Logger) func(string) (string, func(), error) {
	return func(seen string) (string, func(), error) {
		next, err := c.Reload(inForce)
		if err != nil || next.Version == seen {
			return next.Version, nil, err
		}
		return next.Version, func() {
			s.SetConfig(server.ConfigOf(next))
			next.Log(logger)
			inForce = next
		}, nil
	}
}
