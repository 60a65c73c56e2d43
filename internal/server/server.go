// Package server is the daemon: it listens, puts the fronts around the core of
// decisions, has every call pass one chain, and stops in order.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/histogram"
	"github.com/ratelimitd/ratelimitd/internal/netlimit"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi"
	"github.com/ratelimitd/ratelimitd/internal/server/grpcapi/codec"
	"github.com/ratelimitd/ratelimitd/internal/server/httpapi"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/testclock"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// connectionTimeout is how long a gRPC connection may take until calls can be made on it,
// with its TLS handshake.
const connectionTimeout = 10 * time.Second

// windowBytes is how much a client may send of a message that nobody has begun to read, on
// each stream; and how much on a connection before that is acknowledged, which is at
// once. It is the least that gRPC has, and fixed: by itself gRPC would raise it to 16 MB.
const windowBytes = 64<<10 - 1

// streamWorkers is how many goroutines are kept to answer calls: a goroutine of
// its own for each call costs a fifth more of the server's time, most of it for
// growing its stack. When all are busy, that is what further calls get.
const streamWorkers = 128

// Options say how to make a Server. Store, Logger and Registry are required.
type Options struct {
	GRPCAddr string // host:port; port 0 picks a free one
	HTTPAddr string
	GRPC     []grpc.ServerOption // further options of the gRPC server
	// AdminAddr is where whoever reaches it may profile the daemon and set its
	// log level. "": nowhere.
	AdminAddr string
	LogLevel  *slog.LevelVar    // the one of Logger; required with AdminAddr
	Flags     map[string]string // as the admin port shows them: nothing in them is secret

	Store     store.Store    // closed by the Server
	StoreName string         // as metrics show it
	OnError   policy.OnError // of namespaces that configure none; "": policy.FailAllow
	// Fallback counts what Store cannot, under policy.FailLocal. It is closed
	// by the Server, and must not fail. A Store that never fails needs none.
	Fallback store.Store

	TestClock *testclock.Clock // the clock of Store, which the admin port turns; nil: it is none of these

	Config       *Config // nil: nothing is configured
	Trust        Trust
	Envoy        envoyapi.Settings
	PoliciesOnly bool // callers may not send limits of their own, in no namespace
	// RequireDomains says that the server is not ready while Config has none of Envoy.
	RequireDomains bool
	Metrics        MetricsOptions

	// MaxLogCount caps the count of SLIDING_WINDOW_LOG limits. 0 is
	// strategy.DefaultMaxLogCount.
	MaxLogCount int64
	// ReservationLife is how long a reservation can be settled. 0 is
	// decide.DefaultReservationLife.
	ReservationLife time.Duration
	// ShutdownDelay is how long Serve answers on when it is told to stop, while it
	// reports the server as not serving.
	ShutdownDelay time.Duration
	DrainTimeout  time.Duration // bounds how long Serve then waits for calls under way
	// Panics notes the panics of the stores' goroutines. The server counts them with
	// its own. It may be nil.
	Panics *crash.Log
	Bounds config.Bounds // of all else; the zero Bounds are the default
	// Connections bound those to all ports. The server sets their Logger.
	Connections netlimit.Options

	Logger   *slog.Logger
	Registry *prometheus.Registry // what /metrics shows
}

// clock returns the clock of Store, if it is not that of the machine.
func (o *Options) clock() func() strategy.Instant {
	if o.TestClock == nil {
		return nil
	}
	return o.TestClock.Now
}

// A Server is a listening daemon. New makes it, and Serve runs it once.
type Server struct {
	store    store.Store
	fallback store.Store
	delay    time.Duration
	drain    time.Duration
	logger   *slog.Logger
	config   atomic.Pointer[Config]

	book  *account.Book
	core  *decide.Core
	envoy *envoyapi.API
	chain *chain

	failures   *auth.Failures
	handshakes *handshakes
	pages      *http.CrossOriginProtection

	health *health.Server
	grpc   *grpc.Server
	http   *http.Server
	admin  *http.Server
	// metrics serves nothing but metrics; nil without an address for that.
	metrics *http.Server

	grpcListener, httpListener net.Listener
	adminListener              net.Listener // nil without an admin port
	metricsListener            net.Listener // nil without metrics

	requireDomains bool

	draining chan struct{}  // closed when the server begins to stop
	streams  sync.WaitGroup // the goroutines that answer streams
}

