package config

import (
	"github.com/ratelimitd/ratelimitd/internal/flags"
	"github.com/ratelimitd/ratelimitd/internal/policy"
	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/store/redis"
)

// The groups of flags in the help.
const (
	trustGroup     = "TLS, and who may ask: see docs/security.md"
	boundsGroup    = "Bounds of what callers may have: see docs/operations.md"
	envoyGroup     = "Envoy's rate limit service"
	xdsGroup       = "Limits of Envoy's rate limit service from an xDS server: see docs/envoy-gateway.md"
	memoryGroup    = "With --store=memory, or --on-error=local"
	redisGroup     = "With --store=redis"
	memcachedGroup = "With --store=memcached"
)

// Flags returns the flags whose values are the fields of c.
func (c *Config) Flags() *flags.Set {
	all := []flags.Flag{
		{Name: "grpc-addr", Value: flags.Text(&c.GRPCAddr), Help: "Where to serve gRPC, as host:port."},
		{Name: "http-addr", Value: flags.Text(&c.HTTPAddr), Help: "Where to serve HTTP, as host:port: health, readiness and metrics."},
		{Name: "admin-addr", Value: flags.Text(&c.AdminAddr), Help: "Where to serve administration, as host:port: profiles, log level, configuration, hot keys. On a loopback address whoever reaches it needs no credentials; on any other it answers only clients of --auth-file with the operation admin. off: nowhere."},
		{Name: "resp-addr", Value: flags.Text(&c.RESPAddr), Hint: "HOST:PORT", Help: "Where to serve the protocol of Redis, as host:port, such as 127.0.0.1:6379: for clients of Redis, redis-cell and throttlecrab. Without it: nowhere."},
		{Name: "metrics-addr", Value: flags.Text(&c.MetricsAddr), Hint: "HOST:PORT", Help: "A further address that serves metrics alone. They are on the HTTP port all the same, and who may see them there may here."},
		{Name: "metrics-path", Value: flags.Text(&c.MetricsPath), Help: "The path of metrics at --metrics-addr."},

		{Name: "config", Value: flags.Path(&c.File), Hint: "FILE", Help: "A YAML file of namespaces and their policies. The daemon reads it again when it changes and on SIGHUP. It may also set these flags, under their names with _ for -; the command line and the environment win over it."},
		{Name: "policies-only", Value: flags.Bool(&c.PoliciesOnly), Help: "Refuse requests that bring limits of their own: only the policies of the configuration decide."},

		{Name: "store", Value: flags.OneOf(&c.Store.Kind, Memory, Redis, Memcached), Help: "Where the counters are: in this process (memory), or where several daemons share them (redis, memcached)."},
		{Name: "on-error", Value: flags.OneOf(&c.Store.OnError, policy.OnErrors...), Help: "What to answer when the store has failed: allow (fail open), deny (fail closed), error (UNAVAILABLE), or local (count in this process until the store is back)."},
		{Name: "store-timeout", Value: flags.Duration(&c.Store.Timeout), Help: "The longest that a decision waits for the store before the failure policy answers."},
		{Name: "wait-for-store", Value: flags.Bool(&c.Store.Await), Help: "Report the daemon as not serving until the store has made a decision, once. Requests that come before are answered by --on-error."},
		{Name: "deny-cache-ttl", Value: flags.Duration(&c.Store.DenyCacheTTL), Help: "With a store outside this process: how long a denial may be repeated without asking the store again, and so how long a Reset or a refund by another daemon may go unnoticed. 0s turns that off."},
		{Name: "store-max-in-flight", Value: flags.Number(&c.Store.MaxInFlight), Help: "With a store outside this process: how many counters it is asked about at a time. What is beyond waits for its turn, for as long as --store-timeout, and each namespace or client has its share. A cluster can do more at a time."},
		{Name: "reservation-ttl", Value: flags.Duration(&c.Store.ReservationTTL), Help: "How long a reservation can be settled. Each one that is settled takes a counter in the store for about as long."},
		{Name: "max-log-count", Value: flags.Number(&c.Store.MaxLogCount), Help: "The greatest count of a sliding_window_log limit: each unit of it may take 32 bytes."},

		{Name: "max-connections", Value: flags.Number(&c.MaxConnections), Help: "The most connections to all ports together. Further ones are closed after 2 s, which is enough for a probe. 0 means three quarters of the files that the process may open, and at most 20000."},
		{Name: "max-connections-per-address", Value: flags.Number(&c.MaxConnectionsPerAddress), Help: "The most connections from one IPv4 address, or one IPv6 network of 64 bits. Further ones are closed at once. 0 means half of --max-connections, and no bound for loopback addresses."},
		{Name: "shutdown-delay", Value: flags.Duration(&c.ShutdownDelay), Help: "How long a shutdown answers on as before, while it reports the daemon as not serving: as long as whatever sends requests here takes to see that."},
		{Name: "drain-timeout", Value: flags.Duration(&c.DrainTimeout), Help: "The longest that a shutdown waits for calls under way."},
		{Name: "tracing", Value: flags.Bool(&c.Tracing), Help: "Export a span for each gRPC call and what it asks the store, by OTLP over gRPC, to where the standard OTEL_... variables say."},
		{Name: "test-clock", Value: flags.Bool(&c.TestClock), Help: "For tests: the clock stands still until a POST to /test-clock?advance=90s on the admin port turns it on. With the memory store, and on loopback addresses alone."},
		{Name: "log-level", Value: flags.OneOf(&c.Log.Level, "debug", "info", "warn", "error"), Help: "Log what is of this level or above: debug, info, warn or error."},
		{Name: "log-format", Value: flags.OneOf(&c.Log.Format, "text", "json"), Help: "Log lines for people (text) or for machines (json)."},
	}
	all = append(all, c.boundFlags()...)
	all = append(all, c.trustFlags()...)
	all = append(all, c.envoyFlags()...)
	all = append(all, c.xdsFlags()...)
	all = append(all, c.memoryFlags()...)
	all = append(all, c.redisFlags()...)
	return &flags.Set{Flags: append(all, c.memcachedFlags()...), EnvPrefix: EnvPrefix}
}

