package main

import (
	"fmt"
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
	if stdout, stderr, code := runs(t, nil, "validate", a); code != exitOK || stdout != a+": ok, as a file of --envoy-config-dir\n" || stderr != "" {
		t.Errorf("a good file: %d, %q, %q", code, stdout, stderr)
	}
	for _, args := range [][]string{{a, b}, {dir}} {
		stdout, stderr, code := runs(t, nil, append([]string{"validate"}, args...)...)
		if code != exitNo || stdout != a+": ok, as a file of --envoy-config-dir\n" || !strings.Contains(stderr, b+`:1:9: domain "edge" is also that of `+a) || !strings.Contains(stderr, b+`:4:24: unit "fortnight" is not known`) {
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

// TestCheckAsEnvoy asks by a descriptor, from the command line.
func TestCheckAsEnvoy(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "edge.yaml"), limitOf(2))
	addr, stop := serves(t, []string{"RATELIMITD_ENVOY_CONFIG_DIR=" + dir})
	defer stop()
	ask := func(args ...string) (string, string, int) {
		return runs(t, nil, append([]string{"check", "--addr", addr, "--wait", "20s", "--envoy-domain", "edge"}, args...)...)
	}
	for _, step := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--entry", "user=alice"}, exitOK, "allowed (ok)\n  1 of 2 left per year, reset in "},
		{[]string{"--entry", "user=alice", "--cost", "0"}, exitOK, "1 of 2 left"},
		{[]string{"--entry", "user=bob", "--cost", "3"}, exitNo, "denied (over limit)\n  0 of 2 left"},
		{[]string{"--entry", "user=alice", "--json"}, exitOK, `"overallCode":"OK"`},
		{[]string{"--entry", "user=x", "--entry", "page=/"}, exitOK, "no limit applies to this descriptor"},
		{nil, exitError, "--entry is missing"},
		{[]string{"--entry", "user"}, exitError, "write it as key=value"},
		{[]string{"--entry", "user=alice", "--namespace", "n"}, exitError, "cannot be used together"},
	} {
		stdout, stderr, code := ask(step.args...)
		if code != step.code || !strings.Contains(strings.ReplaceAll(stdout+stderr, `": "`, `":"`), step.want) {
			t.Errorf("%v: %d, %q, %q; want %d and %q", step.args, code, stdout, stderr, step.code, step.want)
		}
	}
	if _, stderr, code := runs(t, nil, "check", "--entry", "a=b", "--rate", "1/s"); code != exitError || !strings.Contains(stderr, "--namespace is missing") || !strings.Contains(stderr, "give --envoy-domain too") {
		t.Errorf("without a domain: %d, %q", code, stderr)
	}
}
