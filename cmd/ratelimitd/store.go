package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ratelimitd/ratelimitd/internal/store"
	"github.com/ratelimitd/ratelimitd/internal/store/breaker"
	"github.com/ratelimitd/ratelimitd/internal/store/denycache"
	"github.com/ratelimitd/ratelimitd/internal/store/memcached"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
)

// storeFlags say where the counters are.
type storeFlags struct {
	Store   string `enum:"memory,redis,memcached" default:"memory" help:"Where the counters are: in this process (memory), or where several daemons share them (redis, memcached)."`
	OnError string `enum:"allow,deny,error,local" default:"allow" help:"What to answer when the store has failed: allow (fail open), deny (fail closed), error (UNAVAILABLE), or local (count in this process until the store is back)."`

	StoreTimeout time.Duration `default:"50ms" help:"The longest that a decision waits for the store before the failure policy answers."`
	DenyCacheTTL time.Duration `name:"deny-cache-ttl" default:"1s" help:"With a store outside this process: how long a denial may be repeated without asking the store again, and so how long a Reset by another daemon may go unnoticed. 0s turns that off."`
	MaxLogCount  int64         `default:"10000" help:"The greatest count of a sliding_window_log limit: each unit of it may take 32 bytes."`

	MemoryShards  int `default:"0" help:"How many stripes, each with a lock of its own: a power of two. 0 means 256, or fewer if they would hold fewer than 16 counters each." group:"With --store=memory, or --on-error=local:"`
	MemoryMaxKeys int `default:"1000000" help:"How many counters to hold, at about 90 bytes each, before those that matter least are dropped." group:"With --store=memory, or --on-error=local:"`

	Redis redisFlags `embed:"" prefix:"redis-" group:"With --store=redis:"`

	MemcachedAddr     []string `sep:" " default:"127.0.0.1:11211" help:"The server, as host:port. Repeat it, or separate several by spaces, for several that share the identifiers: the same for all daemons." group:"With --store=memcached:"`
	MemcachedMaxConns int      `default:"64" help:"The most connections to each server." group:"With --store=memcached:"`
}

// redisFlags are the options of the Redis store.
type redisFlags struct {
	URL              []string      `name:"url" sep:" " default:"redis://127.0.0.1:6379" help:"The server, as redis://[user:password@]host:port[/database], or rediss:// for TLS. Repeat it, or separate several by spaces, for the nodes of a cluster or for sentinels."`
	Cluster          bool          `help:"The one URL is a node of a cluster. Several always are."`
	SentinelMaster   string        `placeholder:"NAME" help:"The URLs are those of sentinels, which know the master of this name."`
	SentinelUser     string        `placeholder:"USER" help:"The user that the sentinels know this daemon by."`
	SentinelPassword string        `placeholder:"PASSWORD" help:"Its password. Better set by the environment than by the flag."`
	User             string        `placeholder:"USER" help:"The user, if not in the URL."`
	Password         string        `placeholder:"PASSWORD" help:"The password, if not in the URL. Better set by the environment than by the flag."`
	Database         int           `default:"0" help:"The database, if not in the URL."`
	TLSCA            string        `name:"tls-ca" type:"path" placeholder:"FILE" help:"The certificates to trust, as PEM, in place of the system's."`
	TLSCert          string        `name:"tls-cert" type:"path" placeholder:"FILE" help:"The certificate to show the servers, as PEM."`
	TLSKey           string        `name:"tls-key" type:"path" placeholder:"FILE" help:"Its key."`
	TLSServerName    string        `name:"tls-server-name" placeholder:"HOST" help:"The name in the servers' certificates, if it is not the URL's host."`
	PoolSize         int           `default:"0" help:"The most connections to each server. 0 means as many as are of use."`
	MinIdle          int           `default:"0" help:"How many connections to keep ready."`
	DialTimeout      time.Duration `default:"1s" help:"The longest that connecting takes."`
}

// maxMaxLogCount keeps the log of one counter to 16 MB.
const maxMaxLogCount = 1_000_000