func (c *Config) trustFlags() []flags.Flag {
	t := &c.Trust
	return inGroup(trustGroup, []flags.Flag{
		{Name: "tls-cert", Value: flags.Path(&t.CertFile), Hint: "FILE", Help: "The certificate to show, as PEM, followed by those of its authorities. The daemon reads it again when it changes, and waits for it if it is not there yet. Needs --tls-key."},
		{Name: "tls-key", Value: flags.Path(&t.KeyFile), Hint: "FILE", Help: "Its key, as PEM."},
		{Name: "tls-client-ca", Value: flags.Path(&t.ClientCAFile), Hint: "FILE", Help: "The authorities of client certificates, as PEM. Without --auth-file, every client needs such a certificate. With it, a client needs a certificate or a token of that file."},
		{Name: "tls-client-san", Value: flags.List(&t.ClientSANs), Hint: "NAME", Help: "Without --auth-file: a DNS name or URI that client certificates must have. Repeat it for several, one of which is enough."},
		{Name: "tls-ports", Value: flags.List(&t.Ports), Hint: "PORT", Help: "The ports that speak TLS if there is a certificate: grpc, http, admin, resp. The default is all of them. The admin port never does on a loopback address."},
		{Name: "tls-min-version", Value: flags.OneOf(&t.MinVersion, TLS12, TLS13), Help: "The least version of TLS to accept: 1.2 or 1.3. An Envoy that is not told otherwise offers 1.2 at most."},
		{Name: "auth-file", Value: flags.Path(&t.AuthFile), Hint: "FILE", Help: "A YAML file of the clients that may ask, and of what each may do. The daemon reads it again when it changes. Without it, and without --tls-client-ca, everybody may ask."},
		{Name: "allow-reset", Value: flags.Bool(&t.AllowReset), Help: "Let everybody reset counters though nobody is known, also on an address that other machines reach."},
		{Name: "admin-host", Value: flags.List(&t.AdminHosts), Hint: "HOST", Help: "A name by which the admin port may be asked, beside localhost, addresses of loopback and the host of --admin-addr. It refuses requests for any other. Repeat it for several."},
	})
}

