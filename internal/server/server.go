// Package server is the daemon: it listens, puts the fronts around the core of
// decisions, has every call pass one chain, and stops in order.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/server/console"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi"
	"github.com/ratelimitd/ratelimitd/internal/server/httpapi"
	"github.com/ratelimitd/ratelimitd/internal/server/plainhttp"
	"github.com/ratelimitd/ratelimitd/internal/server/respapi"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/turns"
)

// A Server is a listening daemon. New makes it, and Serve runs it once.
type Server struct {
	store    store.Store
	fallback store.Store
	delay    time.Duration
	drain    time.Duration
	logger   *slog.Logger

	book      *account.Book
	core      *decide.Core
	envoy     *envoyapi.API
	gate      *gate // nil: callers are not known
	readiness *readiness
	console   *console.Console
	inFlight  *inflight.Bound

	ports *ports
	grpc  *grpc.Server
	http  *plainhttp.Server
	admin *http.Server
	resp  *respapi.Server // nil without an address for it
	// metrics serves nothing but metrics; nil without an address for that.
	metrics *http.Server

	draining chan struct{}  // closed when the server begins to stop
	streams  sync.WaitGroup // the goroutines that answer streams, and that of the console
}

// New listens on all addresses. The error says which cannot be listened on; then
// the store is closed, as it is when Serve returns.
func New(o Options) (*Server, error) {
	if o.Config == nil {
		o.Config = new(Config)
	}
	if o.Bounds == (config.Bounds{}) {
		o.Bounds = config.DefaultBounds()
	}
	s := &Server{
		store:    o.Store,
		fallback: o.Fallback,
		delay:    o.ShutdownDelay,
		drain:    o.DrainTimeout,
		logger:   o.Logger,
		book:     account.New(decide.Outcomes, time.Now),
		draining: make(chan struct{}),
	}
	var err error
	if s.ports, err = listen(o); err != nil {
		return nil, errors.Join(err, s.closeStores())
	}
	failures := new(auth.Failures)
	if o.Config.Clients != nil {
		s.gate = &gate{failures: failures, logger: o.Logger}
		s.gate.directory.Store(o.Config.Clients)
	}
	s.inFlight = inflight.New(inflight.Options{Bytes: o.Bounds.BytesInFlight, MessageBytes: o.Bounds.MessageBytes, Wait: o.Bounds.MessageTimeout, Logger: o.Logger})
	o.Registry.MustRegister(s.inFlight)
	trust := &trustRule{Trust: o.Trust, ports: s.ports, gate: s.gate, failures: failures}

	latency := histogram.NewVec("ratelimitd_request_duration_seconds",
		"Time from a call's arrival to its answer, by method; of a stream, of each message.", "method",
		grpcapi.MethodUnary, grpcapi.MethodBatch, grpcapi.MethodStream, envoyapi.Method, httpapi.PathShouldAllow, httpapi.PathAuthorize, respapi.Method)
	o.Registry.MustRegister(latency, s.book.Collector(o.StoreName), failuresCollector{failures})
	s.core = decide.New(decide.Options{
		Store: o.Store, Fallback: o.Fallback, OnError: o.OnError, PoliciesOnly: o.PoliciesOnly, MaxLogCount: o.MaxLogCount, ReservationLife: o.ReservationLife,
		Authenticated: s.gate != nil, Anonymous: trust.anonymous(), Failures: failures,
		Now: o.clock(), Book: s.book, StoreLatency: storeLatency(o), Logger: o.Logger,
	})
	s.readiness = &readiness{health: health.NewServer(), core: s.core, requireDomains: o.RequireDomains}
	s.readiness.awaitsStore.Store(o.AwaitStore)
	o.Panics.CountIn(&s.book.Panics)
	faults := fault.NewLog(s.book, o.Logger)
	chain := &chain{
		calls: newCallCounters(o.Registry, o.Bounds.Calls), gate: s.gate, faults: faults,
		streams: &s.streams, draining: s.draining, turns: turns.New(), messageTimeout: o.Bounds.MessageTimeout,
	}
	o.Registry.MustRegister(chain.turns)
	s.envoy = envoyapi.New(envoyapi.Options{Settings: o.Envoy, MaxBodyBytes: int64(o.Bounds.MessageBytes), Core: s.core, Book: s.book, Faults: faults, Latency: latency.Of(envoyapi.Method), Turns: chain.turns})
	if o.Metrics.Envoy {
		showAsEnvoy(o.Registry, s.envoy, latency)
	}
	failed := &handshakes{failures: failures, logger: o.Logger}
	s.grpc = newGRPC(o.Bounds, chain, s.readiness.health, append([]grpc.ServerOption{
		grpc.ReadBufferSize(0), // for s.inFlight, which reads ahead itself
		grpc.Creds(s.inFlight.Credentials(trust.secureGRPC(failed))),
	}, o.GRPC...))
	grpcapi.New(grpcapi.Options{
		Core: s.core, Faults: faults, Latency: latency, Streams: &s.streams, Draining: s.draining, Bounds: o.Bounds, Turns: chain.turns,
	}).Register(s.grpc)
	s.envoy.Register(s.grpc)

	servers := &httpServers{
		trust: trust, chain: chain, handshakes: failed, readiness: s.readiness, core: s.core, envoy: s.envoy,
		pages:   &pageGuard{failures: failures, origins: http.NewCrossOriginProtection()},
		metrics: metricsHandler(o.Registry, o.Logger), inFlight: s.inFlight,
	}
	s.http = servers.api(&httpapi.API{Core: s.core, Faults: faults, Latency: latency, Turns: chain.turns})
	s.console = console.New(console.Options{
		Core: s.core, Book: s.book, Latency: latency, Metrics: o.Registry, Store: o.StoreName,
		OnError: cmp.Or(o.OnError, policy.FailAllow), MaxLogCount: cmp.Or(o.MaxLogCount, strategy.DefaultMaxLogCount),
		Configuration: func() console.Configuration { return s.readiness.shown(o.Reload) }, Counter: s.envoy.Counter, Trials: o.Trials, Logger: o.Logger,
	})
	s.admin = servers.admin(o, s.book, s.console)
	if s.ports.metrics != nil {
		s.metrics = servers.metricsAlone(o.Metrics.Path)
	}
	if s.ports.resp != nil {
		s.resp = newRESP(respapi.Options{Core: s.core, Latency: latency.Of(respapi.Method), Bounds: o.Bounds, HandshakeFailed: failed.failed}, trust, chain)
		o.Registry.MustRegister(s.resp)
	}
	s.SetConfig(o.Config)
	trust.warn(o.Logger)
	return s, nil
}

