package main

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/policy/envoy"
	"github.com/ratelimitd/ratelimitd/internal/server/envoyapi"
)

// envoyFlags say how Envoy's rate limit service is answered.
type envoyFlags struct {
	ConfigDir       string `type:"path" placeholder:"DIR" help:"The *.yaml files of envoyproxy/ratelimit, in this directory and those below; read anew when they change. If RUNTIME_ROOT is set, it and the other environment variables of that service count too: see docs/envoy.md."`
	MergeDomains    bool   `help:"Let several files configure one domain."`
	ShadowMode      bool   `help:"Answer OK whatever the limits say; the status of each descriptor, and metrics, tell what they would do."`
	AllOrNone       bool   `help:"Charge a request that is over one of its limits to none of them. In memory, and in Redis that is no cluster: elsewhere each descriptor is charged on its own, as always without this."`
	ResponseHeaders bool   `help:"Have Envoy tell its client of the limit in headers."`
	LimitHeader     string `default:"RateLimit-Limit" help:"The header with the limit."`
	RemainingHeader string `default:"RateLimit-Remaining" help:"The header with what is left of it."`
	ResetHeader     string `default:"RateLimit-Reset" help:"The header with the seconds until it is unused again."`
	DynamicMetadata bool   `help:"Answer with the request, and which quotas it was over, as dynamic metadata."`
}

func (f *envoyFlags) options() envoyapi.Settings {
	return envoyapi.Settings{
		ShadowMode: f.ShadowMode, AllOrNone: f.AllOrNone, DynamicMetadata: f.DynamicMetadata,
		ResponseHeaders: f.ResponseHeaders, LimitHeader: f.LimitHeader, RemainingHeader: f.RemainingHeader, ResetHeader: f.ResetHeader,
	}
}

// A sourceFile is a file of configuration as it was read.
type sourceFile struct {
	name string
	data []byte
}

// readEnvoyFiles reads the configuration files in dir and below, in the order
// of their names. Names that begin with a dot are passed over, as Kubernetes
// keeps its own there.
func readEnvoyFiles(dir string) ([]sourceFile, error) {
	var files []sourceFile
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("--envoy-config-dir: %w", err)
	}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case path != root && strings.HasPrefix(name, "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(name)):
			return nil
		}
		data, err := os.ReadFile(path) //nolint:gosec // in the directory that the operator names
		files = append(files, sourceFile{filepath.Join(dir, strings.TrimPrefix(path, root)), data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("--envoy-config-dir: %w", err)
	}
	return files, nil
}

// An envoyEnvironment is what the environment variables of envoyproxy/ratelimit
// say, by our flags.
type envoyEnvironment struct {
	flags    map[string]string // their values
	warnings []string          // variables that have no counterpart
	wrong    []error
}

// readEnvoyEnvironment reads the variables that lookup knows.
func readEnvoyEnvironment(lookup func(string) (string, bool)) *envoyEnvironment {
	e := &envoyEnvironment{flags: map[string]string{}}
	text := func(name string) string { value, _ := lookup(name); return value }
	copied := func(variable, flag string) {
		if value := text(variable); value != "" {
			e.flags[flag] = value
		}
	}

	if root := text("RUNTIME_ROOT"); root != "" {
		app := text("RUNTIME_APPDIRECTORY")
		if app == "" {
			app = "config"
		}
		e.flags["envoy-config-dir"] = filepath.Join(root, text("RUNTIME_SUBDIRECTORY"), app)
	}
	e.address("grpc-addr", text, "GRPC_HOST", "GRPC_PORT", "8081")
	e.address("http-addr", text, "HOST", "PORT", "8080")
	e.address("admin-addr", text, "DEBUG_HOST", "DEBUG_PORT", "6070")

	copied("MERGE_DOMAIN_CONFIG", "envoy-merge-domains")
	copied("SHADOW_MODE", "envoy-shadow-mode")
	copied("LIMIT_RESPONSE_HEADERS_ENABLED", "envoy-response-headers")
	copied("LIMIT_LIMIT_HEADER", "envoy-limit-header")
	copied("LIMIT_REMAINING_HEADER", "envoy-remaining-header")
	copied("LIMIT_RESET_HEADER", "envoy-reset-header")
	copied("RESPONSE_DYNAMIC_METADATA", "envoy-dynamic-metadata")
	copied("LOG_FORMAT", "log-format")
	if level := strings.ToLower(text("LOG_LEVEL")); level != "" {
		names := map[string]string{"trace": "debug", "debug": "debug", "info": "info", "warn": "warn", "warning": "warn", "error": "error", "fatal": "error", "panic": "error"}
		if names[level] == "" {
			e.wrong = append(e.wrong, fmt.Errorf("LOG_LEVEL=%q: use trace, debug, info, warn, error, fatal or panic", text("LOG_LEVEL")))
		}
		e.flags["log-level"] = names[level]
	}
	if size := text("LOCAL_CACHE_SIZE_IN_BYTES"); size == "0" {
		e.flags["deny-cache-ttl"] = "0s"
	}
	e.store(text)

	if kind := text("CONFIG_TYPE"); kind != "" && kind != "FILE" {
		e.wrong = append(e.wrong, fmt.Errorf("CONFIG_TYPE=%q: the configuration comes from files; use FILE", kind))
	}
	for _, name := range withoutCounterpart {
		if value, ok := lookup(name); ok {
			e.warnings = append(e.warnings, name+"="+value)
		}
	}
	return e
}