// New listens on all addresses. The error says which cannot be listened on; then
// the store is closed, as it is when Serve returns.
func New(o Options) (*Server, error) {
	s := &Server{
		store:    o.Store,
		fallback: o.Fallback,
		delay:    o.ShutdownDelay,
		drain:    o.DrainTimeout,
		logger:   o.Logger,
		book:     account.New(decide.Outcomes, time.Now),
		health:   health.NewServer(),
		draining: make(chan struct{}),
		failures: new(auth.Failures),
		pages:    http.NewCrossOriginProtection(),

		requireDomains: o.RequireDomains,
	}
	s.handshakes = &handshakes{failures: s.failures, logger: o.Logger}
	if o.Config == nil {
		o.Config = new(Config)
	}
	if o.Bounds == (config.Bounds{}) {
		o.Bounds = config.DefaultBounds()
	}
	if err := s.listen(o); err != nil {
		return nil, errors.Join(err, s.closeStores())
	}
	s.boundConnections(o)

	latency := histogram.NewVec("ratelimitd_request_duration_seconds",
		"Time from a call's arrival to its answer, by method; of a stream, of each message.", "method",
		grpcapi.MethodUnary, grpcapi.MethodBatch, grpcapi.MethodStream, envoyapi.Method, httpapi.PathShouldAllow, httpapi.PathAuthorize)
	o.Registry.MustRegister(latency, s.book.Collector(o.StoreName), failuresCollector{s.failures})
	s.core = decide.New(decide.Options{
		Store: o.Store, Fallback: o.Fallback, OnError: o.OnError, PoliciesOnly: o.PoliciesOnly, MaxLogCount: o.MaxLogCount, ReservationLife: o.ReservationLife,
		Authenticated: o.Config.Clients != nil, Anonymous: s.anonymous(&o.Trust), Failures: s.failures,
		Now: o.clock(), Book: s.book, StoreLatency: storeLatency(o), Logger: o.Logger,
	})
	o.Panics.CountIn(&s.book.Panics)
	faults := fault.NewLog(s.book, o.Logger)
	s.chain = &chain{calls: newCallCounters(o.Registry), faults: faults, streams: &s.streams, draining: s.draining, bounds: o.Bounds}
	o.Registry.MustRegister(s.chain)
	if o.Config.Clients != nil {
		s.chain.gate = &gate{failures: s.failures, logger: o.Logger}
		s.chain.gate.directory.Store(o.Config.Clients)
	}
	s.envoy = envoyapi.New(envoyapi.Options{Settings: o.Envoy, MaxBodyBytes: int64(o.Bounds.MessageBytes), Core: s.core, Book: s.book, Faults: faults, Latency: latency.Of(envoyapi.Method)})
	s.showAsEnvoy(o, latency)
	s.grpc = s.newGRPC(o, grpcapi.New(grpcapi.Options{
		Core: s.core, Faults: faults, Latency: latency, Streams: &s.streams, Draining: s.draining, Bounds: o.Bounds,
	}))
	metrics := metricsHandler(o.Registry, o.Logger)
	s.http = s.newHTTP(&o.Trust, &httpapi.API{Core: s.core, Faults: faults, Latency: latency}, metrics)
	s.admin = s.newAdmin(o, metrics)
	if s.metricsListener != nil {
		s.metrics = s.newMetrics(o, metrics)
	}
	s.SetConfig(o.Config)
	s.warnOfTrust(&o.Trust)
	return s, nil
}

// memoryStore is the name of the store that is in the process. Its decisions are
// not timed: that would cost as much as it measures.
const memoryStore = "memory"

// storeLatency returns what the store's decisions are timed by, or nil.
func storeLatency(o Options) *histogram.Histogram {
	if o.StoreName == memoryStore {
		return nil
	}
	latency := histogram.NewVec("ratelimitd_store_operation_duration_seconds",
		"Time that a store outside the process took to decide what one call asked (a batch is one operation).", "store", o.StoreName)
	o.Registry.MustRegister(latency)
	return latency.Of(o.StoreName)
}

