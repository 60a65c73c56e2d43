package config

import (
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// sameMeaning has the variables whose values a flag takes as they are.
var sameMeaning = []struct{ variable, flag string }{
	{"MERGE_DOMAIN_CONFIG", "envoy-merge-domains"},
	{"SHADOW_MODE", "envoy-shadow-mode"},
	{"QUOTA_MODE", "envoy-quota-mode"},
	{"STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", "envoy-all-or-none"},
	{"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "envoy-require-domains"},
	{"LIMIT_RESPONSE_HEADERS_ENABLED", "envoy-response-headers"},
	{"LIMIT_LIMIT_HEADER", "envoy-limit-header"},
	{"LIMIT_REMAINING_HEADER", "envoy-remaining-header"},
	{"LIMIT_RESET_HEADER", "envoy-reset-header"},
	{"RESPONSE_DYNAMIC_METADATA", "envoy-dynamic-metadata"},
	{"NEAR_LIMIT_RATIO", "envoy-near-limit-ratio"},
	{"LOG_FORMAT", "log-format"},
}

// sameMeaningRedisTLS are such variables that count only with REDIS_TLS.
var sameMeaningRedisTLS = []struct{ variable, flag string }{
	{"REDIS_TLS_CACERT", "redis-tls-ca"},
	{"REDIS_TLS_CLIENT_CERT", "redis-tls-cert"},
	{"REDIS_TLS_CLIENT_KEY", "redis-tls-key"},
}

// sameMeaningTLS are such variables that count only with GRPC_SERVER_USE_TLS.
var sameMeaningTLS = []struct{ variable, flag string }{
	{"GRPC_SERVER_TLS_CERT", "tls-cert"},
	{"GRPC_SERVER_TLS_KEY", "tls-key"},
	{"GRPC_CLIENT_TLS_CACERT", "tls-client-ca"},
	{"GRPC_CLIENT_TLS_SAN", "tls-client-san"},
}

// isOfEnvoy reports whether lookup knows the environment of envoyproxy/ratelimit.
// A PORT or a LOG_LEVEL alone may be somebody else's.
func isOfEnvoy(lookup func(string) (string, bool)) bool {
	for _, name := range []string{"RUNTIME_ROOT", "CONFIG_TYPE", "CONFIG_GRPC_XDS_SERVER_URL"} {
		if value, _ := lookup(name); value != "" {
			return true
		}
	}
	return false
}

// defaultRoot is the RUNTIME_ROOT of a service that is told none.
const defaultRoot = "/srv/runtime_data/current"

// readEnvoyVariables reads the variables that lookup knows. What above sets wins over
// them.
func readEnvoyVariables(lookup func(string) (string, bool), above ...flags.Source) *envoyVariables {
	e := &envoyVariables{lookup: lookup, above: above, flags: flags.Source{}, values: map[string]string{}, heeded: map[string]bool{}}
	e.readValues()
	e.files()
	e.address("grpc-addr", "GRPC_HOST", "GRPC_PORT", "8081")
	e.address("http-addr", "HOST", "PORT", "8080")
	e.adminAddress()
	if e.text("GRPC_UDS") != "" {
		e.refuse("GRPC_UDS", "gRPC is served over TCP; leave it out, and set GRPC_HOST=127.0.0.1 to serve this machine alone")
	}
	for _, same := range sameMeaning {
		e.set(same.flag, e.text(same.variable), same.variable)
	}
	e.age("connection-age", "GRPC_MAX_CONNECTION_AGE")
	e.age("connection-grace", "GRPC_MAX_CONNECTION_AGE_GRACE")
	e.logLevel()
	if e.text("LOCAL_CACHE_SIZE_IN_BYTES") == "0" {
		e.set("deny-cache-ttl", "0s", "LOCAL_CACHE_SIZE_IN_BYTES")
	}
	e.metrics()
	if e.on("TRACING_ENABLED") {
		e.set("tracing", "true", "TRACING_ENABLED")
		if e.values["TRACING_EXPORTER_PROTOCOL"] == "" {
			e.values["TRACING_EXPORTER_PROTOCOL"] = "http" // the service's default
		}
		e.is("TRACING_EXPORTER_PROTOCOL", "grpc")
	}
	e.store()
	if e.on("GRPC_SERVER_USE_TLS") {
		e.tls()
	}
	e.warn()
	return e
}

// files sets where the limits come from.
func (e *envoyVariables) files() {
	switch e.text("CONFIG_TYPE") {
	case "", "FILE":
	case typeXDS:
		e.xds()
		return
	default:
		e.refuse("CONFIG_TYPE", "use FILE or %s", typeXDS)
		return
	}
	root, variable := e.text("RUNTIME_ROOT"), "RUNTIME_ROOT"
	if root == "" {
		root, variable = defaultRoot, "CONFIG_TYPE"
	}
	app := e.text("RUNTIME_APPDIRECTORY")
	if app == "" {
		app = "config"
	}
	e.set("envoy-config-dir", filepath.Join(root, e.text("RUNTIME_SUBDIRECTORY"), app), variable)
	e.is("RUNTIME_IGNOREDOTFILES", "true")
	e.is("RUNTIME_WATCH_ROOT", "true")
	e.is("FORCE_START_WITHOUT_INITIAL_CONFIG", "true")
}

// address sets flag to the address that two variables make, if either is set.
func (e *envoyVariables) address(flag, host, port, defaultPort string) {
	h, p := e.text(host), e.text(port)
	if h == "" && p == "" {
		return
	}
	if p == "" {
		p = defaultPort
	}
	if !isPort(p) {
		e.refuse(port, "a port is a number from 0 to 65535, such as %s", defaultPort)
		return
	}
	e.set(flag, net.JoinHostPort(h, p), host+" and "+port)
}

// adminAddress sets where administration is. Unlike the service it is reached from
// other machines only where DEBUG_HOST says so.
func (e *envoyVariables) adminAddress() {
	if e.text("DEBUG_HOST") == "" && e.text("DEBUG_PORT") != "" {
		e.values["DEBUG_HOST"] = "127.0.0.1"
	}
	e.address("admin-addr", "DEBUG_HOST", "DEBUG_PORT", "6070")
}

// metrics sets the flags of the service's metrics.
func (e *envoyVariables) metrics() {
	if !e.on("USE_PROMETHEUS") {
		return
	}
	e.set("envoy-metrics", "true", "USE_PROMETHEUS")
	addr := e.text("PROMETHEUS_ADDR")
	if addr == "" {
		addr = ":9090"
	}
	e.set("metrics-addr", addr, "PROMETHEUS_ADDR")
	e.set("metrics-path", e.text("PROMETHEUS_PATH"), "PROMETHEUS_PATH")
}

// tls sets the flags of TLS as Envoy's service has it: on the gRPC port alone, and from
// TLS 1.2 on, above which Envoy itself does not go unless it is told to.
func (e *envoyVariables) tls() {
	e.set("tls-ports", PortGRPC, "GRPC_SERVER_USE_TLS")
	e.set("tls-min-version", string(TLS12), "GRPC_SERVER_USE_TLS")
	for _, same := range sameMeaningTLS {
		e.set(same.flag, e.text(same.variable), same.variable)
	}
	if _, set := e.over("tls-cert"); !set && e.text("GRPC_SERVER_TLS_CERT") == "" {
		e.refuse("GRPC_SERVER_USE_TLS", "set GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY too")
	}
}

// age sets how old connections become. An age of 0 is none for the service, and causes a
// warning here: such connections would never see a new daemon.
func (e *envoyVariables) age(flag, variable string) {
	if d, _ := time.ParseDuration(e.values[variable]); d > 0 {
		e.set(flag, e.text(variable), variable)
	}
}

func (e *envoyVariables) logLevel() {
	level := strings.ToLower(e.text("LOG_LEVEL"))
	names := map[string]string{"trace": "debug", "debug": "debug", "info": "info", "warn": "warn", "warning": "warn", "error": "error", "fatal": "error", "panic": "error"}
	if level != "" && names[level] == "" {
		e.refuse("LOG_LEVEL", "use trace, debug, info, warn, error, fatal or panic")
		return
	}
	e.set("log-level", names[level], "LOG_LEVEL")
}

// store sets the flags of the store. What says how to reach a store counts only for the
// one that is used.
func (e *envoyVariables) store() {
	kind, chosen := e.over("store")
	if !chosen {
		kind = e.text("BACKEND_TYPE")
	}
	switch {
	case kind == "memcache" || kind == string(Memcached):
		e.memcached()
	case kind != "" && kind != string(Redis):
		if !chosen {
			e.refuse("BACKEND_TYPE", "use redis or memcache")
		}
	case e.values["REDIS_URL"] == "": // nothing says where Redis is, and none is needed
		if e.values["REDIS_PERSECOND"] == "true" {
			e.refuse("REDIS_PERSECOND", "limits of a second are counted in the Redis of the others; set REDIS_URL")
		}
	default:
		e.redis()
	}
}

func (e *envoyVariables) memcached() {
	e.set("store", string(Memcached), "BACKEND_TYPE")
	e.set("memcached-addr", strings.ReplaceAll(e.text("MEMCACHE_HOST_PORT"), ",", " "), "MEMCACHE_HOST_PORT")
	e.set("memcached-key-prefix", e.text("CACHE_KEY_PREFIX"), "CACHE_KEY_PREFIX")
	if e.text("MEMCACHE_SRV") != "" {
		e.refuse("MEMCACHE_SRV", "servers are not looked up by SRV records; leave it out, and set MEMCACHE_HOST_PORT to their addresses")
	}
	if e.on("MEMCACHE_TLS") {
		e.refuse("MEMCACHE_TLS", "memcached is reached without TLS; leave it out, or use a tunnel")
	}
}

func (e *envoyVariables) redis() {
	url := e.text("REDIS_URL")
	switch socket := e.text("REDIS_SOCKET_TYPE"); {
	case strings.HasPrefix(url, "/") || socket == "unix":
		e.refuse("REDIS_URL", "with REDIS_SOCKET_TYPE=%s: Redis is reached by TCP; set REDIS_SOCKET_TYPE=tcp and a URL such as 10.0.0.5:6379", flags.Quote(socket))
		return
	case socket != "" && socket != "tcp":
		e.refuse("REDIS_SOCKET_TYPE", "use tcp")
	}
	e.set("store", string(Redis), "REDIS_URL")
	e.redisServers(strings.Split(url, ","))
	e.password("redis", "REDIS_AUTH")
	e.set("redis-auth-file", e.text("REDIS_AUTH_FILE"), "REDIS_AUTH_FILE")
	e.is("REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR", "true")
	e.set("redis-key-prefix", e.text("CACHE_KEY_PREFIX"), "CACHE_KEY_PREFIX")
	e.set("redis-pool-size", e.text("REDIS_POOL_SIZE"), "REDIS_POOL_SIZE")
	e.set("store-timeout", e.text("REDIS_TIMEOUT"), "REDIS_TIMEOUT")
	e.set("redis-dial-timeout", e.text("REDIS_TIMEOUT"), "REDIS_TIMEOUT")
	if when := strings.ToUpper(e.text("REDIS_POOL_ON_EMPTY_BEHAVIOR")); when != "" && when != "WAIT" {
		e.refuse("REDIS_POOL_ON_EMPTY_BEHAVIOR", "use WAIT, or leave it out")
	}
}

// redisServers sets which servers there are, and how they are spoken to.
func (e *envoyVariables) redisServers(addrs []string) {
	switch strings.ToUpper(e.text("REDIS_TYPE")) {
	case "", "SINGLE":
	case "CLUSTER":
		e.set("redis-cluster", "true", "REDIS_TYPE")
	case "SENTINEL":
		e.set("redis-sentinel-master", addrs[0], "REDIS_URL")
		addrs = addrs[1:]
		e.password("redis-sentinel", "REDIS_SENTINEL_AUTH")
	default:
		e.refuse("REDIS_TYPE", "use SINGLE, SENTINEL or CLUSTER")
	}
	scheme := "redis://"
	if e.on("REDIS_TLS") {
		scheme = "rediss://"
		for _, same := range sameMeaningRedisTLS {
			e.set(same.flag, e.text(same.variable), same.variable)
		}
		if e.on("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION") {
			e.refuse("REDIS_TLS_SKIP_HOSTNAME_VERIFICATION", "the server's name is always verified; leave it out, and set --redis-tls-server-name to the name in its certificate")
		}
	}
	for i, addr := range addrs {
		if !strings.Contains(addr, "://") {
			addrs[i] = scheme + addr
		}
	}
	if len(addrs) == 0 {
		e.refuse("REDIS_URL", "with REDIS_TYPE=SENTINEL: write the master's name and the sentinels, such as mymaster,10.0.0.5:26379")
	}
	e.set("redis-url", strings.Join(addrs, " "), "REDIS_URL")
}

// password sets the flags of a user and a password, which begin with prefix.
func (e *envoyVariables) password(prefix, variable string) {
	user, password, both := strings.Cut(e.text(variable), ":")
	if !both {
		user, password = "", user
	}
	e.set(prefix+"-user", user, variable)
	e.set(prefix+"-password", password, variable)
}