func (c *Config) envoyFlags() []flags.Flag {
	e := &c.Envoy
	return inGroup(envoyGroup, []flags.Flag{
		{Name: "envoy-config-dir", Value: flags.Path(&e.ConfigDir), Hint: "DIR", Help: "The *.yaml files of envoyproxy/ratelimit, in this directory and those below. The daemon reads them again when they change. If RUNTIME_ROOT is set, it and the other environment variables of that service count too: see docs/envoy.md."},
		{Name: "envoy-merge-domains", Value: flags.Bool(&e.MergeDomains), Help: "Let several files configure one domain."},
		{Name: "envoy-require-domains", Value: flags.Bool(&e.RequireDomains), Help: "Report the daemon as not ready while its files configure no domain."},
		{Name: "envoy-shadow-mode", Value: flags.Bool(&e.ShadowMode), Help: "Answer OK whatever the limits say; the status of each descriptor, and metrics, tell what they would do."},
		{Name: "envoy-quota-mode", Value: flags.Bool(&e.QuotaMode), Help: "Hold every limit for a quota: a request is over the limit only if all its descriptors are."},
		{Name: "envoy-all-or-none", Value: flags.Bool(&e.AllOrNone), Help: "Charge a request that is over one of its limits to none of them. In memory, and in Redis if one server owns all keys: elsewhere each descriptor is charged on its own, as always without this."},
		{Name: "envoy-overdraw", Value: flags.OneOf(&e.Overdraw, envoy.OverdrawNone, envoy.OverdrawOnce, envoy.OverdrawAlways), Help: "What to do with hits of which a limit has fewer left, such as a report of what an answer cost: count none of them, count them once (all of them, if anything is left), or count them always. The overdraw of a limit or of a domain wins. With --envoy-all-or-none: none."},
		{Name: "envoy-response-headers", Value: flags.Bool(&e.ResponseHeaders), Help: "Make Envoy tell its client of the limit in headers."},
		{Name: "envoy-limit-header", Value: flags.Text(&e.LimitHeader), Help: "The header with the limit."},
		{Name: "envoy-remaining-header", Value: flags.Text(&e.RemainingHeader), Help: "The header with what is left of it."},
		{Name: "envoy-reset-header", Value: flags.Text(&e.ResetHeader), Help: "The header with the seconds until it is unused again."},
		{Name: "envoy-dynamic-metadata", Value: flags.Bool(&e.DynamicMetadata), Help: "Answer with the request, and which quotas it was over, as dynamic metadata."},
		{Name: "envoy-metrics", Value: flags.Bool(&e.Metrics), Help: "Show metrics under the names of envoyproxy/ratelimit too, for dashboards that have them."},
		{Name: "envoy-near-limit-ratio", Value: flags.Float(&e.NearLimitRatio), Help: "With --envoy-metrics: which part of a limit may be used before hits count as near it."},
	})
}

func (c *Config) memoryFlags() []flags.Flag {
	return inGroup(memoryGroup, []flags.Flag{
		{Name: "memory-shards", Value: flags.Number(&c.memory.Shards), Help: "How many stripes, each with a lock of its own: a power of two. 0 means 256, or fewer if they would hold fewer than 16 counters each."},
		{Name: "memory-max-keys", Value: flags.Number(&c.memory.MaxKeys), Help: "How many counters to hold, at about 90 bytes each, before those that matter least are dropped."},
		{Name: "memory-snapshot", Value: flags.Path(&c.snapshots.File), Hint: "FILE", Help: "With --store=memory: a file that keeps the counters over a restart, in a folder that the daemon may write to. Each daemon needs its own. Without it they end with the process."},
		{Name: "memory-snapshot-interval", Value: flags.Duration(&c.snapshots.Interval), Help: "How often that file is written, beside once at the end: a daemon that is killed forgets as much at most."},
	})
}

