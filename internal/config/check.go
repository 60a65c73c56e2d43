package config

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/decide"
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/admission"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
)

const (
	// maxMaxLogCount keeps the log of one counter to 16 MB.
	maxMaxLogCount = 1_000_000
	// maxMemoryKeys is what a machine with 1 TB holds.
	maxMemoryKeys = 10_000_000_000
	// maxMaxConnections is more connections than a process can have.
	maxMaxConnections = 10_000_000
	// A request has up to 16 counters, so that fewer than minInFlight would be of no use.
	// maxInFlight is more than any store answers in time.
	minInFlight, maxInFlight = 16, 1_000_000
	// maxConns is more connections than a store serves well.
	maxConns = 10_000
	// minMessageBytes fits any valid request, as JSON too.
	minMessageBytes = 64 << 10
)

// check returns all that is wrong with the values of the settings: whatever would
// keep the daemon from starting, as far as this process can tell without
// opening a port or a connection.
func (c *Config) check() []error {
	k := &check{c: c}
	k.addresses()
	if path := k.c.MetricsPath; !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " {}?#") {
		k.problem("metrics-path", " %s: write a path, such as /metrics", flags.Quote(path))
	}
	k.trust()
	k.stores()
	k.memory()
	switch c.Store.Kind {
	case Memory:
	case Redis:
		k.redis()
	case Memcached:
		k.memcached()
	}
	k.envoy()
	k.bounds()
	k.xds()
	if c.TestClock {
		k.testClock()
	}
	k.duration("drain-timeout", c.DrainTimeout, "10s")
	k.must(c.ShutdownDelay >= 0, "shutdown-delay", c.ShutdownDelay, "0 or above, such as 5s")
	for flag, n := range map[string]int{"max-connections": c.MaxConnections, "max-connections-per-address": c.MaxConnectionsPerAddress} {
		k.must(n >= 0 && n <= maxMaxConnections, flag, n, fmt.Sprintf("0 to %d, such as 10000; 0 is the default", maxMaxConnections))
	}
	return k.wrong
}

func (k *check) stores() {
	s := &k.c.Store
	k.duration("store-timeout", s.Timeout, "50ms")
	k.must(s.DenyCacheTTL >= 0, "deny-cache-ttl", s.DenyCacheTTL, "0 or above, such as 1s")
	k.must(s.ReservationTTL >= time.Second && s.ReservationTTL <= decide.MaxReservationLife, "reservation-ttl", s.ReservationTTL, "1s to 168h, such as 1h")
	k.must(s.MaxLogCount > 0 && s.MaxLogCount <= maxMaxLogCount, "max-log-count", s.MaxLogCount, fmt.Sprintf("1 to %d, such as 10000", maxMaxLogCount))
	k.must(s.MaxInFlight >= minInFlight && s.MaxInFlight <= maxInFlight, "store-max-in-flight", s.MaxInFlight, fmt.Sprintf("%d to %d, such as %d", minInFlight, maxInFlight, admission.DefaultCapacity))
	r := &k.c.redis
	k.must(r.Database >= 0, "redis-database", r.Database, "0 or above, such as 0")
	k.must(r.PoolSize >= 0 && r.PoolSize <= maxConns, "redis-pool-size", r.PoolSize, fmt.Sprintf("0 to %d, such as 64", maxConns))
	k.must(r.MinIdle >= 0, "redis-min-idle", r.MinIdle, "0 or above, such as 4")
	k.duration("redis-dial-timeout", r.DialTimeout, "1s")
	m := &k.c.memcached
	k.must(m.MaxConns > 0 && m.MaxConns <= maxConns, "memcached-max-conns", m.MaxConns, fmt.Sprintf("1 to %d, such as 16", maxConns))
}

// memory checks what every daemon needs: one that counts elsewhere counts in
// memory for --on-error=local.
func (k *check) memory() {
	k.snapshots()
	o := k.c.MemoryOptions()
	if o.MaxKeys < 1 || o.MaxKeys > maxMemoryKeys {
		k.must(false, "memory-max-keys", o.MaxKeys, fmt.Sprintf("1 to %d, such as %d", maxMemoryKeys, memory.DefaultMaxKeys))
		return
	}
	k.option("memory-shards", o.Check())
}

// snapshots checks where the counters in memory are kept. Whether the daemon may write
// there shows when it starts.
func (k *check) snapshots() {
	k.duration("memory-snapshot-interval", k.c.snapshots.Interval, "10s")
	file := k.c.snapshots.File
	if file == "" {
		return
	}
	if k.c.Store.Kind != Memory {
		k.problem("memory-snapshot", " %s: with --store=%s the counters are not in memory; leave it out, or use --store=memory", flags.Quote(file), k.c.Store.Kind)
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		k.problem("memory-snapshot", " %s: is no regular file; write one, such as /var/lib/ratelimitd/counters", flags.Quote(file))
	}
	dir := filepath.Dir(file)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		k.problem("memory-snapshot", " %s: there is no directory %s; make it", flags.Quote(file), flags.Quote(dir))
	}
}

