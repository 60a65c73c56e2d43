package config

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/flags"
)

func lookupIn(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := env[name]; return value, ok }
}

// TestEnvoyVariables checks which flags the variables of Envoy's service set.
func TestEnvoyVariables(t *testing.T) {
	for _, tt := range []struct {
		name     string
		env      map[string]string
		want     map[string]string
		warnings string
		wrong    string
	}{
		{name: "nothing is set", want: map[string]string{}},
		{
			name: "a deployment with one Redis",
			env: map[string]string{
				"RUNTIME_ROOT": "/data", "RUNTIME_SUBDIRECTORY": "ratelimit", "RUNTIME_APPDIRECTORY": "limits",
				"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "redis:6379", "REDIS_AUTH": "me:my:self", "REDIS_TLS": "true",
				"USE_STATSD": "false", "LOG_LEVEL": "WARN", "LOG_FORMAT": "json", "PORT": "8088", "GRPC_HOST": "127.0.0.1",
				"LOCAL_CACHE_SIZE_IN_BYTES": "0", "SHADOW_MODE": "true",
			},
			want: map[string]string{
				"envoy-config-dir": "/data/ratelimit/limits", "store": "redis", "redis-url": "rediss://redis:6379", "redis-user": "me", "redis-password": "my:self",
				"log-level": "warn", "log-format": "json", "http-addr": ":8088", "grpc-addr": "127.0.0.1:8081", "deny-cache-ttl": "0s", "envoy-shadow-mode": "true",
			},
		},
		{
			name: "sentinels",
			env:  map[string]string{"RUNTIME_ROOT": "/data", "REDIS_TYPE": "sentinel", "REDIS_URL": "mymaster,a:26379,b:26379", "REDIS_AUTH": "secret"},
			want: map[string]string{"envoy-config-dir": "/data/config", "store": "redis", "redis-sentinel-master": "mymaster", "redis-url": "redis://a:26379 redis://b:26379", "redis-password": "secret"},
		},
		{
			name: "a cluster",
			env:  map[string]string{"REDIS_TYPE": "CLUSTER", "REDIS_URL": "a:6379,b:6379", "REDIS_POOL_SIZE": "5"},
			want: map[string]string{"store": "redis", "redis-cluster": "true", "redis-url": "redis://a:6379 redis://b:6379", "redis-pool-size": "5"},
		},
		{
			name: "memcached",
			env:  map[string]string{"BACKEND_TYPE": "memcache", "MEMCACHE_HOST_PORT": "a:11211,b:11211", "REDIS_URL": "u:secret@r", "REDIS_AUTH": "secret"},
			want: map[string]string{"store": "memcached", "memcached-addr": "a:11211 b:11211"}, warnings: "REDIS_URL=xxxxx REDIS_AUTH=xxxxx",
		},
		{
			name: "headers",
			env:  map[string]string{"LIMIT_RESPONSE_HEADERS_ENABLED": "true", "LIMIT_LIMIT_HEADER": "X-L", "LIMIT_REMAINING_HEADER": "X-M", "LIMIT_RESET_HEADER": "X-R", "MERGE_DOMAIN_CONFIG": "true", "RESPONSE_DYNAMIC_METADATA": "true"},
			want: map[string]string{"envoy-response-headers": "true", "envoy-limit-header": "X-L", "envoy-remaining-header": "X-M", "envoy-reset-header": "X-R", "envoy-merge-domains": "true", "envoy-dynamic-metadata": "true"},
		},
		{
			name: "TLS",
			env:  map[string]string{"GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": "c", "GRPC_SERVER_TLS_KEY": "k", "GRPC_CLIENT_TLS_CACERT": "a", "GRPC_CLIENT_TLS_SAN": "envoy.example.org"},
			want: map[string]string{"tls-cert": "c", "tls-key": "k", "tls-client-ca": "a", "tls-client-san": "envoy.example.org", "tls-ports": "grpc", "tls-min-version": "1.2"},
		},
		{
			name: "TLS that is off", env: map[string]string{"GRPC_SERVER_USE_TLS": "false", "GRPC_SERVER_TLS_CERT": "c", "GRPC_CLIENT_TLS_SAN": "s"},
			want: map[string]string{}, warnings: "GRPC_SERVER_TLS_CERT=c GRPC_CLIENT_TLS_SAN=s",
		},
		{name: "TLS without a certificate", env: map[string]string{"GRPC_SERVER_USE_TLS": "1"}, want: map[string]string{"tls-ports": "grpc", "tls-min-version": "1.2"}, wrong: `GRPC_SERVER_USE_TLS="1": set GRPC_SERVER_TLS_CERT`},
		{name: "a port that is none", env: map[string]string{"GRPC_PORT": "http"}, want: map[string]string{}, wrong: `GRPC_PORT="http": write a whole number`},
		{name: "a port that is too large", env: map[string]string{"GRPC_PORT": "70000"}, want: map[string]string{}, wrong: `GRPC_PORT="70000": a port is a number`},
		{name: "a port in another base", env: map[string]string{"GRPC_PORT": "0x1F91"}, want: map[string]string{"grpc-addr": ":8081"}},
		{name: "an admin port for this machine", env: map[string]string{"DEBUG_PORT": "6071"}, want: map[string]string{"admin-addr": "127.0.0.1:6071"}},
		{name: "an admin port for all", env: map[string]string{"DEBUG_HOST": "0.0.0.0"}, want: map[string]string{"admin-addr": "0.0.0.0:6070"}},
		{name: "TLS by a boolean that is none", env: map[string]string{"REDIS_URL": "redis:6379", "REDIS_TLS": "yes"}, want: map[string]string{"store": "redis", "redis-url": "redis://redis:6379"}, wrong: `REDIS_TLS="yes": write true or false`},
		{
			name: "sentinels with a password", env: map[string]string{"REDIS_TYPE": "SENTINEL", "REDIS_URL": "m,a:1", "REDIS_AUTH": "one", "REDIS_SENTINEL_AUTH": "me:two", "REDIS_TIMEOUT": "200ms"},
			want: map[string]string{"store": "redis", "redis-sentinel-master": "m", "redis-url": "redis://a:1", "redis-password": "one", "redis-sentinel-user": "me", "redis-sentinel-password": "two", "store-timeout": "200ms", "redis-dial-timeout": "200ms"},
		},
		{name: "metrics", env: map[string]string{"USE_PROMETHEUS": "true", "PROMETHEUS_ADDR": ":19001", "PROMETHEUS_PATH": "/m"}, want: map[string]string{"envoy-metrics": "true", "metrics-addr": ":19001", "metrics-path": "/m"}},
		{name: "metrics that are off", env: map[string]string{"USE_PROMETHEUS": "false", "PROMETHEUS_ADDR": ":19001"}, want: map[string]string{}, warnings: "PROMETHEUS_ADDR=:19001"},
		{name: "spans over HTTP", env: map[string]string{"TRACING_ENABLED": "true"}, want: map[string]string{"tracing": "true"}, warnings: "TRACING_EXPORTER_PROTOCOL=http"},
		{name: "ages of connections", env: map[string]string{"GRPC_MAX_CONNECTION_AGE": "24h", "GRPC_MAX_CONNECTION_AGE_GRACE": "1h"}, want: map[string]string{"connection-age": "24h", "connection-grace": "1h"}},
		{name: "connections without an end", env: map[string]string{"GRPC_MAX_CONNECTION_AGE": "0"}, want: map[string]string{}, warnings: "GRPC_MAX_CONNECTION_AGE=0"},
		{name: "files with dots", env: map[string]string{"RUNTIME_IGNOREDOTFILES": "false"}, want: map[string]string{}, warnings: "RUNTIME_IGNOREDOTFILES=false"},
		{name: "a Redis for seconds alone", env: map[string]string{"REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": "a:1"}, want: map[string]string{}, wrong: `REDIS_PERSECOND="true": limits of a second are counted in the Redis of the others`, warnings: "REDIS_PERSECOND_URL=a:1"},
		{name: "the default directory", env: map[string]string{"CONFIG_TYPE": "FILE"}, want: map[string]string{"envoy-config-dir": "/srv/runtime_data/current/config"}},
		{name: "a level that is none", env: map[string]string{"LOG_LEVEL": "loud"}, want: map[string]string{}, wrong: `LOG_LEVEL="loud"`},
		{name: "sentinels that are none", env: map[string]string{"REDIS_TYPE": "SENTINEL", "REDIS_URL": "mymaster"}, want: map[string]string{"store": "redis", "redis-sentinel-master": "mymaster"}, wrong: "write the master's name and the sentinels"},
		{name: "a socket", env: map[string]string{"REDIS_URL": "/run/redis.sock"}, want: map[string]string{}, wrong: "Redis is reached by TCP"},
		{name: "another backend", env: map[string]string{"BACKEND_TYPE": "dynamo"}, want: map[string]string{}, wrong: `BACKEND_TYPE="dynamo": use redis or memcache`},
		{name: "configuration by another way", env: map[string]string{"CONFIG_TYPE": "REST"}, want: map[string]string{}, wrong: "use FILE or GRPC_XDS_SOTW"},
		{name: "configuration by xDS", env: map[string]string{"CONFIG_TYPE": "GRPC_XDS_SOTW", "RUNTIME_ROOT": "/data"}, want: map[string]string{"xds-server": "localhost:18000"}},
		{
			name: "all of xDS",
			env: map[string]string{
				"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_URL": "envoy-gateway:18001", "CONFIG_GRPC_XDS_NODE_ID": "n", "CONFIG_GRPC_XDS_NODE_METADATA": "a=b,c:d,e=f=g",
				"CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "a:b,authorization:Bearer x", "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true",
				"CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "c", "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "k", "CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "ca", "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "san",
				"CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "5s", "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL": "4s", "XDS_CLIENT_BACKOFF_MAX_INTERVAL": "30s",
				"XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": "1000", "FORCE_START_WITHOUT_INITIAL_CONFIG": "true",
			},
			want: map[string]string{
				"xds-server": "envoy-gateway:18001", "xds-node-id": "n", "xds-node-metadata": "a=b e=f=g", "xds-header": "a:b\nauthorization:Bearer x", "xds-tls": "true",
				"xds-tls-cert": "c", "xds-tls-key": "k", "xds-tls-ca": "ca", "xds-tls-server-name": "san", "xds-backoff": "4s", "xds-backoff-max": "30s",
				"xds-max-message-bytes": "1000", "xds-start-unconfigured": "true",
			},
		},
		{
			name: "xDS without TLS", env: map[string]string{"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "c", "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "5s", "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES": "0"},
			want: map[string]string{"xds-server": "localhost:18000", "xds-backoff": "5s"}, warnings: "CONFIG_GRPC_XDS_CLIENT_TLS_CERT=c",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.env == nil {
				tt.env = map[string]string{}
			}
			if tt.env["RUNTIME_ROOT"] == "" && tt.env["CONFIG_TYPE"] == "" {
				tt.env["RUNTIME_ROOT"], tt.want["envoy-config-dir"] = "/data", "/data/config"
			}
			e := readEnvoyVariables(lookupIn(tt.env))
			got := map[string]string{}
			for flag, setting := range e.flags {
				got[flag] = setting.Text
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if got := strings.Join(e.ignored, " "); got != tt.warnings {
				t.Errorf("warnings: got %q, want %q", got, tt.warnings)
			}
			if got := fmt.Sprint(e.wrong); (len(e.wrong) > 0) != (tt.wrong != "") || !strings.Contains(got, tt.wrong) {
				t.Errorf("wrong: got %q, want %q", got, tt.wrong)
			}
		})
	}
}

