package main

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// TestAddressTaken starts a daemon on each address of another.
func TestAddressTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, flag := range []string{"grpc-addr", "http-addr", "admin-addr"} {
		for _, addr := range []string{taken.Addr().String(), ":" + port, "localhost:" + port} {
			args := []string{"serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--" + flag + "=" + addr}
			stdout, stderr, status := inProcess(t, args...)
			want := `ratelimitd: --` + flag + ` "` + addr + `": another process listens on this address; stop it, or choose another address` + "\n"
			if status != exitError || stdout != "" || stderr != want {
				t.Errorf("%s %s: exit status %d, %q, want %q", flag, addr, status, stderr, want)
			}
		}
	}
}

// startLogged starts "ratelimitd serve" on free ports, and returns its process, its
// addresses and what returns its log so far.
func startLogged(t *testing.T, env []string, flags ...string) (cmd *exec.Cmd, at addresses, log func() string) {
	t.Helper()
	cmd = process(t, env, append([]string{"serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=off", "--log-format=json"}, flags...)...)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = file
	log = func() string {
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); at.GRPC == ""; time.Sleep(10 * time.Millisecond) {
		for line := range strings.Lines(log()) {
			_ = json.Unmarshal([]byte(line), &at)
		}
		if time.Now().After(deadline) {
			t.Fatal(log())
		}
	}
	return cmd, at, log
}

// TestHangup sends SIGHUP to a daemon that has no files to read again.
func TestHangup(t *testing.T) {
	cmd, at, _ := startLogged(t, nil)
	_ = cmd.Process.Signal(syscall.SIGHUP)
	if _, stderr, status := runs(t, nil, "check", "--addr", at.GRPC, "--namespace=a", "--identifier=b", "--rate=1/s"); status != exitOK {
		t.Errorf("exit status %d, %s", status, stderr)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestTracingWithoutCollector reads the log of a daemon whose spans nobody takes.
func TestTracingWithoutCollector(t *testing.T) {
	cmd, at, log := startLogged(t, []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_EXPORTER_OTLP_TIMEOUT=100", "OTEL_RESOURCE_ATTRIBUTES=nothing"}, "--tracing")
	redistest.Eventually(t, "a problem is logged", func() error {
		_, _, _ = runs(t, nil, "check", "--addr", at.GRPC, "--namespace=a", "--identifier=b", "--rate=1/s")
		if !strings.Contains(log(), "traces export") {
			return os.ErrNotExist
		}
		return nil
	})
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	problems := 0
	for line := range strings.Lines(log()) {
		var fields struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("a line is not JSON: %s", line)
		}
		if fields.Msg == "tracing: spans may be lost" {
			problems++
		}
	}
	if problems < 2 || problems > 10 { // the attributes and the collector
		t.Errorf("%d problems are logged:\n%s", problems, log())
	}
}

// TestCheckFlags uses flags of check together that do not belong together.
func TestCheckFlags(t *testing.T) {
	who := []string{"check", "--namespace=checkout", "--identifier=alice"}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{[]string{"--policy=p", "--strategy=gcra"}, "--policy and --strategy cannot be used together; leave one of them out"},
		{[]string{"--policy=p", "--burst=2"}, "--policy and --burst cannot be used together"},
		{[]string{"--policy=p", "--name=n"}, "--policy and --name cannot be used together"},
		{[]string{"--rate=1/s", "--wait=0s"}, "--wait 0s: must be above 0, such as 2s"},
		{[]string{"--rate=1/s", "--cost=-1"}, `--cost "-1": write a whole number, such as 1`},
		{[]string{"--rate=1/s", "--burst=many"}, `--burst "many": write a whole number, such as 1`},
		{[]string{"--rate=1/s", "--addr=http://a"}, `--addr "http://a": write host or host:port, such as 127.0.0.1:8081`},
		{[]string{"--rate=1/s", "--addr=127.0.0.1", "--wait=100ms"}, "ask 127.0.0.1:8081: "},
	} {
		_, stderr, status := inProcess(t, append(who, tt.args...)...)
		if status != exitError || !strings.Contains(stderr, tt.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("check %v: exit status %d, %q, want %s", tt.args, status, stderr, tt.says)
		}
	}
	t.Setenv("RATELIMITD_POLICY", "p")
	t.Setenv("RATELIMITD_STRATEGY", "gcra")
	if _, stderr, status := inProcess(t, who...); status != exitError || !strings.Contains(stderr, "RATELIMITD_POLICY and RATELIMITD_STRATEGY cannot be used together") {
		t.Errorf("by the environment: exit status %d, %s", status, stderr)
	}
}

// TestTopAddress has top go to the default port.
func TestTopAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.2":        "127.0.0.2:6070",
		"http://127.0.0.1": `--admin-addr "http://127.0.0.1": write host or host:port, such as 127.0.0.1:6070`,
	} {
		if _, stderr, status := inProcess(t, "top", "--once", "--admin-addr="+addr); status != exitError || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit status %d, %s", addr, status, stderr)
		}
	}
}

// TestEnvironmentOfValidate has validate refuse what serve would, though it is
// the environment that is wrong and not the file.
func TestEnvironmentOfValidate(t *testing.T) {
	for _, file := range []string{"../../deploy/ratelimitd/ratelimitd.yaml", "../../deploy/envoy/ratelimit/edge.yaml"} {
		for variable, says := range map[string]string{
			"RATELIMITD_GRPC_ADDR=8081":      `RATELIMITD_GRPC_ADDR "8081": it has no port`,
			"RATELIMITD_STORE_TIMEOUT=0s":    `RATELIMITD_STORE_TIMEOUT 0s: must be above 0`,
			"RATELIMITD_MEMORY_SHARDS=3":     `RATELIMITD_MEMORY_SHARDS: 3 shards: want a power of two`,
			"RATELIMITD_LOG_LEVEL=loud":      `RATELIMITD_LOG_LEVEL "loud": use debug`,
			"RATELIMITD_CONFIG=/nowhere.yml": "",
		} {
			var out, errs bytes.Buffer
			cmd := process(t, []string{variable}, "validate", file)
			cmd.Stdout, cmd.Stderr = &out, &errs
			_ = cmd.Run()
			want := exitNo
			if says == "" && strings.HasSuffix(file, "ratelimitd.yaml") { // the argument is in its place
				want = exitOK
			}
			if code := cmd.ProcessState.ExitCode(); code != want || !strings.Contains(errs.String(), says) {
				t.Errorf("%s validate %s: exit status %d, %s%s", variable, file, code, out.String(), errs.String())
			}
		}
	}
}