// withoutCounterpart lists variables that have no effect here.
var withoutCounterpart = []string{
	"CACHE_KEY_PREFIX", "EXPIRATION_JITTER_MAX_SECONDS", "EXTRA_TAGS", "FORCE_START_WITHOUT_INITIAL_CONFIG",
	"GRPC_CLIENT_TLS_CACERT", "GRPC_CLIENT_TLS_SAN", "GRPC_MAX_CONNECTION_AGE", "GRPC_MAX_CONNECTION_AGE_GRACE", "GRPC_SERVER_TLS_CERT", "GRPC_SERVER_TLS_KEY", "GRPC_SERVER_USE_TLS", "GRPC_UDS",
	"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED", "LIMIT_REQUEST_HEADERS_ENABLED", "MEMCACHE_MAX_IDLE_CONNS", "MEMCACHE_SRV", "MEMCACHE_SRV_REFRESH", "MEMCACHE_TLS",
	"NEAR_LIMIT_RATIO", "PROMETHEUS_ADDR", "PROMETHEUS_MAPPER_YAML", "PROMETHEUS_PATH", "QUOTA_MODE",
	"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION", "REDIS_PERSECOND", "REDIS_PERSECOND_URL", "REDIS_PIPELINE_LIMIT", "REDIS_PIPELINE_WINDOW", "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
	"STATSD_HOST", "STATSD_PORT", "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", "TRACING_ENABLED", "USE_DOG_STATSD", "USE_PROMETHEUS", "USE_STATSD",
}

// address sets flag to the address that two variables make, if either is set.
func (e *envoyEnvironment) address(flag string, text func(string) string, host, port, defaultPort string) {
	h, p := text(host), text(port)
	if h == "" && p == "" {
		return
	}
	if p == "" {
		p = defaultPort
	}
	if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 65535 {
		e.wrong = append(e.wrong, fmt.Errorf("%s=%q: a port is a number of 0 to 65535, such as %s", port, p, defaultPort))
	}
	e.flags[flag] = net.JoinHostPort(h, p)
}

// store sets the flags of the store.
func (e *envoyEnvironment) store(text func(string) string) {
	copied := func(variable, flag string) {
		if value := text(variable); value != "" {
			e.flags[flag] = value
		}
	}
	backend, url := text("BACKEND_TYPE"), text("REDIS_URL")
	switch {
	case backend == "memcache":
		e.flags["store"] = "memcached"
		if addrs := text("MEMCACHE_HOST_PORT"); addrs != "" {
			e.flags["memcached-addr"] = strings.ReplaceAll(addrs, ",", " ")
		}
		return
	case backend != "" && backend != "redis":
		e.wrong = append(e.wrong, fmt.Errorf("BACKEND_TYPE=%q: use redis or memcache", backend))
		return
	case url == "": // nothing says where Redis is, and none is needed
		return
	case strings.HasPrefix(url, "/") || text("REDIS_SOCKET_TYPE") == "unix":
		e.wrong = append(e.wrong, fmt.Errorf("REDIS_URL=%q with REDIS_SOCKET_TYPE=%q: Redis is reached by TCP; set REDIS_SOCKET_TYPE=tcp and a URL such as 10.0.0.5:6379", url, text("REDIS_SOCKET_TYPE")))
		return
	}
	e.flags["store"] = "redis"
	addrs := strings.Split(url, ",")
	switch kind := strings.ToUpper(text("REDIS_TYPE")); kind {
	case "", "SINGLE":
	case "CLUSTER":
		e.flags["redis-cluster"] = "true"
	case "SENTINEL":
		e.flags["redis-sentinel-master"], addrs = addrs[0], addrs[1:]
	default:
		e.wrong = append(e.wrong, fmt.Errorf("REDIS_TYPE=%q: use SINGLE, SENTINEL or CLUSTER", kind))
	}
	scheme := "redis://"
	if tls, _ := strconv.ParseBool(text("REDIS_TLS")); tls {
		scheme = "rediss://"
	}
	for i, addr := range addrs {
		if !strings.Contains(addr, "://") {
			addrs[i] = scheme + addr
		}
	}
	e.flags["redis-url"] = strings.Join(addrs, " ")
	if user, password, both := strings.Cut(text("REDIS_AUTH"), ":"); both {
		e.flags["redis-user"], e.flags["redis-password"] = user, password
	} else if user != "" {
		e.flags["redis-password"] = user
	}
	copied("REDIS_POOL_SIZE", "redis-pool-size")
	copied("REDIS_TLS_CACERT", "redis-tls-ca")
	copied("REDIS_TLS_CLIENT_CERT", "redis-tls-cert")
	copied("REDIS_TLS_CLIENT_KEY", "redis-tls-key")
}

// envoyReader returns a reader of Envoy's files as c says.
func (c *serveCmd) envoyReader() *envoy.Reader {
	return envoy.NewReader(envoy.Options{Merge: c.Envoy.MergeDomains, MaxLogCount: c.MaxLogCount})
}
