package config

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

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
			warnings: "USE_STATSD=false",
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
			env:  map[string]string{"BACKEND_TYPE": "memcache", "MEMCACHE_HOST_PORT": "a:11211,b:11211", "REDIS_URL": "ignored"},
			want: map[string]string{"store": "memcached", "memcached-addr": "a:11211 b:11211"},
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
		{name: "a port that is none", env: map[string]string{"GRPC_PORT": "http"}, want: map[string]string{}, wrong: `GRPC_PORT="http": a port is a number`},
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
			want: map[string]string{"xds-server": "localhost:18000", "xds-backoff": "5s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := readEnvoyVariables(func(name string) (string, bool) { value, ok := tt.env[name]; return value, ok })
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
