package server

import (
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/netlimit"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/reload"
	"github.com/ratelimitd/ratelimitd/internal/server/console"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	"github.com/ratelimitd/ratelimitd/internal/testclock"
)

// Options say how to make a Server. Store, Logger and Registry are required.
type Options struct {
	GRPCAddr string // host:port; port 0 picks a free one
	HTTPAddr string
	RESPAddr string              // "": the protocol of Redis is not served
	GRPC     []grpc.ServerOption // further options of the gRPC server
	// AdminAddr is where whoever reaches it may profile the daemon and set its
	// log level. "": nowhere.
	AdminAddr string
	LogLevel  *slog.LevelVar // the one of Logger; required with AdminAddr
	Flags     map[string]any // as the admin port shows them: nothing in them is secret

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
	// AwaitStore says that the server is not ready until Store has decided, once.
	AwaitStore bool
	Metrics    MetricsOptions

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

	// Reload says which configuration is in force. nil: there is none that could change.
	Reload func() reload.State
	// Trials try configurations for the console. nil: it cannot try any.
	Trials console.Trials

	Logger   *slog.Logger
	Registry *prometheus.Registry // what /metrics shows
}

// Trust says how the daemon and its callers know one another. The zero Trust has no
// TLS. Whether callers are known at all, Config.Clients says.
type Trust struct {
	TLS *keypair.Pair // nil: no port speaks TLS
	// The ports that speak it. The admin port does only beyond loopback.
	GRPC, HTTP, Admin, RESP bool
	// AllowReset lets everybody reset counters, on any address, if callers are not
	// known.
	AllowReset bool
	AdminHosts []string // that the admin port answers to beside loopback
}

// MetricsOptions say where metrics are shown, beside the HTTP port, and which.
type MetricsOptions struct {
	Addr string // host:port that has nothing else; "": there is none
	Path string // there
	// Envoy says that those of envoyproxy/ratelimit are shown too, by its names.
	Envoy bool
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

// clock returns the clock of Store, if it is not that of the machine.
func (o *Options) clock() func() strategy.Instant {
	if o.TestClock == nil {
		return nil
	}
	return o.TestClock.Now
}

// OptionsOf returns the options of a server as c and p have them, but for its
// stores, logger and registry.
func OptionsOf(c *config.Config, p *config.Policies) Options {
	o := Options{
		GRPCAddr:  c.GRPCAddr,
		HTTPAddr:  c.HTTPAddr,
		AdminAddr: c.AdminAddr,
		RESPAddr:  c.RESPAddr,
		Metrics:   MetricsOptions{Addr: c.MetricsAddr, Path: c.MetricsPath, Envoy: c.Envoy.Metrics},
		Flags:     c.Shown(),
		StoreName: string(c.Store.Kind),
		OnError:   c.Store.OnError,
		Config:    ConfigOf(p),
		Envoy:     envoyapi.SettingsOf(&c.Envoy),

		PoliciesOnly:    c.PoliciesOnly,
		RequireDomains:  c.Envoy.RequireDomains,
		AwaitStore:      c.Store.Await,
		MaxLogCount:     c.Store.MaxLogCount,
		ReservationLife: c.Store.ReservationTTL,
		ShutdownDelay:   c.ShutdownDelay,
		DrainTimeout:    c.DrainTimeout,
		Connections:     netlimit.Options{Max: c.MaxConnections, PerAddress: c.MaxConnectionsPerAddress},
		Bounds:          c.Bounds,
		Trust: Trust{
			GRPC:       slices.Contains(c.Trust.Ports, config.PortGRPC),
			HTTP:       slices.Contains(c.Trust.Ports, config.PortHTTP),
			Admin:      slices.Contains(c.Trust.Ports, config.PortAdmin),
			RESP:       slices.Contains(c.Trust.Ports, config.PortRESP),
			AllowReset: c.Trust.AllowReset,
			AdminHosts: c.Trust.AdminHosts,
		},
	}
	if o.AdminAddr == config.AdminOff {
		o.AdminAddr = ""
	}
	return o
}

// ConfigOf returns p as SetConfig takes it.
func ConfigOf(p *config.Policies) *Config {
	return &Config{Policies: p.Namespaces, Envoy: p.Domains, Clients: p.Clients, Text: p.Text, Version: p.Version}
}