func (c *Config) redisFlags() []flags.Flag {
	r := &c.redis
	return inGroup(redisGroup, []flags.Flag{
		{Name: "redis-url", Value: flags.List(&r.URLs), Help: "The server, as redis://[user:password@]host:port[/database], or rediss:// for TLS. Repeat it, or separate several by spaces, for the nodes of a cluster or for sentinels."},
		{Name: "redis-cluster", Value: flags.Bool(&r.Cluster), Help: "The one URL is a node of a cluster. Several always are."},
		{Name: "redis-shared-scripts", Value: flags.OneOf(&r.SharedScripts, redis.Sharings...), Help: "Whether one script may decide for several identifiers, which is faster: if the server is found to own all keys (auto), always, or never. Behind a proxy that spreads keys over several servers it would be wrong."},
		{Name: "redis-key-prefix", Value: flags.Text(&r.KeyPrefix), Hint: "TEXT", Help: "What all keys begin with, such as staging: for one of several services on one server. Without it they begin with rl:."},
		{Name: "redis-sentinel-master", Value: flags.Text(&r.MasterName), Hint: "NAME", Help: "The URLs are those of sentinels, which know the master of this name. Their user and password are those of the master, unless --redis-password, --redis-password-file or --redis-auth-file is given: then they are the sentinels'."},
		{Name: "redis-sentinel-user", Value: flags.Text(&r.SentinelUser), Hint: "USER", Help: "The user that the sentinels know this daemon by."},
		{Name: "redis-sentinel-password", Value: flags.Text(&r.SentinelPassword), Secret: true, Hint: "PASSWORD", Help: "Its password. Better set by the environment than by the flag."},
		{Name: "redis-user", Value: flags.Text(&r.User), Hint: "USER", Help: "The user, if not in the URL."},
		{Name: "redis-password", Value: flags.Text(&r.Password), Secret: true, Hint: "PASSWORD", Help: "The password, if not in the URL. Better set by the environment than by the flag."},
		{Name: "redis-password-file", Value: flags.Path(&r.PasswordFile), Hint: "FILE", Help: "The file with the password, in place of --redis-password. Others may rewrite it: each new connection has the password it has then, and open ones are told of it within a second."},
		{Name: "redis-auth-file", Value: flags.Path(&r.AuthFile), Hint: "FILE", Help: "The same with user:password in the file, or the password alone, in place of --redis-user and --redis-password."},
		{Name: "redis-database", Value: flags.Number(&r.Database), Help: "The database, if not in the URL."},
		{Name: "redis-tls-ca", Value: flags.Path(&r.CAFile), Hint: "FILE", Help: "The certificates to trust, as PEM, in place of the system's."},
		{Name: "redis-tls-cert", Value: flags.Path(&r.CertFile), Hint: "FILE", Help: "The certificate to show the servers, as PEM."},
		{Name: "redis-tls-key", Value: flags.Path(&r.KeyFile), Hint: "FILE", Help: "Its key."},
		{Name: "redis-tls-server-name", Value: flags.Text(&r.ServerName), Hint: "HOST", Help: "The name in the servers' certificates, if it is not the URL's host."},
		{Name: "redis-pool-size", Value: flags.Number(&r.PoolSize), Help: "The most connections to each server. 0 means as many as are of use."},
		{Name: "redis-min-idle", Value: flags.Number(&r.MinIdle), Help: "How many connections to keep ready."},
		{Name: "redis-dial-timeout", Value: flags.Duration(&r.DialTimeout), Help: "The longest that connecting takes."},
	})
}

func (c *Config) memcachedFlags() []flags.Flag {
	return inGroup(memcachedGroup, []flags.Flag{
		{Name: "memcached-addr", Value: flags.List(&c.memcached.Addrs), Help: "The server, as host:port. Repeat it, or separate several by spaces, for several that share the identifiers: the same for all daemons."},
		{Name: "memcached-key-prefix", Value: flags.Text(&c.memcached.KeyPrefix), Hint: "TEXT", Help: "What all keys begin with, such as staging: for one of several services on one server. Without it they begin with rl:."},
		{Name: "memcached-max-conns", Value: flags.Number(&c.memcached.MaxConns), Help: "The most connections to each server."},
	})
}

func inGroup(group string, all []flags.Flag) []flags.Flag {
	for i := range all {
		all[i].Group = group
	}
	return all
}

