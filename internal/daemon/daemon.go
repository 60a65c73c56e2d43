// Package daemon runs the service as its configuration says: it puts the log, the
// stores, the server and what watches files together.
package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
	"github.com/ratelimitd/ratelimitd/internal/build"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/gctuning"
	"github.com/ratelimitd/ratelimitd/internal/replay"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/stores"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/testclock"
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
	l := &live{config: c, logger: logger, policies: policies}
	if !l.follow(ctx, &watching, &options) {
		return nil
	}
	policies = l.inForce()
	options.Config, options.Trials = server.ConfigOf(policies), replay.Trials{}
	var clock func() strategy.Instant
	if c.TestClock {
		options.TestClock = testclock.New()
		clock = options.TestClock.Now
		logger.Warn("THE CLOCK STANDS STILL, as --test-clock says: no limit recovers until a POST to /test-clock on the admin port turns it. This is for tests alone")
	}
	if options.Store, options.Fallback, err = stores.Open(c, options.Registry, logger, options.Panics, clock); err != nil {
		return err
	}
	main, fallback := options.Store, options.Fallback
	stores.Favour(policies.Names(), main, fallback)
	if err := stores.Keep(c, main); err != nil {
		return errors.Join(err, main.Close())
	}
	if c.Tracing {
		options.Store = tracing.NewStore(options.Store, options.StoreName, spans)
	}
	s, err := server.New(options)
	if err != nil {
		return c.ListenError(err)
	}
	logger.Info("starting", "version", version, "store", c.Store.Kind, "on_error", c.Store.OnError)
	l.serve(s, policies, func(p *config.Policies) { stores.Favour(p.Names(), main, fallback) })
	return s.Serve(ctx)
}
