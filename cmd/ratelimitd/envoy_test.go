package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestEnvoyEnvironment checks which flags the variables of Envoy's service set.
func TestEnvoyEnvironment(t *testing.T) {
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
		{name: "a port that is none", env: map[string]string{"GRPC_PORT": "http"}, want: map[string]string{"grpc-addr": ":http"}, wrong: `GRPC_PORT="http": a port is a number`},
		{name: "a level that is none", env: map[string]string{"LOG_LEVEL": "loud"}, want: map[string]string{"log-level": ""}, wrong: `LOG_LEVEL="loud"`},
		{name: "a socket", env: map[string]string{"REDIS_URL": "/run/redis.sock"}, want: map[string]string{}, wrong: "Redis is reached by TCP"},
		{name: "another backend", env: map[string]string{"BACKEND_TYPE": "dynamo"}, want: map[string]string{}, wrong: `BACKEND_TYPE="dynamo": use redis or memcache`},
		{name: "configuration by xDS", env: map[string]string{"CONFIG_TYPE": "GRPC_XDS_SOTW"}, want: map[string]string{}, wrong: "use FILE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := readEnvoyEnvironment(func(name string) (string, bool) { value, ok := tt.env[name]; return value, ok })
			if !maps.Equal(e.flags, tt.want) {
				t.Errorf("got %v, want %v", e.flags, tt.want)
			}
			if got := strings.Join(e.warnings, " "); got != tt.warnings {
				t.Errorf("warnings: got %q, want %q", got, tt.warnings)
			}
			if got := fmt.Sprint(e.wrong); (len(e.wrong) > 0) != (tt.wrong != "") || !strings.Contains(got, tt.wrong) {
				t.Errorf("wrong: got %q, want %q", got, tt.wrong)
			}
		})
	}
}

// TestEnvoyVariablesOfOthers has variables that Envoy's service would refuse:
// they count only along with RUNTIME_ROOT.
func TestEnvoyVariablesOfOthers(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "edge.yaml"), limitOf(1))
	env := []string{"PORT=http", "LOG_LEVEL=loud"}
	if _, stop := serves(t, append(env, "RATELIMITD_ENVOY_CONFIG_DIR="+dir)); stop() != exitOK {
		t.Error("a daemon that is not told RUNTIME_ROOT minds the other variables")
	}
	if _, stderr, code := runs(t, append(env, "RUNTIME_ROOT="+filepath.Dir(dir)), "serve"); code != exitError || !strings.Contains(stderr, `"loud"`) && !strings.Contains(stderr, "log-level") {
		t.Errorf("exit status %d, %s", code, stderr)
	}
}

func limitOf(n int) string {
	return fmt.Sprintf("domain: edge\ndescriptors: [{key: user, rate_limit: {unit: year, requests_per_unit: %d}}]\n", n)
}

// TestEnvoyConfigDir serves a mounted ConfigMap by the variables of Envoy's
// service, and replaces it as Kubernetes does: by the change of a link. What was
// counted is kept; a configuration that is bad is refused.
func TestEnvoyConfigDir(t *testing.T) {
	root := t.TempDir()
	mount := filepath.Join(root, "edge", "config")
	if err := os.MkdirAll(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(version, text string) {
		if err := os.Mkdir(filepath.Join(mount, "..v"+version), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(mount, "..v"+version, "edge.yaml"), text)
		next := filepath.Join(mount, "..next")
		if err := os.Symlink("..v"+version, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(mount, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("1", limitOf(10))
	if err := os.Symlink("..data/edge.yaml", filepath.Join(mount, "edge.yaml")); err != nil {
		t.Fatal(err)
	}
	addr, stop := serves(t, []string{"RUNTIME_ROOT=" + root, "RUNTIME_SUBDIRECTORY=edge", "PORT=1", "USE_STATSD=false"})
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := rlsv3.NewRateLimitServiceClient(conn)
	ask := func(hits uint32) *rlsv3.RateLimitResponse_DescriptorStatus {
		out, err := client.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "edge", HitsAddend: hits, Descriptors: []*commonv3.RateLimitDescriptor{{
			Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "user", Value: "alice"}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return out.GetStatuses()[0]
	}
	if st := ask(4); st.GetLimitRemaining() != 6 {
		t.Errorf("%v, want 6 left of 10", st)
	}
	put("2", "domain: edge\ndescriptors: [{kee: user}]\n")
	put("3", limitOf(1_000_000))
	for deadline := time.Now().Add(20 * time.Second); ask(1).GetCurrentLimit().GetRequestsPerUnit() != 1_000_000; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new configuration is not in force")
		}
	}
	if left := ask(1).GetLimitRemaining(); left > 1_000_000-6 {
		t.Errorf("%d left: what was counted is forgotten", left)
	}
	if code := stop(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
}

func TestValidateEnvoy(t *testing.T) {
	dir := t.TempDir()
	a := writeFile(t, filepath.Join(dir, "a.yaml"), limitOf(1))
	b := writeFile(t, filepath.Join(dir, "b.yml"), "domain: edge\ndescriptors:\n  - key: path\n    rate_limit: {unit: fortnight, requests_per_unit: 1}\n")
	if stdout, stderr, code := runs(t, nil, "validate", "../../deploy/envoy/ratelimit"); code != exitOK {
		t.Errorf("the example: %d, %q, %q", code, stdout, stderr)
	}
	if stdout, stderr, code := runs(t, nil, "validate", a); code != exitOK || stdout != a+": ok\n" || stderr != "" {
		t.Errorf("a good file: %d, %q, %q", code, stdout, stderr)
	}
	for _, args := range [][]string{{a, b}, {dir}} {
		stdout, stderr, code := runs(t, nil, append([]string{"validate"}, args...)...)
		if code != exitNo || stdout != a+": ok\n" || !strings.Contains(stderr, b+`:1:9: domain "edge" is also that of `+a) || !strings.Contains(stderr, b+`:4:24: unit "fortnight" is not known`) {
			t.Errorf("%v: %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if _, stderr, code := runs(t, []string{"RATELIMITD_ENVOY_MERGE_DOMAINS=true"}, "validate", dir); code != exitNo || strings.Contains(stderr, "is also that of") {
		t.Errorf("merged: %d, %q", code, stderr)
	}
	if _, stderr, code := runs(t, nil, "validate", t.TempDir()); code != exitNo || !strings.Contains(stderr, "no *.yaml file") {
		t.Errorf("an empty directory: %d, %q", code, stderr)
	}
}
