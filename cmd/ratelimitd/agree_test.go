package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/config"
)

// inProcess runs ratelimitd in this process. A daemon that starts stops at once.
func inProcess(t *testing.T, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if args[0] == "serve" {
		cancel()
	}
	var out, errs bytes.Buffer
	status = run(ctx, args, &out, &errs)
	return out.String(), errs.String(), status
}

// freePorts are the settings that let any number of daemons run here.
const freePorts = "grpc_addr: 127.0.0.1:0\nhttp_addr: 127.0.0.1:0\nadmin_addr: 127.0.0.1:0\n"

// refused has settings that neither serve nor validate accepts, by the flag that
// is wrong, and what both say after the setting's name.
var refused = []struct{ flag, settings, says string }{
	{"grpc-addr", "grpc_addr: 8081", ` "8081": it has no port; write host:port, such as 127.0.0.1:8081`},
	{"grpc-addr", `grpc_addr: ""`, ` "": it is empty`},
	{"grpc-addr", "grpc_addr: 127.0.0.1:70000", ` "127.0.0.1:70000": the port is not a number from 0 to 65535`},
	{"grpc-addr", "grpc_addr: 127.0.0.1:http", `the port is not a number`},
	{"grpc-addr", `grpc_addr: "127.0.0.1:"`, `the port is not a number`},
	{"grpc-addr", "grpc_addr: ::1:8081", `an IPv6 address needs brackets, as in [::1]:8081`},
	{"grpc-addr", "grpc_addr: 300.0.0.1:8081", `the host is neither an IP address nor a name`},
	{"grpc-addr", `grpc_addr: "my host:8081"`, `the host is neither`},
	{"http-addr", "http_addr: http://x/", `the port is not a number`},
	{"http-addr", "grpc_addr: 127.0.0.1:8099\nhttp_addr: :8099", ` ":8099": --grpc-addr has this address too; choose another port`},
	{"http-addr", "grpc_addr: localhost:8099\nhttp_addr: 127.0.0.1:8099", `--grpc-addr has this address too`},
	{"admin-addr", "admin_addr: none", `it has no port; write host:port, such as 127.0.0.1:6070, or off`},
	{"metrics-addr", "metrics_addr: 9090", ` "9090": it has no port; write host:port, such as 127.0.0.1:9090`},
	{"resp-addr", "resp_addr: 6379", ` "6379": it has no port; write host:port, such as 127.0.0.1:6379`},
	{"metrics-path", "metrics_path: metrics", ` "metrics": write a path, such as /metrics`},
	{"policies-only", "policies_only: maybe", ` "maybe": write true or false`},
	{"store", "store: mongo", ` "mongo": use memory, redis or memcached`},
	{"on-error", "on_error: panic", ` "panic": use allow, deny, error or local`},
	{"wait-for-store", "wait_for_store: maybe", ` "maybe": write true or false`},
	{"store-timeout", "store_timeout: 0s", ` 0s: must be above 0, such as 50ms`},
	{"store-timeout", "store_timeout: 50", ` "50": write a number and its unit`},
	{"deny-cache-ttl", "deny_cache_ttl: -1s", ` -1s: must be 0 or above, such as 1s`},
	{"max-log-count", "max_log_count: 0", ` 0: must be 1 to 1000000, such as 10000`},
	{"reservation-ttl", "reservation_ttl: 10ms", ` 10ms: must be 1s to 168h, such as 1h`},
	{"reservation-ttl", "reservation_ttl: 169h", ` 169h0m0s: must be 1s to 168h, such as 1h`},
	{"shutdown-delay", "shutdown_delay: -1s", ` -1s: must be `},
	{"drain-timeout", "drain_timeout: -1s", ` -1s: must be above 0, such as 10s`},
	{"tracing", "tracing: 2", ` "2": write true or false`},
	{"test-clock", "test_clock: true\ngrpc_addr: :8081", `: other machines may reach --grpc-addr ":8081"; write --grpc-addr=127.0.0.1:8081`},
	{"test-clock", "test_clock: true\nmetrics_addr: 192.0.2.1:9090", `: other machines may reach --metrics-addr "192.0.2.1:9090"; write --metrics-addr=127.0.0.1:9090`},
	{"test-clock", "test_clock: true\nadmin_addr: off", `: the admin port turns the clock, and --admin-addr is off; write --admin-addr=127.0.0.1:0`},
	{"test-clock", "test_clock: true\nstore: redis", `: with --store=redis the clock is not ours to turn; use --store=memory`},
	{"log-level", "log_level: loud", ` "loud": use debug, info, warn or error`},
	{"log-format", "log_format: xml", ` "xml": use text or json`},

	{"store-max-in-flight", "store: redis\nstore_max_in_flight: 1", ` 1: must be `},
	{"max-message-bytes", "max_message_bytes: 1", ` 1: must be `},
	{"max-header-bytes", "max_header_bytes: 1", ` 1: must be 1024 to 1048576`},
	{"max-streams", "max_streams: 0", ` 0: must be 1 to 1000000`},
	{"max-calls", "max_calls: 0", ` 0: must be 1 to 10000000`},
	{"max-bytes-in-flight", "max_bytes_in_flight: 1", ` 1: must be 131072 to `},
	{"message-timeout", "message_timeout: 0s", ` 0s: must be above 0`},
	{"connection-age", "connection_age: 0s", ` 0s: must be above 0`},
	{"connection-grace", "connection_grace: 0s", ` 0s: must be above 0`},
	{"connection-idle", "connection_idle: 0s", ` 0s: must be above 0`},
	{"redis-shared-scripts", "store: redis\nredis_shared_scripts: maybe", ` "maybe": `},
	{"redis-shared-scripts", "store: redis\nredis_cluster: true\nredis_shared_scripts: always", `a script in a cluster has the keys of one slot`},
	{"redis-key-prefix", "store: redis\nredis_key_prefix: a b", `"a b": write printable ASCII`},
	{"redis-password-file", "store: redis\nredis_password_file: /nowhere", `no such file or directory`},
	{"redis-auth-file", "store: redis\nredis_auth_file: /nowhere", `no such file or directory`},
	{"redis-auth-file", "store: redis\nredis_user: a\nredis_password: b\nredis_auth_file: /nowhere", `there is a user or a password too`},
	{"memcached-key-prefix", "store: memcached\nmemcached_key_prefix: '{'", `"{": write printable ASCII`},

	{"tls-cert", "tls_cert: /nowhere", ` "/nowhere": give --tls-key too`},
	{"tls-cert", "tls_cert: /\ntls_key: /nowhere", ` "/": is a directory`},
	{"tls-key", "tls_key: /nowhere", ` "/nowhere": give --tls-cert too`},
	{"tls-client-ca", "tls_client_ca: /nowhere", ` "/nowhere": give --tls-cert too`},
	{"tls-client-san", "tls_client_san: a", ` "a": give --tls-client-ca too`},
	{"tls-client-san", "tls_cert: a\ntls_key: b\ntls_client_ca: c\ntls_client_san: a*", `: "a*": a * stands only at the end of a SPIFFE ID`},
	{"tls-client-san", "tls_cert: a\ntls_key: b\ntls_client_ca: c\nauth_file: /nowhere\ntls_client_san: a", ` "a": --auth-file is given`},
	{"tls-ports", "tls_ports: [grpc, https]", ` "https": use grpc, http, admin or resp`},
	{"tls-min-version", "tls_min_version: 1.1", ` "1.1": use 1.2 or 1.3`},
	{"auth-file", "auth_file: /nowhere", `: open /nowhere: no such file or directory`},
	{"allow-reset", "allow_reset: 2", `write true or false`},
	{"admin-host", "admin_host: a:1", ` "a:1": is neither an IP address nor a name`},

	{"envoy-config-dir", "envoy_config_dir: /nowhere", `: lstat /nowhere: no such file or directory`},
	{"envoy-config-dir", "envoy_config_dir: /dev/null", `: is not a directory`},
	{"envoy-require-domains", "envoy_require_domains: 2", `write true or false`},
	{"envoy-quota-mode", "envoy_quota_mode: 2", `write true or false`},
	{"envoy-metrics", "envoy_metrics: 2", `write true or false`},
	{"envoy-near-limit-ratio", "envoy_near_limit_ratio: 2", ` 2: must be above 0 and at most 1, such as 0.8`},
	{"envoy-merge-domains", "envoy_merge_domains: 2", `write true or false`},
	{"envoy-shadow-mode", "envoy_shadow_mode: 2", `write true or false`},
	{"envoy-all-or-none", "envoy_all_or_none: 2", `write true or false`},
	{"envoy-overdraw", "envoy_overdraw: twice", `use none, once or always`},
	{"envoy-overdraw", "envoy_overdraw: always\nenvoy_all_or_none: true", ` always: with --envoy-all-or-none, what is over a limit is not counted`},
	{"envoy-response-headers", "envoy_response_headers: 2", `write true or false`},
	{"envoy-dynamic-metadata", "envoy_dynamic_metadata: 2", `write true or false`},
	{"envoy-limit-header", `envoy_limit_header: "X Limit"`, ` "X Limit": is not the name of a header`},
	{"envoy-remaining-header", `envoy_remaining_header: ""`, `is not the name of a header`},
	{"envoy-reset-header", `envoy_reset_header: "X:"`, `is not the name of a header`},

	{"xds-server", "xds_server: nowhere", ` "nowhere": it has no port; write host:port, such as envoy-gateway:18001`},
	{"xds-server", "xds_server: a:1\nenvoy_config_dir: /proc", ` "a:1": envoy_config_dir is given too; take the limits from the one or from the other`},
	{"xds-node-metadata", "xds_node_metadata: [a=b, c]", ` "c": write it as KEY=VALUE, such as region=eu`},
	{"xds-header", "xds_header: [nonsense]", `: write it as NAME: VALUE, such as authorization: Bearer token`},
	{"xds-header", `xds_header: ["a: b", "grpc-timeout: 1s"]`, `: write it as NAME: VALUE`},
	{"xds-tls", "xds_tls: 2", `write true or false`},
	{"xds-tls-ca", "xds_tls_ca: /nowhere", ` "/nowhere": the server is reached without TLS; give --xds-tls too`},
	{"xds-tls-cert", "xds_tls: true\nxds_tls_cert: /nowhere", ` "/nowhere": give --xds-tls-key too`},
	{"xds-tls-key", "xds_tls: true\nxds_tls_key: /nowhere", ` "/nowhere": give --xds-tls-cert too`},
	{"xds-tls-server-name", "xds_tls_server_name: a", `give --xds-tls too`},
	{"xds-max-message-bytes", "xds_max_message_bytes: 0", ` 0: must be 1 to 67108864, such as 4194304`},
	{"xds-backoff", "xds_backoff: 0s", ` 0s: must be above 0 and at most 1h, such as 1s`},
	{"xds-backoff-max", "xds_backoff_max: 1ms", ` 1ms: must be at least --xds-backoff and at most 1h, such as 1m`},
	{"xds-cache-file", "xds_cache_file: /nowhere/limits", ` "/nowhere/limits": there is no directory "/nowhere"; make it`},
	{"xds-start-unconfigured", "xds_start_unconfigured: 2", `write true or false`},

	{"max-connections", "max_connections: -1", ` -1: must be 0 to 10000000, such as 10000; 0 is the default`},
	{"max-connections", "max_connections: 99999999999", `must be 0 to 10000000`},
	{"max-connections-per-address", "max_connections_per_address: -1", ` -1: must be 0 to 10000000`},
	{"memory-shards", "memory_shards: 3", `: 3 shards: want a power of two`},
	{"memory-shards", "memory_shards: 1024\nmemory_max_keys: 1000", `too few for 1024 shards`},
	{"memory-max-keys", "memory_max_keys: 0", ` 0: must be 1 to 10000000000`},
	{"memory-snapshot", "memory_snapshot: /nowhere/counters", ` "/nowhere/counters": there is no directory "/nowhere"; make it`},
	{"memory-snapshot", "memory_snapshot: /", ` "/": is no regular file; write one, such as /var/lib/ratelimitd/counters`},
	{"memory-snapshot", "memory_snapshot: /counters\nstore: redis", ` "/counters": with --store=redis the counters are not in memory`},
	{"memory-snapshot-interval", "memory_snapshot_interval: 0s", ` 0s: must be above 0, such as 10s`},
	{"memory-max-keys", "memory_max_keys: 99999999999999999999", `the number is too large`},

	{"redis-url", "store: redis\nredis_url: http://x", `: URL "http://x": it begins with neither redis:// nor rediss://`},
	{"redis-url", "store: redis\nredis_url: []", `: is empty; write one or several URLs`},
	{"redis-url", "store: redis\nredis_url: [redis://a, rediss://b]", `use one of them for all`},
	{"redis-url", "store: redis\nredis_url: redis://me@a", `: user "me": give a password too`},
	{"redis-url", "store: redis\nredis_url: redis://a/1\nredis_cluster: true", `a cluster has only database 0`},
	{"redis-cluster", "redis_cluster: 2", `write true or false`},
	{"redis-sentinel-master", "store: redis\nredis_sentinel_master: m\nredis_cluster: true", `a cluster has no sentinels`},
	{"redis-sentinel-user", "store: redis\nredis_sentinel_user: me", `give the sentinel master name too`},
	{"redis-sentinel-password", "store: redis\nredis_sentinel_password: secret", `give the sentinel master name too`},
	{"redis-user", "store: redis\nredis_user: me", `user "me": give a password too`},
	{"redis-database", "redis_database: -1", ` -1: must be 0 or above`},
	{"redis-database", "store: redis\nredis_cluster: true\nredis_database: 1", `a cluster has only database 0`},
	{"redis-tls-ca", "store: redis\nredis_url: rediss://a\nredis_tls_ca: /nowhere", `open /nowhere: no such file or directory`},
	{"redis-tls-ca", "store: redis\nredis_url: rediss://a\nredis_tls_ca: /dev/null", `has no PEM certificate`},
	{"redis-tls-ca", "store: redis\nredis_tls_ca: /dev/null", `this option is for TLS, so the URLs must be such as`},
	{"redis-tls-cert", "store: redis\nredis_url: rediss://a\nredis_tls_cert: /dev/null", `give both or neither`},
	{"redis-tls-cert", "store: redis\nredis_url: rediss://a\nredis_tls_cert: CERT\nredis_tls_key: CERT", `tls: failed to find "CERTIFICATE" PEM block`},
	{"redis-tls-key", "store: redis\nredis_url: rediss://a\nredis_tls_key: /dev/null", `give both or neither`},
	{"redis-tls-server-name", "store: redis\nredis_tls_server_name: a", `is for TLS`},
	{"redis-pool-size", "redis_pool_size: -1", ` -1: must be 0 to 10000, such as 64`},
	{"redis-pool-size", "redis_pool_size: 99999999999", `must be 0 to 10000`},
	{"redis-min-idle", "redis_min_idle: -1", ` -1: must be 0 or above`},
	{"redis-min-idle", "store: redis\nredis_min_idle: 65\nredis_pool_size: 64", `must be from 0 to the pool size, 64`},
	{"redis-dial-timeout", "redis_dial_timeout: 0s", ` 0s: must be above 0`},

	{"memcached-addr", "store: memcached\nmemcached_addr: nowhere", ` "nowhere": write it as host:port`},
	{"memcached-addr", "store: memcached\nmemcached_addr: [a:0]", `write it as host:port`},
	{"memcached-addr", "store: memcached\nmemcached_addr: []", `: is empty; write one or several addresses`},
	{"memcached-addr", "store: memcached\nmemcached_addr: [a:1, b:1, a:1]", ` "a:1": is there twice`},
	{"memcached-max-conns", "memcached_max_conns: -1", ` -1: must be 1 to 10000`},
}