// newGRPC returns the server of the gRPC port: the fronts over gRPC, health and
// reflection. It starts its workers.
func (s *Server) newGRPC(o Options, api *grpcapi.API) *grpc.Server {
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(o.Bounds.MessageBytes),
		grpc.MaxConcurrentStreams(uint32(o.Bounds.Streams)),  //nolint:gosec // checked by config
		grpc.MaxHeaderListSize(uint32(o.Bounds.HeaderBytes)), //nolint:gosec // likewise
		grpc.InitialWindowSize(windowBytes),
		grpc.InitialConnWindowSize(windowBytes),
		grpc.InTapHandle(s.chain.tap),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(codec.New()),
		grpc.RPCDecompressor(noGzip{}), //nolint:staticcheck // deprecated, and the only way to turn gzip off
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time:                  time.Minute, // finds clients that vanished
			MaxConnectionAge:      o.Bounds.ConnectionAge,
			MaxConnectionAgeGrace: o.Bounds.ConnectionGrace,
			MaxConnectionIdle:     o.Bounds.ConnectionIdle,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.chain.unary),
		grpc.StreamInterceptor(s.chain.stream),
	}
	if secure := s.secureGRPC(&o.Trust); secure != nil {
		options = append(options, grpc.Creds(secure))
	}
	g := grpc.NewServer(append(options, o.GRPC...)...)
	api.Register(g)
	s.envoy.Register(g)
	healthpb.RegisterHealthServer(refusingRegistrar{g, s.chain.faults.Undecodable}, s.health)
	reflection.Register(g)
	return g
}

// noGzip refuses compressed messages. The exporter of traces installs gzip for all
// of gRPC, and with it a caller's few kilobytes would become megabytes here.
// Messages are small, so that compression costs more than it saves.
type noGzip struct{}

// Type implements grpc.Decompressor.
func (noGzip) Type() string { return "gzip" }

// Do implements grpc.Decompressor.
func (noGzip) Do(io.Reader) ([]byte, error) {
	return nil, errors.New("this server takes no compressed messages; send them uncompressed")
}

// A refusingRegistrar registers services whose unary methods have generated
// handlers, so that these too refuse what cannot be decoded. (The fronts see to
// that themselves, and the chain does for streams.)
type refusingRegistrar struct {
	*grpc.Server
	refuse codec.Refusal
}

// RegisterService implements grpc.ServiceRegistrar.
func (r refusingRegistrar) RegisterService(d *grpc.ServiceDesc, impl any) {
	own := *d
	own.Methods = slices.Clone(d.Methods)
	for i := range own.Methods {
		m := &own.Methods[i]
		m.Handler = r.refuse.Handler("/"+d.ServiceName+"/"+m.MethodName, m.Handler)
	}
	r.Server.RegisterService(&own, impl)
}

func (s *Server) listen(o Options) error {
	var err error
	var open []net.Listener
	for _, l := range []struct {
		to                  *net.Listener
		flag, addr, example string
		optional            bool
	}{
		{&s.grpcListener, "grpc-addr", o.GRPCAddr, "127.0.0.1:8081", false},
		{&s.httpListener, "http-addr", o.HTTPAddr, "127.0.0.1:8080", false},
		{&s.adminListener, "admin-addr", o.AdminAddr, "127.0.0.1:6070, or off", true},
		{&s.metricsListener, "metrics-addr", o.Metrics.Addr, "127.0.0.1:9090", true},
	} {
		if l.addr == "" && l.optional {
			continue
		}
		if *l.to, err = listenOn(l.flag, l.addr, l.example); err != nil {
			for _, l := range open {
				_ = l.Close()
			}
			return err
		}
		open = append(open, *l.to)
	}
	return nil
}

// boundConnections bounds the connections of all ports.
func (s *Server) boundConnections(o Options) {
	o.Connections.Logger = o.Logger
	bound := netlimit.New(o.Connections)
	o.Registry.MustRegister(bound)
	s.grpcListener = bound.Listen(s.grpcListener, "grpc")
	s.httpListener = bound.Listen(s.httpListener, "http")
	if s.adminListener != nil {
		s.adminListener = bound.Listen(s.adminListener, "admin")
	}
	if s.metricsListener != nil {
		s.metricsListener = bound.Listen(s.metricsListener, "metrics")
	}
}

