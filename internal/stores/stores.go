// Package stores opens the store that the configuration chooses, with the
// wrappers around it.
package stores

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/crash"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/denycache"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
)

// Open returns the store of c, and registers its metrics and those of its
// wrappers. fallback counts in memory what the store could not decide, for
// on_error: local; it is nil for the memory store, which never fails. The caller
// closes both. panics notes the panics of their goroutines.
func Open(c *config.Config, registry *prometheus.Registry, panics *crash.Log) (main, fallback store.Store, err error) {
	if c.Store.Kind == config.Memory {
		main, err = openMemory(c, registry)
		return main, nil, err
	}
	remote, err := openRemote(c, registry, panics)
	if err != nil {
		return nil, nil, err
	}
	if fallback, err = openMemory(c, registry); err != nil {
		return nil, nil, errors.Join(err, remote.Close())
	}
	guarded := breaker.New(remote)
	registry.MustRegister(guarded.Collector())
	if c.Store.DenyCacheTTL == 0 {
		return guarded, fallback, nil
	}
	cached := denycache.New(guarded, denycache.Options{TTL: c.Store.DenyCacheTTL})
	registry.MustRegister(cached.Collector())
	return cached, fallback, nil
}

func openMemory(c *config.Config, registry *prometheus.Registry) (store.Store, error) {
	s, err := memory.New(c.MemoryOptions())
	if err != nil {
		return nil, err
	}
	registry.MustRegister(s.Collector())
	return s, nil
}

func openRemote(c *config.Config, registry *prometheus.Registry, panics *crash.Log) (breaker.Store, error) {
	if c.Store.Kind == config.Redis {
		o := c.RedisOptions()
		o.Panics = panics
		s, err := redis.New(o)
		if err != nil {
			return nil, err
		}
		registry.MustRegister(s.Collector())
		return s, nil
	}
	o := c.MemcachedOptions()
	o.Panics = panics
	s, err := memcached.New(o)
	if err != nil {
		return nil, err
	}
	registry.MustRegister(s.Collector())
	return s, nil
}