// SetConfig puts c in force: each call that begins from now on is decided by
// it, and those under way by what was in force when they began.
func (s *Server) SetConfig(c *Config) {
	s.book.Configured(slices.AppendSeq(c.Envoy.Domains(), maps.Keys(c.Policies.Namespaces())))
	s.book.ConfiguredLimits(c.Envoy.Metrics())
	s.core.SetPolicies(c.Policies)
	s.envoy.SetConfig(c.Envoy)
	if s.gate != nil && c.Clients != nil {
		s.gate.directory.Store(c.Clients)
	}
	s.readiness.setConfig(c)
}

// RefuseConfig counts a configuration that cannot be put in force.
func (s *Server) RefuseConfig() { s.envoy.RefuseConfig() }

// GRPCAddr returns the address that gRPC is served on.
func (s *Server) GRPCAddr() string { return addrOf(s.ports.grpc) }

// HTTPAddr returns the address that HTTP is served on.
func (s *Server) HTTPAddr() string { return addrOf(s.ports.http) }

// AdminAddr returns the address of the admin port, or "".
func (s *Server) AdminAddr() string { return addrOf(s.ports.admin) }

// MetricsAddr returns the address that serves metrics alone, or "".
func (s *Server) MetricsAddr() string { return addrOf(s.ports.metrics) }

