package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server/console"
	"github.com/ratelimitd/ratelimitd/internal/sleep"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A readiness says, over gRPC and HTTP, whether a server should be asked.
type readiness struct {
	health         *health.Server
	core           *decide.Core
	requireDomains bool
	config         atomic.Pointer[Config] // that in force
	awaitsStore    atomic.Bool
	showing        sync.Mutex // held by show
}

// healthNames are those that the health service knows. The last is what Envoy's
// service calls itself.
var healthNames = []string{"", ratelimitv1.RateLimitService_ServiceDesc.ServiceName, rlsv3.RateLimitService_ServiceDesc.ServiceName, "ratelimit"}

// setConfig says that c is in force.
func (r *readiness) setConfig(c *Config) {
	r.config.Store(c)
	r.show()
}

// shown returns what is in force, as the console shows it. reloads may be nil.
func (r *readiness) shown(reloads func() reload.State) console.Configuration {
	c := r.config.Load()
	shown := console.Configuration{Policies: c.Policies, Text: c.Text, Domains: c.Envoy.Domains()}
	if reloads != nil {
		shown.Reload = new(reloads())
	}
	return shown
}

// show has the health service say whether the server has all that it waits for.
func (r *readiness) show() {
	r.showing.Lock()
	defer r.showing.Unlock()
	status := healthpb.HealthCheckResponse_SERVING
	if r.lacksDomains() || r.awaitsStore.Load() {
		status = healthpb.HealthCheckResponse_NOT_SERVING
	}
	for _, name := range healthNames {
		r.health.SetServingStatus(name, status)
	}
}

// askStoreEvery is how often a store is asked that has not decided yet.
const askStoreEvery = 500 * time.Millisecond

// lookAtStore has the log say if the store does not decide. If the server waits for it,
// that goes on until the store does, or ctx ends. Call what it returns to wait for that.
func (r *readiness) lookAtStore(ctx context.Context, logger *slog.Logger) (wait func()) {
	err := r.core.Probe(ctx)
	if !r.awaitsStore.Load() {
		return func() {}
	}
	ctx, end := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		for err != nil && sleep.For(ctx, askStoreEvery) {
			err = r.core.Probe(ctx)
		}
		if err == nil {
			logger.Info("the store has decided: serving")
			r.awaitsStore.Store(false)
			r.show()
		}
	})
	return func() { end(); looking.Wait() }
}

// lacksDomains reports whether the server has no domains, and must have some.
func (r *readiness) lacksDomains() bool {
	return r.requireDomains && len(r.config.Load().Envoy.Domains()) == 0
}

// whyNotServing says why the server serves nobody: because it begins to stop, or lacks
// domains. "": it serves.
func (r *readiness) whyNotServing(req *http.Request) string {
	reply, err := r.health.Check(req.Context(), &healthpb.HealthCheckRequest{})
	switch {
	case err == nil && reply.GetStatus() == healthpb.HealthCheckResponse_SERVING:
		return ""
	case r.awaitsStore.Load():
		return "the store has made no decision yet, for which --wait-for-store waits; the log says why"
	case r.lacksDomains():
		return "no domain is configured; put a file with one into --envoy-config-dir, or leave out --envoy-require-domains"
	}
	return "stopping"
}

// ready answers GET /readyz: whether the daemon should be sent requests. It should until
// it begins to stop; not before the limits have come that it waits for; and not while the
// store fails, if callers then get nothing but errors.
func (r *readiness) ready(w http.ResponseWriter, req *http.Request) {
	if why := r.whyNotServing(req); why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	if r.config.Load().Envoy.IsAwaited() {
		http.Error(w, "no limits have come from the xDS server yet", http.StatusServiceUnavailable)
		return
	}
	if err := r.core.Ready(req.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// healthcheck answers GET /healthcheck, as envoyproxy/ratelimit does: 500 when it
// is about to stop.
func (r *readiness) healthcheck(w http.ResponseWriter, req *http.Request) {
	if why := r.whyNotServing(req); why != "" {
		http.Error(w, why, http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "OK")
}
