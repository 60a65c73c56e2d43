package config

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

// envoyVariables are what the environment variables of envoyproxy/ratelimit say,
// by our flags.
type envoyVariables struct {
	lookup  func(string) (string, bool)
	flags   flags.Source
	ignored []string // variables that have no counterpart, with their values
	wrong   []error
}

// sameMeaning has the variables whose values a flag takes as they are.
var sameMeaning = []struct{ variable, flag string }{
	{"MERGE_DOMAIN_CONFIG", "envoy-merge-domains"},
	{"SHADOW_MODE", "envoy-shadow-mode"},
	{"LIMIT_RESPONSE_HEADERS_ENABLED", "envoy-response-headers"},
	{"LIMIT_LIMIT_HEADER", "envoy-limit-header"},
	{"LIMIT_REMAINING_HEADER", "envoy-remaining-header"},
	{"LIMIT_RESET_HEADER", "envoy-reset-header"},
	{"RESPONSE_DYNAMIC_METADATA", "envoy-dynamic-metadata"},
	{"LOG_FORMAT", "log-format"},
}

// sameMeaningRedis are such variables that count only with Redis.
var sameMeaningRedis = []struct{ variable, flag string }{
	{"REDIS_POOL_SIZE", "redis-pool-size"},
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

// withoutCounterpart lists variables that have no effect here.
var withoutCounterpart = []string{
	"CACHE_KEY_PREFIX", "EXPIRATION_JITTER_MAX_SECONDS", "EXTRA_TAGS",
	"GRPC_MAX_CONNECTION_AGE", "GRPC_MAX_CONNECTION_AGE_GRACE", "GRPC_UDS",
	"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "LIMIT_REQUEST_HEADERS_ENABLED", "MEMCACHE_MAX_IDLE_CONNS", "MEMCACHE_SRV", "MEMCACHE_SRV_REFRESH", "MEMCACHE_TLS",
	"NEAR_LIMIT_RATIO", "PROMETHEUS_ADDR", "PROMETHEUS_MAPPER_YAML", "PROMETHEUS_PATH", "QUOTA_MODE",
	"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "REDIS_PERSECOND", "REDIS_PERSECOND_URL", "REDIS_PIPELINE_LIMIT", "REDIS_PIPELINE_WINDOW", "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
	"STATSD_HOST", "STATSD_PORT", "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", "TRACING_ENABLED", "USE_DOG_STATSD", "USE_PROMETHEUS", "USE_STATSD",
}

// isOfEnvoy reports whether lookup knows the environment of envoyproxy/ratelimit.
// A PORT or a LOG_LEVEL alone may be somebody else's.
func isOfEnvoy(lookup func(string) (string, bool)) bool {
	for _, name := range []string{"RUNTIME_ROOT", "CONFIG_TYPE"} {
		if value, _ := lookup(name); value != "" {
			return true
		}
	}
	return false
}

// readEnvoyVariables reads the variables that lookup knows.
func readEnvoyVariables(lookup func(string) (string, bool)) *envoyVariables {
	e := &envoyVariables{lookup: lookup, flags: flags.Source{}}
	kind, root := e.text("CONFIG_TYPE"), e.text("RUNTIME_ROOT")
	if kind == typeXDS {
		e.xds()
	} else if root != "" {
		app := e.text("RUNTIME_APPDIRECTORY")
		if app == "" {
			app = "config"
		}
		e.set("envoy-config-dir", filepath.Join(root, e.text("RUNTIME_SUBDIRECTORY"), app), "RUNTIME_ROOT")
	}
	e.address("grpc-addr", "GRPC_HOST", "GRPC_PORT", "8081")
	e.address("http-addr", "HOST", "PORT", "8080")
	e.address("admin-addr", "DEBUG_HOST", "DEBUG_PORT", "6070")
	for _, same := range sameMeaning {
		e.set(same.flag, e.text(same.variable), same.variable)
	}
	e.logLevel()
	if e.text("LOCAL_CACHE_SIZE_IN_BYTES") == "0" {
		e.set("deny-cache-ttl", "0s", "LOCAL_CACHE_SIZE_IN_BYTES")
	}
	e.store()
	without := slices.Clone(withoutCounterpart)
	if on, _ := strconv.ParseBool(e.text("GRPC_SERVER_USE_TLS")); on {
		e.tls()
	} else {
		for _, same := range sameMeaningTLS { // as in Envoy's service
			without = append(without, same.variable)
		}
	}
	if kind != "" && kind != "FILE" && kind != typeXDS {
		e.refuse("CONFIG_TYPE", "use FILE or %s", typeXDS)
	}
	for _, name := range without {
		if value, ok := lookup(name); ok {
			e.ignored = append(e.ignored, name+"="+flags.WithoutPassword(value))
		}
	}
	return e
}

func (e *envoyVariables) text(variable string) string {
	value, _ := e.lookup(variable)
	return value
}

// set sets a flag because of a variable, unless value is "".
func (e *envoyVariables) set(flag, value, variable string) {
	if value != "" {
		e.flags[flag] = flags.Setting{Text: value, Name: variable}
	}
}

// refuse says what is wrong with the value of a variable.
func (e *envoyVariables) refuse(variable, format string, args ...any) {
	e.wrong = append(e.wrong, fmt.Errorf("%s=%s: %s", variable, flags.Quote(e.text(variable)), fmt.Sprintf(format, args...)))
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

// tls sets the flags of TLS as Envoy's service has it: on the gRPC port alone, and from
// TLS 1.2 on, above which Envoy itself does not go unless it is told to.
func (e *envoyVariables) tls() {
	e.set("tls-ports", PortGRPC, "GRPC_SERVER_USE_TLS")
	e.set("tls-min-version", string(TLS12), "GRPC_SERVER_USE_TLS")
	for _, same := range sameMeaningTLS {
		e.set(same.flag, e.text(same.variable), same.variable)
	}
	if e.text("GRPC_SERVER_TLS_CERT") == "" {
		e.refuse("GRPC_SERVER_USE_TLS", "set GRPC_SERVER_TLS_CERT and GRPC_SERVER_TLS_KEY too")
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

// store sets the flags of the store.
func (e *envoyVariables) store() {
	backend, url := e.text("BACKEND_TYPE"), e.text("REDIS_URL")
	switch {
	case backend == "memcache":
		e.set("store", string(Memcached), "BACKEND_TYPE")
		e.set("memcached-addr", strings.ReplaceAll(e.text("MEMCACHE_HOST_PORT"), ",", " "), "MEMCACHE_HOST_PORT")
	case backend != "" && backend != "redis":
		e.refuse("BACKEND_TYPE", "use redis or memcache")
	case url == "": // nothing says where Redis is, and none is needed
	case strings.HasPrefix(url, "/") || e.text("REDIS_SOCKET_TYPE") == "unix":
		e.refuse("REDIS_URL", "with REDIS_SOCKET_TYPE=%s: Redis is reached by TCP; set REDIS_SOCKET_TYPE=tcp and a URL such as 10.0.0.5:6379", flags.Quote(e.text("REDIS_SOCKET_TYPE")))
	default:
		e.redis(strings.Split(url, ","))
	}
}

func (e *envoyVariables) redis(addrs []string) {
	e.set("store", string(Redis), "REDIS_URL")
	switch strings.ToUpper(e.text("REDIS_TYPE")) {
	case "", "SINGLE":
	case "CLUSTER":
		e.set("redis-cluster", "true", "REDIS_TYPE")
	case "SENTINEL":
		e.set("redis-sentinel-master", addrs[0], "REDIS_URL")
		addrs = addrs[1:]
	default:
		e.refuse("REDIS_TYPE", "use SINGLE, SENTINEL or CLUSTER")
	}
	scheme := "redis://"
	if tls, _ := strconv.ParseBool(e.text("REDIS_TLS")); tls {
		scheme = "rediss://"
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
	if user, password, both := strings.Cut(e.text("REDIS_AUTH"), ":"); both {
		e.set("redis-user", user, "REDIS_AUTH")
		e.set("redis-password", password, "REDIS_AUTH")
	} else {
		e.set("redis-password", user, "REDIS_AUTH")
	}
	for _, same := range sameMeaningRedis {
		e.set(same.flag, e.text(same.variable), same.variable)
	}
}
