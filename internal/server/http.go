package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/account"
	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/inflight"
	"github.com/ratelimitd/ratelimitd/internal/server/adminapi"
	"github.com/ratelimitd/ratelimitd/internal/server/console"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/server/httpapi"
	"github.com/ratelimitd/ratelimitd/internal/server/plainhttp"
)

// httpServers has what the servers of the HTTP ports are made of.
type httpServers struct {
	trust      *trustRule
	chain      *chain
	handshakes *handshakes
	pages      *pageGuard
	readiness  *readiness
	core       *decide.Core
	envoy      *envoyapi.API
	metrics    http.Handler
	inFlight   *inflight.Bound
}

// api returns the server of the HTTP port: the fronts over HTTP, health and metrics.
func (s *httpServers) api(api *httpapi.API) *plainhttp.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `ratelimitd

/healthz          is the process alive
/readyz           should it be sent requests
/metrics          Prometheus metrics
/v1/should-allow  ask, in JSON: one request or many
/v1/reserve, /v1/commit, /v1/cancel, /v1/reset
/v1/authorize     for reverse proxies
/rlconfig         the configuration in force
/json, /healthcheck  as envoyproxy/ratelimit
`)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.readiness.ready)
	mux.HandleFunc("GET /healthcheck", s.readiness.healthcheck)
	mux.Handle("GET /metrics", s.inspection())
	mux.HandleFunc("POST /json", s.pages.callers(http.HandlerFunc(s.envoy.ServeJSON)))
	mux.HandleFunc("GET /rlconfig", s.pages.callers(permitted(s.core.Permit, auth.Inspect, s.limitsInForce())))
	api.Handle(mux, s.pages.callers, func(next http.Handler) http.HandlerFunc { return s.pages.callers(s.trust.mayReset(next)) })
	mux.HandleFunc(httpapi.PathAuthorize, api.Authorize)
	return plainhttp.New(s.open("http", s.straight(api, mux)), httpapi.PathShouldAllow)
}

// straight has the path that is asked most answered without mux: to look it up there takes
// longer than the store for a decision.
func (s *httpServers) straight(api *httpapi.API, mux http.Handler) http.Handler {
	shouldAllow := s.pages.callers(http.HandlerFunc(api.ShouldAllow))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == httpapi.PathShouldAllow {
			shouldAllow(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// metricsAlone returns the server of the port for metrics alone, under path. Who may see
// them on the HTTP port may here, and both have TLS or none has.
func (s *httpServers) metricsAlone(path string) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET "+path, s.inspection())
	return s.open("metrics", mux)
}

// inspection shows metrics only to those who may inspect the daemon, if its clients are
// known: they tell the names of namespaces and policies.
func (s *httpServers) inspection() http.Handler {
	if s.trust.httpIsOpen() {
		return s.metrics
	}
	return permitted(s.core.Permit, auth.Inspect, s.metrics)
}

// open returns the server of a port for callers.
func (s *httpServers) open(port string, handler http.Handler) *http.Server {
	chain := *s.chain
	if s.trust.httpIsOpen() {
		chain.gate = nil
	}
	server := &http.Server{
		Handler:           heldReplies(s.inFlight, chain.http(handler)),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      replyTimeout,
		IdleTimeout:       3 * time.Minute, // longer than proxies keep a connection, so that none sends on one we close
		MaxHeaderBytes:    64 << 10,        // proxies hand on all of their callers' headers
		ErrorLog:          newHTTPLog(s.handshakes, port),
		BaseContext:       func(net.Listener) context.Context { return inflight.NewContext(context.Background(), s.inFlight) },
	}
	if s.chain.gate != nil && chain.gate == nil {
		server.Handler = asCaller(s.trust.anonymous(), server.Handler)
	}
	if s.trust.speaks(s.trust.HTTP) {
		s.trust.secureHTTP(server)
	}
	return server
}

// limitsInForce answers GET /rlconfig.
func (s *httpServers) limitsInForce() http.Handler {
	return s.envoy.ShowConfig(func() string { return s.readiness.config.Load().Text })
}

// admin returns the server of the admin port. On loopback it asks nobody who he is;
// elsewhere it answers only those who may administer the daemon, but for the page of the
// console, which has no data.
func (s *httpServers) admin(o Options, book *account.Book, shown *console.Console) *http.Server {
	// Whoever gets as far as this may administer the daemon.
	operator := auth.Anonymous(auth.Decide, auth.Reset)
	handler := adminapi.New(adminapi.Options{
		Counter:      asCaller(operator, http.HandlerFunc(s.envoy.ShowCounter)),
		ResetCounter: asCaller(operator, http.HandlerFunc(s.envoy.ResetCounter)),
		Console:      shown,
		Book:         book, Metrics: s.metrics, Limits: s.limitsInForce(), LogLevel: o.LogLevel, Logger: o.Logger,
		TestClock: o.TestClock,
		Configuration: func() adminapi.Configuration {
			c := s.readiness.config.Load()
			return adminapi.Configuration{Flags: o.Flags, Version: c.Version, Policies: c.Text}
		},
	})
	chain := *s.chain
	local := s.trust.ports.admin == nil || onLoopback(s.trust.ports.admin)
	if local {
		chain.gate = nil
	} else {
		handler = permitted(s.core.Permit, auth.Admin, handler)
	}
	server := &http.Server{
		Handler:           heldReplies(s.inFlight, bodiesInTime(bodyTimeout, s.pages.admin(adminHosts(o.AdminAddr, o.Trust.AdminHosts), console.Page(chain.http(handler))))),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       3 * time.Minute,
		ErrorLog:          newHTTPLog(s.handshakes, "admin"),
	}
	if !local && s.trust.speaks(s.trust.Admin) {
		s.trust.secureHTTP(server)
	}
	return server
}