// listenOn listens on the address that a flag gives.
func listenOn(flag, addr, example string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--%s %q: another process listens there (%w): stop it, or give a free port", flag, addr, err)
	default:
		return nil, fmt.Errorf("--%s %q: %w; give an address of this machine, such as %s", flag, addr, err, example)
	}
}

// A Config is what may change while the server runs. The zero Config configures
// nothing. What is in force is not to be changed: SetConfig replaces it.
type Config struct {
	Policies *policy.Config
	Envoy    *envoy.Config
	// Clients are those that may ask. nil: everybody may. Whether there are any is
	// settled when the server is made.
	Clients *auth.Directory
	Text    string // Policies as people are shown them
	Version string // tells it from others, as the log does
}

// SetConfig puts c in force: each call that begins from now on is decided by
// it, and those under way by what was in force when they began.
func (s *Server) SetConfig(c *Config) {
	s.book.Configured(slices.AppendSeq(c.Envoy.Domains(), maps.Keys(c.Policies.Namespaces())))
	s.book.ConfiguredLimits(c.Envoy.Metrics())
	s.core.SetPolicies(c.Policies)
	s.envoy.SetConfig(c.Envoy)
	status := healthpb.HealthCheckResponse_SERVING
	if s.requireDomains && len(c.Envoy.Domains()) == 0 {
		status = healthpb.HealthCheckResponse_NOT_SERVING
	}
	for _, name := range healthNames {
		s.health.SetServingStatus(name, status)
	}
	if s.chain.gate != nil && c.Clients != nil {
		s.chain.gate.directory.Store(c.Clients)
	}
	s.config.Store(c)
}

// RefuseConfig counts a configuration that cannot be put in force.
func (s *Server) RefuseConfig() { s.envoy.RefuseConfig() }

// healthNames are those that the health service knows. The last is what Envoy's
// service calls itself.
var healthNames = []string{"", ratelimitv1.RateLimitService_ServiceDesc.ServiceName, rlsv3.RateLimitService_ServiceDesc.ServiceName, "ratelimit"}

// GRPCAddr returns the address that gRPC is served on.
func (s *Server) GRPCAddr() string { return s.grpcListener.Addr().String() }

// HTTPAddr returns the address that HTTP is served on.
func (s *Server) HTTPAddr() string { return s.httpListener.Addr().String() }

// AdminAddr returns the address of the admin port, or "".
func (s *Server) AdminAddr() string {
	if s.adminListener == nil {
		return ""
	}
	return s.adminListener.Addr().String()
}

// MetricsAddr returns the address that serves metrics alone, or "".
func (s *Server) MetricsAddr() string {
	if s.metricsListener == nil {
		return ""
	}
	return s.metricsListener.Addr().String()
}

// Serve serves until ctx ends, or until a listener fails, which is an error.
// Then it reports itself as not serving, answers on for the shutdown delay, takes no
// new calls, waits for those under way up to the drain timeout, ends those that are
// left, and closes the store.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, 4)
	go func() { failed <- s.grpc.Serve(s.grpcListener) }()
	go func() { failed <- serveHTTP(s.http, s.httpListener) }()
	running := 2
	if s.adminListener != nil {
		running++
		go func() { failed <- serveHTTP(s.admin, s.adminListener) }()
	}
	if s.metricsListener != nil {
		running++
		go func() { failed <- serveHTTP(s.metrics, s.metricsListener) }()
	}
	s.logger.Info("serving", "grpc", s.GRPCAddr(), "http", s.HTTPAddr(), "admin", s.AdminAddr())
	s.core.Probe(ctx)

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
	for range running {
		stopErr := <-failed
		if errors.Is(stopErr, http.ErrServerClosed) || errors.Is(stopErr, grpc.ErrServerStopped) {
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
	s.health.Shutdown()
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
	s.health.Shutdown()
	close(s.draining)
	ctx, cancel := context.WithTimeout(context.Background(), s.drain)
	defer cancel()

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
	// HTTP last, so that readiness and the last metrics can be seen until then.
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
	if s.metrics != nil {
		_ = s.metrics.Close()
	}
	_ = s.admin.Close() // a profile under way holds nothing up
}