// anything lists the flags that take any value.
var anything = []string{"config", "redis-password", "xds-node-id"}

// TestRefused has validate and serve refuse the same settings, for the same
// reasons, and name the place.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	noKey := writeFile(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "NOTHING"})))
	tried := map[string]bool{}
	for _, flag := range anything {
		tried[flag] = true
	}
	for i, tt := range refused {
		tried[tt.flag] = true
		text := strings.ReplaceAll(tt.settings, "CERT", noKey) + "\nnamespaces: {}\n"
		for line := range strings.Lines(freePorts) {
			if key, _, _ := strings.Cut(line, ":"); !strings.Contains(text, key) {
				text += line
			}
		}
		file := writeFile(t, filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), text)
		_, says, status := inProcess(t, "validate", file)
		key := strings.ReplaceAll(tt.flag, "-", "_")
		at := strings.Index(says, key)
		if status != exitNo || at < 0 || !strings.Contains(says[at:], tt.says) || !strings.Contains(says, "refused, as a file of --config") {
			t.Errorf("validate %s: exit status %d, %s; want %s", tt.settings, status, says, tt.says)
		}
		_, served, status := inProcess(t, "serve", "--config", file)
		if at := strings.Index(served, key); status != exitError || at < 0 || !strings.Contains(served[at:], tt.says) {
			t.Errorf("serve %s: exit status %d, %s", tt.settings, status, served)
		}
	}
	for _, flag := range config.Default().Flags().Flags {
		if !tried[flag.Name] {
			t.Errorf("no value of --%s is refused here", flag.Name)
		}
	}
}