// RESPAddr returns the address that serves the protocol of Redis, or "".
func (s *Server) RESPAddr() string { return addrOf(s.ports.resp) }

// Serve serves until ctx ends, or until a listener fails, which is an error.
// Then it reports itself as not serving, answers on for the shutdown delay, takes no
// new calls, waits for those under way up to the drain timeout, ends those that are
// left, and closes the store.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, 5)
	go func() { failed <- s.grpc.Serve(s.ports.grpc) }()
	go func() { failed <- s.http.Serve(s.ports.http) }()
	s.streams.Go(func() { s.inFlight.Watch(s.draining) })
	running := 2
	if s.ports.admin != nil {
		s.streams.Go(func() { s.console.Run(s.draining) })
		running++
		go func() { failed <- serveHTTP(s.admin, s.ports.admin) }()
	}
	if s.ports.metrics != nil {
		running++
		go func() { failed <- serveHTTP(s.metrics, s.ports.metrics) }()
	}
	if s.resp != nil {
		running++
		go func() { failed <- s.resp.Serve(s.ports.resp) }()
	}
	s.logger.Info("serving", "grpc", s.GRPCAddr(), "http", s.HTTPAddr(), "admin", s.AdminAddr(), "resp", s.RESPAddr())
	waiting := s.readiness.lookAtStore(ctx, s.logger)

	var err error
	select {
	case <-ctx.Done():
		if err = s.farewell(failed); err != nil {
			running--
		}
		s.logger.Info("stopping: no new calls; waiting for those under way", "at_most", s.drain.String())
	case err = <-failed:
		running--
	}
	s.stop()
	waiting()
	for range running {
		stopErr := <-failed
		if stopErr == nil || errors.Is(stopErr, http.ErrServerClosed) || errors.Is(stopErr, grpc.ErrServerStopped) {
			continue // the latter if it was stopped before it had begun
		}
		err = errors.Join(err, stopErr)
	}
	err = errors.Join(err, s.closeStores())
	s.logger.Info("stopped")
	return err
}

func (s *Server) closeStores() error {
	var err error
	if s.fallback != nil {
		err = s.fallback.Close()
	}
	if err = errors.Join(err, s.store.Close()); err != nil {
		return fmt.Errorf("close the store: %w", err)
	}
	return nil
}

// farewell reports the server as not serving, and has it answer on for the shutdown
// delay. The error is that of a listener which failed meanwhile.
func (s *Server) farewell(failed <-chan error) error {
	if s.delay <= 0 {
		return nil
	}
	s.readiness.health.Shutdown()
	s.logger.Info("stopping: reported as not serving, and still answering", "for", s.delay.String())
	timer := time.NewTimer(s.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case err := <-failed:
		return err
	}
}

// stop stops both servers, gracefully as long as the drain timeout allows.
func (s *Server) stop() {
	s.readiness.health.Shutdown()
	close(s.draining)
	ctx, cancel := context.WithTimeout(context.Background(), s.drain)
	defer cancel()

	stopped := s.stopRESP(ctx)
	drained := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(drained) }()
	select {
	case <-drained:
	case <-ctx.Done():
		s.logger.Warn("calls are still under way after the drain timeout: ending them", "drain_timeout", s.drain.String())
		s.grpc.Stop()
		<-drained
	}
	s.streams.Wait()
	<-stopped
	// HTTP last, so that readiness and the last metrics can be seen until then.
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
	if s.metrics != nil {
		_ = s.metrics.Close()
	}
	_ = s.admin.Close() // a profile under way holds nothing up
}

// stopRESP stops the port, gracefully until ctx ends. The channel is closed when it has.
func (s *Server) stopRESP(ctx context.Context) <-chan struct{} {
	stopped := make(chan struct{})
	if s.resp == nil {
		close(stopped)
		return stopped
	}
	go func() {
		defer close(stopped)
		if err := s.resp.Shutdown(ctx); err != nil {
			s.logger.Warn("the protocol of Redis: connections are still busy after the drain timeout: ending them", "drain_timeout", s.drain.String())
		}
	}()
	return stopped
}
