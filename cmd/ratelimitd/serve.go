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
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/gctuning"
	"github.com/ratelimitd/ratelimitd/internal/netlimit"
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
	log := openLog(c, call.Stderr)
	defer log.Close(logPatience)
	logger := c.Log.New(log, level)
	slog.SetDefault(logger) // what libraries log must not wait for a reader either
	c.LogUnused(os.Environ(), logger)
	policies.Log(logger)
	options := serverOptions(c, policies)
	options.LogLevel, options.Logger, options.Panics = level, logger, crash.NewLog(logger)
	options.Registry = prometheus.NewRegistry()
	options.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "ratelimitd_log_lines_lost_total",
		Help: "Log lines lost because nobody read the log, or not fast enough.",
	}, func() float64 { return float64(log.Lost()) }))
	options.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build.Collector(build.Version(version)))
	if options.Store, options.Fallback, err = stores.Open(c, options.Registry, options.Panics); err != nil {
		return err
	}
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
			Dirs: dirs, Writing: func() string { return reload.Writing(c.PolicyFiles()...) }, Load: loader(c, policies, s, logger), Version: policies.Version,
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
		Connections:  netlimit.Options{Max: c.MaxConnections, PerAddress: c.MaxConnectionsPerAddress},
	}
	if o.AdminAddr == config.AdminOff {
		o.AdminAddr = ""
	}
	return o
}

func serverConfig(p *config.Policies) *server.Config {
	return &server.Config{Policies: p.Namespaces, Envoy: p.Domains, Text: p.Text, Version: p.Version}
}

// loader returns what reads the policies again for s.
func loader(c *config.Config, inForce *config.Policies, s *server.Server, logger *slog.Logger) func(string) (string, func(), error) {
	return func(seen string) (string, func(), error) {
		next, err := c.Reload(inForce)
		if err != nil || next.Version == seen {
			return next.Version, nil, err
		}
		return next.Version, func() {
			s.SetConfig(serverConfig(next))
			next.Log(logger)
			inForce = next
		}, nil
	}
}
