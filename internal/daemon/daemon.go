// Package daemon runs the service as its configuration says: it puts the log, the
// stores, the server and what watches files together.
package daemon

import (
	"context"
	"io"
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
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/gctuning"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/stores"
	"github.com/ratelimitd/ratelimitd/internal/tracing"
)

// Run serves until ctx ends, as c and policies say. It logs to stderr.
func Run(ctx context.Context, c *config.Config, policies *config.Policies, version string, stderr io.Writer) (err error) {
	gctuning.KeepRoom(gctuning.DefaultRoom)
	level := new(slog.LevelVar)
	log := openLog(c, stderr)
	defer log.Close(LogPatience)
	logger := c.Log.New(log, level)
	slog.SetDefault(logger) // what libraries log must not wait for a reader either
	c.LogUnused(os.Environ(), logger)
	if limit, err := gctuning.KeepWithinContainer(); err != nil {
		logger.Warn("the garbage collector does not know how much memory it may use; set GOMEMLIMIT", "error", err)
	} else if limit > 0 {
		logger.Info("the garbage collector keeps within the memory of the container", "bytes", limit)
	}
	policies.Log(logger)
	options := server.OptionsOf(c, policies)
	options.LogLevel, options.Logger = level, logger
	options.Panics = crash.NewLog(logger)
	options.Registry = prometheus.NewRegistry()
	options.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "ratelimitd_log_lines_lost_total",
		Help: "Log lines lost because nobody read the log, or not fast enough.",
	}, func() float64 { return float64(log.Lost()) }))
	options.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build.Collector(version))
	var spans *sdktrace.TracerProvider
	if c.Tracing {
		if spans, err = tracing.NewProvider(ctx, version, logger); err != nil {
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
	if options.Store, options.Fallback, err = stores.Open(c, options.Registry, logger, options.Panics); err != nil {
		return err
	}
	main, fallback := options.Store, options.Fallback
	favour := func(p *config.Policies) { stores.Favour(p.Names(), main, fallback) }
	favour(policies)
	if c.Tracing {
		options.Store = tracing.NewStore(options.Store, options.StoreName, spans)
	}
	s, err := server.New(options)
	if err != nil {
		return c.ListenError(err)
	}
	logger.Info("starting", "version", version, "store", c.Store.Kind, "on_error", c.Store.OnError)
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
			Dirs: dirs, Writing: func() string { return reload.Writing(c.PolicyFiles()...) },
			Load: loader(c, policies, logger, func(p *config.Policies) { favour(p); s.SetConfig(server.ConfigOf(p)) }), Version: policies.Version,
			Refused: s.RefuseConfig, Logger: logger, Registry: options.Registry,
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
