package server

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/tap"

	"github.com/ratelimitd/ratelimitd/internal/server/fault"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

const (
	healthService = "/grpc.health.v1.Health/"
	watchHealth   = healthService + "Watch"
)

// tap is called when a call begins, before any of its message is read. It refuses what is
// beyond the bound on calls, and gives the rest a deadline until which its message
// must have arrived. (It is that of the whole call: no decision takes as long. Streams of
// our API have bounds of their own, and whoever watches health may do so for long.)
func (c *chain) tap(ctx context.Context, call *tap.Info) (context.Context, error) {
	if call.FullMethodName == ratelimitv1.RateLimitService_ShouldAllowStream_FullMethodName || call.FullMethodName == watchHealth {
		return ctx, nil
	}
	if c.calls.underWay.Load() >= int64(c.bounds.Calls) && !strings.HasPrefix(call.FullMethodName, healthService) {
		c.calls.refused.Add(1)
		return nil, fault.ErrTooManyCalls
	}
	latest := time.Now().Add(c.bounds.MessageTimeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(latest) {
		return ctx, nil // gRPC ends it by then
	}
	ctx, cancel := context.WithDeadline(ctx, latest)
	_ = cancel // gRPC cancels the context above it when the call ends
	return ctx, nil
}

var (
	callsDesc = prometheus.NewDesc("ratelimitd_calls_in_flight",
		"gRPC calls whose message has arrived and that are not answered yet, without streams, and connections of the protocol of Redis whose commands are being decided.", nil, nil)
	maxCallsDesc = prometheus.NewDesc("ratelimitd_max_calls",
		"How many there may be.", nil, nil)
	refusedDesc = prometheus.NewDesc("ratelimitd_calls_refused_total",
		"Calls refused to keep to that bound.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *chain) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{callsDesc, maxCallsDesc, refusedDesc} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *chain) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.MustNewConstMetric(callsDesc, prometheus.GaugeValue, float64(c.calls.underWay.Load()))
	metrics <- prometheus.MustNewConstMetric(maxCallsDesc, prometheus.GaugeValue, float64(c.bounds.Calls))
	metrics <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(c.calls.refused.Load()))
}
