package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/command"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/gctuning"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
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
	options := serverOptions(c, policies)
	options.LogLevel, options.Logger = level, logger
	options.Registry = prometheus.NewRegistry()
	options.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build.Collector(build.Version(version)))
	if options.Store, options.Fallback, err = stores.Open(c, options.Registry, logger); err != nil {
		return err
	}
	main, fallback := options.Store, options.Fallback
	favour := func(p *config.Policies) { stores.Favour(p.Names(), main, fallback) }
	favour(policies)
	if c.Tracing {
		spans, err := tracing.NewProvider(ctx, build.Version(version), logger)
		if err != nil {
			return errors.Join(err, options.Store.Close())
		}
		defer tracing.Flush(spans, logger)
		options.Store = tracing.NewStore(options.Store, options.StoreName, spans)
		options.GRPC = append(options.GRPC, tracing.GRPC(spans))
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
	if dirs := c.WatchedDirs(); dirs != nil {
		logger.Info("the configuration is in force", "version", policies.Version)
		w := reload.New(reload.Options{
			Dirs: dirs, Load: loader(c, policies, logger, func(p *config.Policies) { favour(p); s.SetConfig(serverConfig(p)) }), Version: policies.Version,
			Logger: logger, Registry: options.Registry,
		})
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, syscall.SIGHUP)
		defer signal.Stop(hangups)
		watching.Go(func() { w.Run(ctx, hangups) })
	}
	return s.Serve(ctx)
}

// serverOptions returns the options of the server that c and p decide.
func serverOptions(c *config.Config, p *config.Policies) server.Options {
	o := server.Options{
		GRPCAddr:  c.GRPCAddr,
		HTTPAddr:  c.HTTPAddr,
		AdminAddr: c.AdminAddr,
		Flags:     c.Shown(),
		StoreName: string(c.Store.Kind),
		OnError:   c.Store.OnError,
		Config:    serverConfig(p),
		Envoy: envoyapi.Settings{
			ShadowMode: c.Envoy.ShadowMode, AllOrNone: c.Envoy.AllOrNone, DynamicMetadata: c.Envoy.DynamicMetadata, ResponseHeaders: c.Envoy.ResponseHeaders,
			LimitHeader: c.Envoy.LimitHeader, RemainingHeader: c.Envoy.RemainingHeader, ResetHeader: c.Envoy.ResetHeader,
		},
		PoliciesOnly: c.PoliciesOnly,
		MaxLogCount:  c.Store.MaxLogCount,
		DrainTimeout: c.DrainTimeout,
	}
	if o.AdminAddr == config.AdminOff {
		o.AdminAddr = ""
	}
	return o
}

func serverConfig(p *config.Policies) *server.Config {
	return &server.Config{Policies: p.Namespaces, Envoy: p.Domains, Text: p.Text, Version: p.Version}
}

// loader returns what reads the policies again, to put them in force.
func loader(c *config.Config, inForce *config.Policies, logger *slog.Logger, put func(*config.Policies)) func(string) (string, func(), error) {
	return func(seen string) (string, func(), error) {
		next, err := c.Reload(inForce)
		if err != nil || next.Version == seen {
			return next.Version, nil, err
		}
		return next.Version, func() {
			put(next)
			next.Log(logger)
			inForce = next
		}, nil
	}
}
