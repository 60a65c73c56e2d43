// Package server answers the gRPC API and the HTTP endpoints from a store.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/ratelimitd/ratelimitd/internal/codec"
	"github.com/ratelimitd/ratelimitd/internal/hotkeys"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// DefaultDrainTimeout is how long a shutdown waits for calls under way: well
// under the 30 s after which Kubernetes kills.
const DefaultDrainTimeout = 10 * time.Second

// maxMessageBytes fits the largest valid batch: 1,000 requests of 16 limits
// with names as long as they may be.
const maxMessageBytes = 8 << 20

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
	// Fallback counts what Store can not, under policy.FailLocal. It is closed
	// by the Server, and must not fail. A Store that never fails needs none.
	Fallback store.Store

	Config       *Config // nil: nothing is configured
	Envoy        EnvoyOptions
	PoliciesOnly bool // callers may not send limits of their own, in no namespace

	// MaxLogCount caps the count of SLIDING_WINDOW_LOG limits. 0 is
	// strategy.DefaultMaxLogCount.
	MaxLogCount int64
	// DrainTimeout bounds how long Serve waits for calls under way when it is
	// told to stop. 0 is DefaultDrainTimeout.
	DrainTimeout time.Duration

	Logger   *slog.Logger
	Registry *prometheus.Registry // what /metrics shows
}

// A Server is a listening daemon. New makes it, and Serve runs it once.
type Server struct {
	ratelimitv1.UnimplementedRateLimitServiceServer

	store        store.Store
	fallback     store.Store
	onError      policy.OnError
	policiesOnly bool
	envoy        EnvoyOptions
	config       atomic.Pointer[Config]
	maxLogCount  int64
	drain        time.Duration
	logger       *slog.Logger
	metrics      *metrics
	hotKeys      *hotkeys.Tracker
	failure      failure
	panicked     occasional

	health *health.Server
	grpc   *grpc.Server
	http   *http.Server
	admin  *http.Server

	grpcListener, httpListener net.Listener
	adminListener              net.Listener // nil without an admin port

	draining chan struct{}  // closed when the server begins to stop
	streams  sync.WaitGroup // the goroutines that answer streams
}

// New listens on both addresses. The error says which can not be listened on;
// then the store is closed, as it is when Serve returns.
func New(o Options) (*Server, error) {
	s := &Server{
		store:        o.Store,
		fallback:     o.Fallback,
		onError:      o.OnError,
		policiesOnly: o.PoliciesOnly,
		envoy:        o.Envoy,
		maxLogCount:  o.MaxLogCount,
		drain:        o.DrainTimeout,
		logger:       o.Logger,
		metrics:      newMetrics(o.Registry, o.StoreName),
		hotKeys:      hotkeys.New(time.Now),
		health:       health.NewServer(),
		draining:     make(chan struct{}),
	}
	if s.onError == "" {
		s.onError = policy.FailAllow
	}
	if o.Config == nil {
		o.Config = new(Config)
	}
	s.SetConfig(o.Config)
	if s.maxLogCount == 0 {
		s.maxLogCount = strategy.DefaultMaxLogCount
	}
	if s.drain == 0 {
		s.drain = DefaultDrainTimeout
	}

	if err := s.listen(o); err != nil {
		return nil, errors.Join(err, s.closeStores())
	}
	s.grpc = grpc.NewServer(append([]grpc.ServerOption{ // starts its workers
		grpc.MaxRecvMsgSize(maxMessageBytes),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ForceServerCodecV2(codec.New()),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute}), // finds clients that vanished
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.unary),
		grpc.ChainStreamInterceptor(s.metrics.grpc.countStream, s.endStreams),
	}, o.GRPC...)...)
	s.grpc.RegisterService(s.service(), s)
	rlsv3.RegisterRateLimitServiceServer(s.grpc, envoyService{Server: s})
	healthpb.RegisterHealthServer(s.grpc, s.health)
	for _, name := range []string{ratelimitv1.RateLimitService_ServiceDesc.ServiceName, rlsv3.RateLimitService_ServiceDesc.ServiceName, "ratelimit"} {
		s.health.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING) // the last is what Envoy's service calls itself
	}
	reflection.Register(s.grpc)

	s.http = &http.Server{
		Handler:           s.httpHandler(o.Registry),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       3 * time.Minute, // longer than proxies keep a connection, so that none sends on one we close
		MaxHeaderBytes:    64 << 10,        // proxies hand on all of their callers' headers
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
	}
	s.admin = &http.Server{
		Handler:           s.adminHandler(o.Registry, o.LogLevel, o.Flags),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          s.http.ErrorLog,
	}
	return s, nil
}

func (s *Server) listen(o Options) error {
	var err error
	if s.grpcListener, err = net.Listen("tcp", o.GRPCAddr); err != nil {
		return fmt.Errorf("gRPC address %q: %w; choose another with --grpc-addr, such as 127.0.0.1:8081", o.GRPCAddr, err)
	}
	if s.httpListener, err = net.Listen("tcp", o.HTTPAddr); err != nil {
		_ = s.grpcListener.Close()
		return fmt.Errorf("HTTP address %q: %w; choose another with --http-addr, such as 127.0.0.1:8080", o.HTTPAddr, err)
	}
	if o.AdminAddr == "" {
		return nil
	}
	if s.adminListener, err = net.Listen("tcp", o.AdminAddr); err != nil {
		_ = s.grpcListener.Close()
		_ = s.httpListener.Close()
		return fmt.Errorf("admin address %q: %w; choose another with --admin-addr, such as 127.0.0.1:6070, or none with --admin-addr=off", o.AdminAddr, err)
	}
	return nil
}

// A Config is what may change while the server runs. The zero Config configures
// nothing. What is in force is not to be changed: SetConfig replaces it.
type Config struct {
	Policies *policy.Config
	Envoy    *envoy.Config
	Text     string // Policies as people are shown them
	Version  string // tells it from others, as the log does
}

// SetConfig puts c in force: each call that begins from now on is decided by
// it, and those under way by what was in force when they began.
func (s *Server) SetConfig(c *Config) {
	names := slices.AppendSeq(c.Envoy.Domains(), maps.Keys(c.Policies.Namespaces()))
	s.metrics.configured(names)
	s.hotKeys.Configured(names)
	s.config.Store(c)
}

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

// Serve serves until ctx ends, or until a listener fails, which is an error.
// Then it reports itself as not serving, takes no new calls, waits for those
// under way up to the drain timeout, ends those that are left, and closes the
// store.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, 3)
	go func() { failed <- s.grpc.Serve(s.grpcListener) }()
	go func() { failed <- s.http.Serve(s.httpListener) }()
	running := 2
	if s.adminListener != nil {
		running++
		go func() { failed <- s.admin.Serve(s.adminListener) }()
	}
	s.logger.Info("serving", "grpc", s.GRPCAddr(), "http", s.HTTPAddr(), "admin", s.AdminAddr())
	if err := s.store.Health(ctx); err != nil && ctx.Err() == nil {
		s.failure.failed(s.logger, s.onError, err, 0)
	}

	var err error
	select {
	case <-ctx.Done():
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
	_ = s.admin.Close() // a profile under way holds nothing up
}