func (f *storeFlags) validate() (wrong []flagError) {
	must := func(ok bool, flag string, value any, be string) {
		if !ok {
			wrong = append(wrong, flagError{flag, fmt.Sprintf("%v: must be %s", value, be)})
		}
	}
	must(f.StoreTimeout > 0, "store-timeout", f.StoreTimeout, "above 0, such as 50ms")
	must(f.DenyCacheTTL >= 0, "deny-cache-ttl", f.DenyCacheTTL, "0 or above, such as 1s")
	must(f.MaxLogCount > 0 && f.MaxLogCount <= maxMaxLogCount, "max-log-count", f.MaxLogCount, fmt.Sprintf("1 to %d, such as 10000", maxMaxLogCount))
	must(f.MemcachedMaxConns > 0, "memcached-max-conns", f.MemcachedMaxConns, "above 0, such as 64")
	must(f.MemoryMaxKeys > 0, "memory-max-keys", f.MemoryMaxKeys, "above 0, such as 1000000")
	must(f.Store != "redis" || !slices.Contains(f.Redis.URL, "") && len(f.Redis.URL) > 0, "redis-url", f.Redis.URL, "one or several URLs, such as redis://127.0.0.1:6379")
	must(f.Store != "memcached" || !slices.Contains(f.MemcachedAddr, "") && len(f.MemcachedAddr) > 0, "memcached-addr", f.MemcachedAddr, "one or several addresses, such as 127.0.0.1:11211")
	distinct := slices.Compact(slices.Sorted(slices.Values(f.MemcachedAddr)))
	must(len(distinct) == len(f.MemcachedAddr), "memcached-addr", f.MemcachedAddr, "different addresses: each server is named once")
	return wrong
}

// open opens the store, with what stands in front of it.
func (f *storeFlags) open(registry *prometheus.Registry) (store.Store, error) {
	if f.Store == "memory" {
		return f.openMemory(registry)
	}
	remote, err := f.openRemote(registry)
	if err != nil {
		return nil, err
	}
	guarded := breaker.New(remote)
	registry.MustRegister(guarded.Collector())
	if f.DenyCacheTTL == 0 {
		return guarded, nil
	}
	cached := denycache.New(guarded, denycache.Options{TTL: f.DenyCacheTTL})
	registry.MustRegister(cached.Collector())
	return cached, nil
}

func (f *storeFlags) openMemory(registry *prometheus.Registry) (store.Store, error) {
	s, err := memory.New(memory.Options{Shards: f.MemoryShards, MaxKeys: f.MemoryMaxKeys, MaxLogCount: f.MaxLogCount})
	if err != nil {
		return nil, err
	}
	registry.MustRegister(s.Collector())
	return s, nil
}

func (f *storeFlags) openRemote(registry *prometheus.Registry) (breaker.Store, error) {
	if f.Store == "redis" {
		s, err := f.openRedis()
		if err != nil {
			return nil, err
		}
		registry.MustRegister(s.Collector())
		return s, nil
	}
	s, err := memcached.New(memcached.Options{Addrs: f.MemcachedAddr, MaxConns: f.MemcachedMaxConns, Timeout: f.StoreTimeout})
	if err != nil {
		return nil, err
	}
	registry.MustRegister(s.Collector())
	return s, nil
}

func (f *storeFlags) openRedis() (*redis.Store, error) {
	r := &f.Redis
	return redis.New(redis.Options{
		URLs:             r.URL,
		Cluster:          r.Cluster,
		MasterName:       r.SentinelMaster,
		SentinelUser:     r.SentinelUser,
		SentinelPassword: r.SentinelPassword,
		User:             r.User,
		Password:         r.Password,
		Database:         r.Database,
		CAFile:           r.TLSCA,
		CertFile:         r.TLSCert,
		KeyFile:          r.TLSKey,
		ServerName:       r.TLSServerName,
		PoolSize:         r.PoolSize,
		MinIdle:          r.MinIdle,
		DialTimeout:      r.DialTimeout,
		Timeout:          f.StoreTimeout,
	})
}