func (c *Config) boundFlags() []flags.Flag {
	b := &c.Bounds
	return inGroup(boundsGroup, []flags.Flag{
		{Name: "max-message-bytes", Value: flags.Number(&b.MessageBytes), Help: "The longest message over gRPC, and the longest body over HTTP."},
		{Name: "max-header-bytes", Value: flags.Number(&b.HeaderBytes), Help: "The longest headers of a gRPC call, as HTTP/2 counts them."},
		{Name: "max-streams", Value: flags.Number(&b.Streams), Help: "The most calls under way on one gRPC connection. A client waits with further ones."},
		{Name: "max-calls", Value: flags.Number(&b.Calls), Help: "The most gRPC calls under way in all, without streams and health, and of connections of the protocol of Redis whose commands are being decided. Further ones get RESOURCE_EXHAUSTED."},
		{Name: "max-bytes-in-flight", Value: flags.Number(&b.BytesInFlight), Help: "The most bytes that all calls hold together: messages that arrive, replies that nobody reads, and 16 KiB for each gRPC call. Beyond it, the call that holds most ends with RESOURCE_EXHAUSTED."},
		{Name: "message-timeout", Value: flags.Duration(&b.MessageTimeout), Help: "How long a gRPC call may take to bring its message, or a stream its first one, or one that has begun; and how long a reply may wait to be read. Also how long a command of the protocol of Redis may take to be all there."},
		{Name: "connection-age", Value: flags.Duration(&b.ConnectionAge), Help: "How old a gRPC connection, or a stream, becomes before its client has to connect again."},
		{Name: "connection-grace", Value: flags.Duration(&b.ConnectionGrace), Help: "How long calls may go on after that."},
		{Name: "connection-idle", Value: flags.Duration(&b.ConnectionIdle), Help: "How long a connection, over gRPC or the protocol of Redis, may be without a call before its client has to connect again."},
	})
}

func (c *Config) xdsFlags() []flags.Flag {
	x := &c.XDS
	return inGroup(xdsGroup, []flags.Flag{
		{Name: "xds-server", Value: flags.Text(&x.Server), Hint: "HOST:PORT", Help: "The xDS server that sends the limits of Envoy's rate limit service, in place of --envoy-config-dir. CONFIG_TYPE=GRPC_XDS_SOTW sets this and the following, with the other variables of envoyproxy/ratelimit."},
		{Name: "xds-node-id", Value: flags.Text(&x.NodeID), Help: "The id that the server knows this daemon by. It sends nothing to an id that it does not know."},
		{Name: "xds-node-metadata", Value: flags.List(&x.NodeMetadata), Hint: "KEY=VALUE", Help: "What else to tell the server of this daemon. Repeat it for several."},
		{Name: "xds-header", Value: flags.Lines(&x.Headers), Secret: true, Hint: "NAME:VALUE", Help: "A header to send to the server. Repeat it for several. Better set by the environment than by the flag, if it is a secret."},
		{Name: "xds-tls", Value: flags.Bool(&x.TLS), Help: "Reach the server by TLS."},
		{Name: "xds-tls-ca", Value: flags.Path(&x.CAFile), Hint: "FILE", Help: "The authorities of the server's certificate, as PEM, in place of the system's. The daemon reads this and the next two files for each connection, so they may change, and may come after the start."},
		{Name: "xds-tls-cert", Value: flags.Path(&x.CertFile), Hint: "FILE", Help: "The certificate to show the server, as PEM. Needs --xds-tls-key."},
		{Name: "xds-tls-key", Value: flags.Path(&x.KeyFile), Hint: "FILE", Help: "Its key, as PEM."},
		{Name: "xds-tls-server-name", Value: flags.Text(&x.ServerName), Hint: "HOST", Help: "The name in the server's certificate, if it is not the host of --xds-server."},
		{Name: "xds-max-message-bytes", Value: flags.Number(&x.MaxMessageBytes), Help: "The largest message to take. One message has all limits."},
		{Name: "xds-backoff", Value: flags.Duration(&x.Backoff), Help: "How long to wait before connecting again. It is doubled each time that nothing has come, and a random half is added or taken away."},
		{Name: "xds-backoff-max", Value: flags.Duration(&x.MaxBackoff), Help: "The longest of these waits."},
		{Name: "xds-cache-file", Value: flags.Path(&x.CacheFile), Hint: "FILE", Help: "Where to keep the limits that were received last, so that they are in force at once after a restart, whether the server is there or not."},
		{Name: "xds-start-unconfigured", Value: flags.Bool(&x.StartUnconfigured), Help: "Listen before the first limits have come. Until then, Envoy is answered UNAVAILABLE. Without this, the daemon waits for them before it listens."},
	})
}
