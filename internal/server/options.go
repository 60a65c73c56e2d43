package server

import (
	"slices"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/netlimit"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
)

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
		Envoy: envoyapi.Settings{
			ShadowMode: c.Envoy.ShadowMode, QuotaMode: c.Envoy.QuotaMode, AllOrNone: c.Envoy.AllOrNone, Overdraw: c.Envoy.Overdraw, DynamicMetadata: c.Envoy.DynamicMetadata, ResponseHeaders: c.Envoy.ResponseHeaders,
			NearLimitRatio: c.Envoy.NearLimitRatio,
			LimitHeader:    c.Envoy.LimitHeader, RemainingHeader: c.Envoy.RemainingHeader, ResetHeader: c.Envoy.ResetHeader,
		},
		PoliciesOnly:    c.PoliciesOnly,
		RequireDomains:  c.Envoy.RequireDomains,
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
