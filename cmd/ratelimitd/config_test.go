package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestValidate(t *testing.T) {
	dir := t.TempDir()
	good := writeFile(t, filepath.Join(dir, "good.yaml"), `
store: redis
redis_url: [redis://a:6379, redis://b:6379]
redis_cluster: true
memory_max_keys: 100
namespaces: {checkout: {policies: {default: {limits: [{rate: 10/s}]}}}}
`)
	bad := writeFile(t, filepath.Join(dir, "bad.yaml"), `
store: mongo
store_timeout: 0s
redis_url: [[redis://a:6379]]
log_level: [info]
max_log_count: many
config: other.yaml
namespaces: {checkout: {policies: {default: {limits: [{rate: 10/s}, {rate: 10/sec}]}}}}
`)
	if stdout, stderr, status := runs(t, nil, "validate", "../../deploy/ratelimitd/ratelimitd.yaml"); status != 0 {
		t.Errorf("the example: exit status %d, %q, %q", status, stdout, stderr)
	}
	stdout, stderr, status := runs(t, nil, "validate", good)
	if status != 0 || stdout != good+": ok, as a file of --config\n" || stderr != "" {
		t.Errorf("a good file: exit status %d, %q, %q", status, stdout, stderr)
	}
	stdout, stderr, status = runs(t, nil, "validate", bad, good, filepath.Join(dir, "none.yaml"))
	if status != 1 || stdout != good+": ok, as a file of --config\n" {
		t.Errorf("a bad file: exit status %d, %q", status, stdout)
	}
	for _, want := range []string{
		bad + `:2:8: store "mongo": use memory, redis or memcached`,
		bad + ":3:16: store_timeout 0s: must be above 0, such as 50ms",
		bad + ":4:13: a list, where a single value is wanted",
		bad + ":5:12: a list, where a single value is wanted",
		bad + `:6:16: max_log_count "many": write a whole number, such as 10000`,
		bad + `:7:1: unknown key "config"; known here: `,
		bad + ":8:69: the same limit as another of this list",
		"none.yaml: no such file or directory",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it does not say %s:\n%s", want, stderr)
		}
	}
	if stdout, stderr, status = runs(t, nil, "serve", "--config", bad); status != exitError || !strings.HasPrefix(stderr, "ratelimitd:\n"+bad) {
		t.Errorf("serve: exit status %d, %q, %q", status, stdout, stderr)
	}
}

// TestPrecedence sets one flag in the file, the environment and on the command
// line, and others in fewer places.
func TestPrecedence(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "c.yaml"), "grpc_addr: in-file\nnamespaces: {}\n")
	for _, tt := range []struct {
		env  []string
		args []string
		want string
	}{
		{nil, nil, `c.yaml:1:12: grpc_addr "in-file": it has no port; write host:port, such as 127.0.0.1:8081`},
		{[]string{"RATELIMITD_GRPC_ADDR=in-env"}, nil, `RATELIMITD_GRPC_ADDR "in-env": it has no port`},
		{[]string{"RATELIMITD_GRPC_ADDR=in-env"}, []string{"--grpc-addr=on-line"}, `--grpc-addr "on-line": it has no port`},
	} {
		_, stderr, status := runs(t, append(tt.env, "RATELIMITD_CONFIG="+file), append([]string{"serve"}, tt.args...)...)
		if status != exitError || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v %v: exit status %d, %q, want %s", tt.env, tt.args, status, stderr, tt.want)
		}
	}
}

// TestPolicyFromFile asks by a policy, and changes it while the daemon runs.
func TestPolicyFromFile(t *testing.T) {
	policy := func(rate string) string {
		return fmt.Sprintf("namespaces: {checkout: {policies: {default: {limits: [{name: main, rate: %s}]}}}}\n", rate)
	}
	file := writeFile(t, filepath.Join(t.TempDir(), "c.yaml"), policy("2/366d"))
	addr, _ := serves(t, []string{"RATELIMITD_CONFIG=" + file, "RATELIMITD_POLICIES_ONLY=true"})
	check := func(args ...string) (string, string, int) {
		return runs(t, nil, append([]string{"check", "--addr", addr, "--namespace=checkout", "--identifier=alice"}, args...)...)
	}
	for i, want := range []int{0, 0, 1} {
		if stdout, stderr, status := check("--policy=default"); status != want || !strings.Contains(stdout, "main: ") {
			t.Errorf("request %d: exit status %d, %q, %q", i, status, stdout, stderr)
		}
	}
	if _, stderr, status := check("--rate=1/s"); status != exitError || !strings.Contains(stderr, "this server decides by policies of its own alone") {
		t.Errorf("limits of the caller's: exit status %d, %q", status, stderr)
	}
	writeFile(t, file, "namespaces: {checkout: {policies: {default: {limits: [{rate: oops}]}}}}\n")
	writeFile(t, file+".other", "") // in the same directory, and nobody's affair
	writeFile(t, file, policy("5/366d"))
	redistest.Eventually(t, "the new rate", func() error {
		if stdout, stderr, status := check("--policy=default", "--cost=0"); status != 0 || !strings.Contains(stdout, "main: 3 of 5 left") {
			return fmt.Errorf("exit status %d, %q, %q", status, stdout, stderr)
		}
		return nil
	})
}

// TestIdle sets what has no effect.
func TestIdle(t *testing.T) {
	_, stderr, _ := runs(t, []string{"RATELIMITD_STRE=redis", "RATELIMITD_PORT_8081_TCP_ADDR=10.0.0.1", "RATELIMITD_SERVICE_PORT_GRPC=8081", "RATELIMITD_MEMCACHED_ADDR=a:1"},
		"serve", "--redis-url=redis://a", "--grpc-addr=192.0.2.1:1")
	for _, want := range []string{"variable=RATELIMITD_STRE did_you_mean=RATELIMITD_STORE\n", "flag=--redis-url store=memory\n", "flag=--memcached-addr store=memory\n"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it does not warn of %s:\n%s", want, stderr)
		}
	}
	if strings.Count(stderr, "level=WARN") != 3 {
		t.Errorf("it warns of more:\n%s", stderr)
	}
}