// redis checks each option beside the URLs alone, so that the message names its
// flag, and then all together.
func (k *check) redis() {
	o := k.c.RedisOptions()
	if len(o.URLs) == 0 {
		k.problem("redis-url", ": is empty; write one or several URLs, such as %s", redis.DefaultURL)
		return
	}
	base := redis.Options{URLs: o.URLs, MasterName: o.MasterName}
	if o.Password != "" || o.PasswordFile != "" || o.AuthFile != "" {
		base.Password = "any" // as a user needs one
	}
	if !k.option("redis-url", base.Check()) {
		return
	}
	before := k.found
	with := func(flag string, set func(*redis.Options)) {
		one := base
		set(&one)
		k.option(flag, one.Check())
	}
	with("redis-sentinel-user", func(one *redis.Options) { one.SentinelUser = o.SentinelUser })
	with("redis-sentinel-password", func(one *redis.Options) { one.SentinelPassword = o.SentinelPassword })
	with("redis-shared-scripts", func(one *redis.Options) {
		one.Cluster, one.SharedScripts = o.Cluster && o.MasterName == "" && o.SharedScripts == redis.ShareAlways, o.SharedScripts
	})
	with("redis-key-prefix", func(one *redis.Options) { one.KeyPrefix = o.KeyPrefix })
	if o.MasterName != "" {
		with("redis-sentinel-master", func(one *redis.Options) { one.Cluster = o.Cluster })
	}
	userFlag := "redis-user"
	if o.User == "" { // then it is in a URL
		userFlag = "redis-url"
	}
	with(userFlag, func(one *redis.Options) {
		one.User = o.User
	})
	for _, file := range []struct{ flag, password, auth string }{{"redis-password-file", o.PasswordFile, ""}, {"redis-auth-file", o.PasswordFile, o.AuthFile}} {
		if file.password+file.auth != "" {
			with(file.flag, func(one *redis.Options) {
				one.User, one.Password, one.PasswordFile, one.AuthFile = o.User, o.Password, file.password, file.auth
			})
		}
	}
	if o.Database > 0 {
		with("redis-database", func(one *redis.Options) { one.Cluster, one.Database = o.Cluster && o.MasterName == "", o.Database })
	}
	with("redis-tls-ca", func(one *redis.Options) { one.CAFile = o.CAFile })
	if o.CertFile != "" || o.KeyFile != "" {
		flag := "redis-tls-cert"
		if o.CertFile == "" {
			flag = "redis-tls-key"
		}
		with(flag, func(one *redis.Options) { one.CertFile, one.KeyFile = o.CertFile, o.KeyFile })
	}
	with("redis-tls-server-name", func(one *redis.Options) { one.ServerName = o.ServerName })
	if o.MinIdle > 0 && o.PoolSize >= 0 && o.PoolSize <= maxConns {
		with("redis-min-idle", func(one *redis.Options) { one.PoolSize, one.MinIdle = o.PoolSize, o.MinIdle })
	}
	if k.found == before { // what is wrong only with the whole
		k.option("redis-url", o.Check())
	}
}

func (k *check) memcached() {
	o := k.c.MemcachedOptions()
	if len(o.Addrs) == 0 {
		k.problem("memcached-addr", ": is empty; write one or several addresses, such as %s", memcached.DefaultAddr)
		return
	}
	k.option("memcached-key-prefix", store.CheckKeyPrefix(o.KeyPrefix))
	for i, addr := range o.Addrs {
		one := memcached.Options{Addrs: []string{addr}}
		if one.Check() != nil { // whose error quotes the address as it is
			k.problem("memcached-addr", " %s: write it as host:port, such as %s", flags.Quote(addr), memcached.DefaultAddr)
		} else if slices.Contains(o.Addrs[:i], addr) {
			k.problem("memcached-addr", " %s: is there twice; write each server once", flags.Quote(addr))
		}
	}
}

func (k *check) envoy() {
	e := &k.c.Envoy
	for _, h := range []struct{ flag, name string }{
		{"envoy-limit-header", e.LimitHeader}, {"envoy-remaining-header", e.RemainingHeader}, {"envoy-reset-header", e.ResetHeader},
	} {
		if !isHeader(h.name) {
			k.problem(h.flag, " %s: is not the name of a header, such as RateLimit-Limit", flags.Quote(h.name))
		}
	}
	k.must(e.NearLimitRatio > 0 && e.NearLimitRatio <= 1, "envoy-near-limit-ratio", e.NearLimitRatio, "above 0 and at most 1, such as 0.8")
	if e.AllOrNone && e.Overdraw == envoy.OverdrawAlways {
		k.problem("envoy-overdraw", " %s: with --envoy-all-or-none, what is over a limit is not counted; leave one of them out, or write overdraw: always at the limits that it is for", e.Overdraw)
	}
	if e.ConfigDir == "" {
		return
	}
	if info, err := os.Stat(e.ConfigDir); err == nil && !info.IsDir() {
		k.problem("envoy-config-dir", " %s: is not a directory; write one, such as /etc/ratelimitd/envoy", flags.Quote(e.ConfigDir))
	}
}

// bounds checks the Bounds.
func (k *check) bounds() {
	b := &k.c.Bounds
	number := func(flag string, n, least, most, example int) {
		k.must(n >= least && n <= most, flag, n, fmt.Sprintf("%d to %d, such as %d", least, most, example))
	}
	standard := DefaultBounds()
	number("max-message-bytes", b.MessageBytes, minMessageBytes, math.MaxInt32, standard.MessageBytes)
	number("max-header-bytes", b.HeaderBytes, 1<<10, 1<<20, standard.HeaderBytes)
	number("max-streams", b.Streams, 1, 1_000_000, standard.Streams)
	number("max-bytes-in-flight", b.BytesInFlight, 2*minMessageBytes, math.MaxInt, standard.BytesInFlight)
	number("max-calls", b.Calls, 1, 10_000_000, standard.Calls)
	k.duration("message-timeout", b.MessageTimeout, "10s")
	k.duration("connection-age", b.ConnectionAge, "10m")
	k.duration("connection-grace", b.ConnectionGrace, "1m")
	k.duration("connection-idle", b.ConnectionIdle, "5m")
}