// TestWhatIsAboveEnvoyVariables has a flag choose another store than the variables say
// how to reach: what is said of that is not refused.
func TestWhatIsAboveEnvoyVariables(t *testing.T) {
	env := map[string]string{"RUNTIME_ROOT": "/data", "REDIS_URL": "/run/redis.sock", "REDIS_POOL_ON_EMPTY_BEHAVIOR": "CREATE", "GRPC_SERVER_USE_TLS": "true"}
	above := flags.Source{"store": {Text: "memory"}, "tls-cert": {Text: "c"}}
	if e := readEnvoyVariables(lookupIn(env), above); e.wrong != nil || len(e.ignored) != 2 {
		t.Errorf("wrong: %v, ignored: %v", e.wrong, e.ignored)
	}
}

// TestEveryEnvoyVariable sets each variable of Envoy's service: it is heeded, refused
// or warned of, as the list says and docs/envoy.md too.
func TestEveryEnvoyVariable(t *testing.T) {
	samples := map[string]string{
		"CONFIG_TYPE": "GRPC_XDS_SOTW", "BACKEND_TYPE": "memcache", "REDIS_TYPE": "CLUSTER", "REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": "other:6379",
		"LOG_LEVEL": "warn", "REDIS_POOL_ON_EMPTY_BEHAVIOR": "CREATE", "LOCAL_CACHE_SIZE_IN_BYTES": "0",
		"CONFIG_GRPC_XDS_NODE_METADATA": "a=b", "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS": "a:b",
	}
	byKind := map[kind]string{text: "x", boolean: "true", integer: "1", decimal: "0.5", duration: "3s"}
	// What the variables with a prefix mean something with.
	along := []struct {
		prefix string
		env    map[string]string
	}{
		{"CACHE_KEY_PREFIX", map[string]string{"REDIS_URL": "a:1"}},
		{"CONFIG_GRPC_XDS_", map[string]string{"CONFIG_TYPE": "GRPC_XDS_SOTW", "CONFIG_GRPC_XDS_SERVER_USE_TLS": "true"}},
		{"XDS_CLIENT_", map[string]string{"CONFIG_TYPE": "GRPC_XDS_SOTW"}},
		{"FORCE_START_", map[string]string{"CONFIG_TYPE": "GRPC_XDS_SOTW"}},
		{"REDIS_SENTINEL_AUTH", map[string]string{"REDIS_URL": "m,a:1", "REDIS_TYPE": "SENTINEL"}},
		{"REDIS_TLS_", map[string]string{"REDIS_URL": "a:1", "REDIS_TLS": "true"}},
		{"REDIS_", map[string]string{"REDIS_URL": "a:1"}},
		{"MEMCACHE_", map[string]string{"BACKEND_TYPE": "memcache"}},
		{"GRPC_", map[string]string{"GRPC_SERVER_USE_TLS": "true", "GRPC_SERVER_TLS_CERT": "c", "GRPC_SERVER_TLS_KEY": "k"}},
		{"PROMETHEUS_", map[string]string{"USE_PROMETHEUS": "true"}},
		{"TRACING_", map[string]string{"TRACING_ENABLED": "true"}},
	}
	soAnyway := []string{"RUNTIME_IGNOREDOTFILES", "RUNTIME_WATCH_ROOT", "XDS_CLIENT_BACKOFF_JITTER", "REDIS_SOCKET_TYPE", "REDIS_CLOSE_CONNECTION_ON_READONLY_ERROR"}
	documented := documentedVariables(t)
	for _, v := range serviceVariables {
		env := map[string]string{"RUNTIME_ROOT": "/data"}
		for _, a := range along {
			if strings.HasPrefix(v.name, a.prefix) {
				maps.Copy(env, a.env)
				break
			}
		}
		delete(env, v.name)
		before := readEnvoyVariables(lookupIn(env))
		env[v.name] = cmp.Or(samples[v.name], byKind[v.kind])
		e := readEnvoyVariables(lookupIn(env))
		got := heeded
		switch {
		case len(e.wrong) > 0 && strings.Contains(fmt.Sprint(e.wrong), v.name+"="):
			got = refused
		case strings.Contains(" "+strings.Join(e.ignored, " "), " "+v.name+"="):
			got = ignored
		case maps.EqualFunc(before.flags, e.flags, func(a, b flags.Setting) bool { return a.Text == b.Text }) && !slices.Contains(soAnyway, v.name):
			t.Errorf("%s=%s changes nothing, and nothing is said", v.name, env[v.name])
		}
		if got != v.fate {
			t.Errorf("%s=%s: fate %d, want %d (wrong %v, ignored %v)", v.name, env[v.name], got, v.fate, e.wrong, e.ignored)
		}
		if want := []string{"sets", "refused", "ignored"}[v.fate]; documented[v.name] != want {
			t.Errorf("docs/envoy.md says of %s %q, want %q", v.name, documented[v.name], want)
		}
		delete(documented, v.name)
		if v.kind == text {
			continue
		}
		env[v.name] = "yes"
		if e := readEnvoyVariables(lookupIn(env)); !strings.Contains(fmt.Sprint(e.wrong), v.name+`="yes"`) {
			t.Errorf("%s=yes is taken: %v", v.name, e.wrong)
		}
	}
	if len(documented) > 0 {
		t.Errorf("docs/envoy.md has variables that are none: %v", documented)
	}
}

var variableRow = regexp.MustCompile("(?m)^\\| (`[A-Z_`, ]+) \\| (sets|refused|ignored)\\b")

// documentedVariables returns what docs/envoy.md says becomes of each variable.
func documentedVariables(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range variableRow.FindAllStringSubmatch(string(page), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			name = strings.Trim(name, "`")
			if documented[name] != "" {
				t.Errorf("docs/envoy.md has %s twice", name)
			}
			documented[name] = row[2]
		}
	}
	return documented
}