// values are some that one flag or another takes.
var values = []string{
	`""`, "0", "1", "-1", "3", "4096", "100000000000", "99999999999999999999", "true", "maybe", "a b", "off",
	"127.0.0.1:0", ":0", "nowhere", "[a:1, b:2]", "[]", "1s", "-1s", "local", "redis", "http://x",
	"redis://x", "rediss://x:1", "redis://u@x", "[redis://x, redis://y/1]", "/dev/null",
}

// TestAgree sets each flag to many values: what validate accepts starts, and
// nothing else does.
func TestAgree(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir) // where some values make files
	accepted := 0
	for _, store := range []string{"memory", "redis", "memcached"} {
		for _, flag := range config.Default().Flags().Flags {
			of, _, _ := strings.Cut(flag.Name, "-")
			if of != "redis" && of != "memcached" {
				of = "memory"
			}
			if flag.Name == "config" || of != store {
				continue
			}
			key := strings.ReplaceAll(flag.Name, "-", "_")
			for _, value := range values {
				if key == "envoy_config_dir" && value == "/" || // where it would read all there is
					strings.HasSuffix(key, "_addr") && value == "a:1" && store == "memory" { // whose name validate does not look up
					continue
				}
				text := key + ": " + value + "\nnamespaces: {}\n"
				for line := range strings.Lines(freePorts + "store: " + store + "\n") {
					if !strings.HasPrefix(line, key+":") {
						text += line
					}
				}
				file := writeFile(t, filepath.Join(dir, "c.yaml"), text)
				_, says, valid := inProcess(t, "validate", file)
				_, log, served := inProcess(t, "serve", "--config", file)
				if (valid == exitOK) != (served == exitOK) {
					t.Errorf("%s: %s with %s: validate says %q, serve %q", key, value, store, says, log)
				}
				if valid == exitOK {
					accepted++
				}
			}
		}
	}
	if accepted < 100 {
		t.Errorf("only %d values were accepted", accepted)
	}
}
