// Package stores opens the store that the configuration chooses, with the
// wrappers around it.
package stores

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/admission"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/denycache"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
)

// Open returns the store of c, and registers its metrics and those of its
// wrappers. fallback counts in memory what the store could not decide, for
// on_error: local; it is nil for the memory store, which never fails. The caller
// closes both. What an operator should know later is logged by logger, and panics
// notes the panics of their goroutines. clock is that of the memory store; nil is the
// machine's.
func Open(c *config.Config, registry *prometheus.Registry, logger *slog.Logger, panics *crash.Log, clock func() strategy.Instant) (main, fallback store.Store, err error) {
	if c.Store.Kind == config.Memory {
		main, err = openMemory(c, registry, logger, clock)
		return main, nil, err
	}
	remote, err := openRemote(c, registry, logger, panics)
	if err != nil {
		return nil, nil, err
	}
	if fallback, err = openMemory(c, registry, logger, nil); err != nil {
		return nil, nil, errors.Join(err, remote.Close())
	}
	guarded := breaker.New(remote, c.Store.Timeout)
	registry.MustRegister(guarded.Collector())
	// Before the breaker, which then never sees what the store was not asked.
	shared := admission.New(guarded, admission.Options{Capacity: c.Store.MaxInFlight, Timeout: c.Store.Timeout, CallerOf: callerOf})
	registry.MustRegister(shared.Collector())
	if c.Store.DenyCacheTTL == 0 {
		return shared, fallback, nil
	}
	// Before the admission: what is known needs no turn.
	cached := denycache.New(shared, denycache.Options{TTL: c.Store.DenyCacheTTL})
	registry.MustRegister(cached.Collector())
	return cached, fallback, nil
}

// Favour gives each of namespaces a share of its own in those of stores that have
// shares, and takes that away from all others.
func Favour(namespaces []string, stores ...store.Store) {
	for _, s := range stores {
		if cached, ok := s.(*denycache.Cache); ok {
			s = cached.Store
		}
		if shares, ok := s.(interface{ Favour(namespaces []string) }); ok {
			shares.Favour(namespaces)
		}
	}
}

// Keep has main, if it is the memory store, keep its counters in the file of c, if there
// is one, and restores them from there. Favour comes before it, so that what is restored has
// its share.
func Keep(c *config.Config, main store.Store) error {
	s, ok := main.(*memory.Store)
	if o, kept := c.MemorySnapshots(); ok && kept {
		return c.FlagError("memory-snapshot", s.Keep(o))
	}
	return nil
}

// callerOf returns whose share of the store a call takes, if it is a client's.
func callerOf(ctx context.Context) (name string, shares int) {
	if c := auth.FromContext(ctx); c != nil && c.Share() > 0 {
		return c.Name(), c.Share()
	}
	return "", 0
}

func openMemory(c *config.Config, registry *prometheus.Registry, logger *slog.Logger, clock func() strategy.Instant) (store.Store, error) {
	o := c.MemoryOptions()
	o.Logger, o.Now = logger, clock
	s, err := memory.New(o)
	if err != nil {
		return nil, err
	}
	registry.MustRegister(s.Collector())
	return s, nil
}

func openRemote(c *config.Config, registry *prometheus.Registry, logger *slog.Logger, panics *crash.Log) (breaker.Store, error) {
	if c.Store.Kind == config.Redis {
		o := c.RedisOptions()
		o.Panics, o.Logger = panics, logger
		s, err := redis.New(o)
		if err != nil {
			return nil, err
		}
		registry.MustRegister(s.Collector())
		return s, nil
	}
	o := c.MemcachedOptions()
	o.Panics, o.Logger = panics, logger
	s, err := memcached.New(o)
	if err != nil {
		return nil, err
	}
	registry.MustRegister(s.Collector())
	return s, nil
}
