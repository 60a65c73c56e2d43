package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
)

// asMain, in the environment, makes this test binary be ratelimitd.
const asMain = "TEST_AS_RATELIMITD"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process returns ratelimitd with args, to be run in an environment with env.
func process(t testing.TB, env []string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // nothing here runs so long
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asMain+"=1"), env...)
	return cmd
}

// runs runs ratelimitd with args and returns what it prints and its exit
// status.
func runs(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := process(t, env, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// serves runs "ratelimitd serve" on free ports until the test ends, and returns
// its gRPC address and what stops it, which returns its exit status.
func serves(t *testing.T, env []string) (addr string, stop func() int) {
	t.Helper()
	at, stop := servesAt(t, env)
	return at.GRPC, stop
}

// addresses are where a daemon serves, as its log says.
type addresses struct {
	GRPC, HTTP, Admin string
	pid               int // of the daemon
}

// servesAt is serves, with more flags, and all addresses.
func servesAt(t testing.TB, env []string, flags ...string) (at addresses, stop func() int) {
	t.Helper()
	cmd := process(t, env, append([]string{"serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--log-format=json"}, flags...)...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	for lines := bufio.NewScanner(log); lines.Scan(); {
		printed.WriteString(lines.Text() + "\n")
		var line struct {
			Msg string
			addresses
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
			at = line.addresses
			at.pid = cmd.Process.Pid
			break
		}
	}
	if at.GRPC == "" {
		_ = cmd.Wait()
		t.Fatalf("ratelimitd serve does not serve:\n%s", printed.String())
	}
	drained := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, log); close(drained) }()
	stopped := false
	stop = func() int {
		if !stopped {
			stopped = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
			<-drained
			_ = cmd.Wait()
		}
		return cmd.ProcessState.ExitCode()
	}
	t.Cleanup(func() { stop() })
	return at, stop
}

func TestServeAndCheck(t *testing.T) {
	addr, stop := serves(t, nil)
	check := func(args ...string) (string, string, int) {
		return runs(t, nil, append([]string{"check", "--addr", addr, "--namespace=checkout", "--identifier=alice"}, args...)...)
	}
	for i, tt := range []struct {
		args   []string
		status int
		says   string // on standard output; or on standard error if the status is 2
	}{
		{[]string{"--rate=2/366d"}, 0, "allowed (within limit)\n  limit: 1 of 2 left, all of them in "},
		{[]string{"--rate=2/366d", "--dry-run"}, 0, "limit: 1 of 2 left"},
		{[]string{"--rate=2/366d"}, 0, "limit: 0 of 2 left"},
		{[]string{"--rate=2/366d"}, 1, "denied (over limit)\n  retry after: "},
		{[]string{"--rate=2/366d", "--cost=0"}, 0, "limit: 0 of 2 left"},
		{[]string{"--rate=2/366d", "--cost=3"}, 1, "retry after: never"},
		{[]string{"--rate=1/h", "--strategy=leaky_bucket", "--burst=2"}, 0, "limit: 1 of 2 left, all of them in 1h0m0s"},
		{[]string{"--rate=1/h", "--strategy=LEAKY_BUCKET", "--burst=2"}, 0, "hold it for: 59m"},
		{[]string{"--rate=1/h", "--name=api"}, 0, "api: 0 of 1 left"},
		{[]string{"--rate=unlimited"}, 0, "allowed (unlimited)\n  limit: unlimited"},
		{[]string{"--rate=2/mn"}, 2, `ratelimitd: ask ` + addr + `: InvalidArgument: invalid request: limits[0].rate: rate "2/mn": unknown unit "mn"`},
		{[]string{"--policy=gold"}, 2, `: NotFound: unknown policy "gold"`},
		{[]string{"--rate=1/s", "--strategy=bucket"}, 2, `--strategy: unknown strategy "bucket"; use fixed_window, `},
		{[]string{"--rate=1/s", "--policy=gold"}, 2, "--rate and --policy cannot be used together; leave one of them out"},
		{nil, 2, "--rate or --policy is missing; write one of them"},
	} {
		stdout, stderr, status := check(tt.args...)
		text := stdout
		if tt.status == 2 {
			text = stderr
		}
		if status != tt.status || !strings.Contains(text, tt.says) {
			t.Errorf("check %d %v: exit status %d, output %q, %q; want %d, %q", i, tt.args, status, stdout, stderr, tt.status, tt.says)
		}
	}

	// A limit that is used up is counted anew, and the others are not.
	stdout, stderr, status := runs(t, nil, "reset", "--addr", addr, "--namespace=checkout", "--identifier=alice", "--rate=1/h", "--name=api")
	if stdout != "reset\n" || stderr != "" || status != exitOK {
		t.Errorf("reset: exit status %d, %q, %q", status, stdout, stderr)
	}
	if stdout, _, status := check("--rate=1/h", "--name=api", "--dry-run"); status != exitOK || !strings.Contains(stdout, "api: 1 of 1 left") {
		t.Errorf("after the reset: exit status %d, %q", status, stdout)
	}
	if stdout, _, status := check("--rate=2/366d"); status != exitNo {
		t.Errorf("of the limit that was not reset: exit status %d, %q", status, stdout)
	}
	if _, stderr, status := runs(t, nil, "reset", "--addr", addr, "--namespace=checkout", "--identifier=alice", "--policy=gold"); status != exitError || !strings.Contains(stderr, `: NotFound: unknown policy "gold"`) {
		t.Errorf("reset of an unknown policy: exit status %d, %q", status, stderr)
	}

	stdout, _, status = check("--rate=1/d", "--json")
	var answer struct {
		Allowed  bool
		Reason   string
		Statuses []struct{ Remaining string }
	}
	if err := json.Unmarshal([]byte(stdout), &answer); err != nil || status != 0 || !answer.Allowed || answer.Reason != "WITHIN_LIMIT" || answer.Statuses[0].Remaining != "0" {
		t.Errorf("check --json: %q, exit status %d: %v", stdout, status, err)
	}

	if status := stop(); status != 0 {
		t.Errorf("after SIGTERM the exit status is %d, want 0", status)
	}
	if _, stderr, status := check("--rate=1/d"); status != 2 || !strings.Contains(stderr, ": Unavailable: ") {
		t.Errorf("check of a stopped daemon: %q, exit status %d", stderr, status)
	}
}

// TestDaemonsShareCounters has the environment, and not flags, name the store.
func TestDaemonsShareCounters(t *testing.T) {
	for store, address := range map[string]string{
		"redis":     "RATELIMITD_REDIS_URL=" + redistest.Start(t).URL,
		"memcached": "RATELIMITD_MEMCACHED_ADDR=" + memcachedtest.Start(t).Addr,
	} {
		env := []string{"RATELIMITD_STORE=" + store, address, "RATELIMITD_STORE_TIMEOUT=10s"}
		one, _ := serves(t, env)
		two, _ := serves(t, env)
		for i, addr := range []string{one, two, one, two} {
			stdout, stderr, status := runs(t, nil, "check", "--addr", addr, "--wait=20s", "--namespace=checkout", "--identifier=alice", "--rate=3/366d")
			if want := i / 3; status != want {
				t.Errorf("%s: request %d of 3 allowed: exit status %d, want %d: %s%s", store, i+1, status, want, stdout, stderr)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		env  []string
		args []string
		says string
	}{
		{nil, nil, "no command; use serve, validate, check, reserve, commit, reset, top, replay, token or version"},
		{nil, []string{"srve"}, `unknown command "srve"; did you mean serve?`},
		{nil, []string{"serve", "--nonsense"}, `serve: unknown flag "--nonsense"; see ratelimitd serve --help`},
		{nil, []string{"serve", "--grpc-adr=:1"}, `unknown flag "--grpc-adr" (did you mean --grpc-addr?)`},
		{nil, []string{"serve", "--config"}, "--config has no value; write one, as in --config=FILE"},
		{nil, []string{"serve", "now"}, `unexpected argument "now"`},
		{nil, []string{"--store=redis", "serve"}, `the command comes first, before flag "--store"`},
		{nil, []string{"serve", "--grpc-addr=nowhere"}, `--grpc-addr "nowhere": it has no port; write host:port`},
		{nil, []string{"serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:99999"}, `--http-addr "127.0.0.1:99999": the port is not a number from 0 to 65535`},
		{nil, []string{"serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=nowhere"}, `--admin-addr "nowhere": it has no port; write host:port, such as 127.0.0.1:6070, or off`},
		{nil, []string{"serve", "--store=mongo"}, `--store "mongo": use memory, redis or memcached`},
		{nil, []string{"serve", "--store=redis", "--redis-url=localhost:6379"}, `URL "localhost:6379": it begins with neither redis:// nor rediss://; write one such as "redis://127.0.0.1:6379"`},
		{nil, []string{"serve", "--store=memcached", "--memcached-addr=nowhere"}, `"nowhere"`},
		{nil, []string{"serve", "--memcached-max-conns=0"}, "--memcached-max-conns 0: must be 1 to 10000, such as 16"},
		{nil, []string{"serve", "--memory-shards=3"}, "--memory-shards: 3 shards: want a power of two"},
		{nil, []string{"serve", "--memory-max-keys=0"}, "--memory-max-keys 0: must be 1 to 10000000000, such as 1000000"},
		{nil, []string{"serve", "--memory-max-keys=many"}, "--memory-max-keys"},
		{nil, []string{"serve", "--max-log-count=-1"}, "--max-log-count -1: must be 1 to 1000000, such as 10000"},
		{nil, []string{"serve", "--store-timeout=0"}, "--store-timeout"},
		{nil, []string{"serve", "--store-timeout=-1s"}, "--store-timeout -1s: must be above 0, such as 50ms"},
		{nil, []string{"serve", "--deny-cache-ttl=-1s"}, "--deny-cache-ttl -1s: must be 0 or above, such as 1s"},
		{nil, []string{"serve", "--drain-timeout=0s"}, "--drain-timeout 0s: must be above 0, such as 10s"},
		{nil, []string{"serve", "--on-error=panic"}, `--on-error "panic": use allow, deny, error or local`},
		{nil, []string{"serve", "--log-level=loud"}, `--log-level "loud": use debug, info, warn or error`},
		{[]string{"RATELIMITD_LOG_FORMAT=xml"}, []string{"serve"}, `RATELIMITD_LOG_FORMAT "xml": use text or json`},
		{[]string{"RATELIMITD_GRPC_ADDR=nowhere"}, []string{"serve"}, `RATELIMITD_GRPC_ADDR "nowhere": it has no port`},
		{[]string{"RATELIMITD_REDIS_URL="}, []string{"serve", "--store=redis"}, `RATELIMITD_REDIS_URL: is empty; write one or several URLs, such as redis://127.0.0.1:6379`},
		{nil, []string{"serve", "--store=memcached", "--memcached-addr=a:1", "--memcached-addr=a:1"}, `--memcached-addr "a:1": is there twice; write each server once`},
		{nil, []string{"serve", "--config=/nowhere.yaml"}, `--config: open /nowhere.yaml: no such file or directory`},
		{nil, []string{"validate"}, "validate: expected FILE ..."},
		{nil, []string{"reset", "--namespace=a", "--rate=1/s"}, "--identifier is missing; write --identifier=NAME"},
		{nil, []string{"reset", "--namespace=a", "--identifier=b"}, "--rate or --policy is missing; write one of them"},
		{nil, []string{"top", "--admin-addr=127.0.0.1:1"}, `127.0.0.1:1: connect: connection refused`},
		{nil, []string{"top", "--interval=1ms"}, `--interval 1ms: must be 100ms or more, such as 2s`},
	} {
		stdout, stderr, status := runs(t, tt.env, tt.args...)
		if status != exitError || stdout != "" || !strings.HasPrefix(stderr, "ratelimitd: ") || !strings.Contains(stderr, tt.says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v ratelimitd %v: exit status %d, output %q, %q; want one line that says %q", tt.env, tt.args, status, stdout, stderr, tt.says)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says []string
	}{
		{[]string{"--help"}, []string{"serve", "check", "version", "may this caller do this now?"}},
		{[]string{"serve", "--help"}, []string{"--grpc-addr", "$RATELIMITD_REDIS_URL", "ratelimitd serve --store=redis"}},
		{[]string{"check", "--help"}, []string{"--identifier", "fixed_window", "ratelimitd check --namespace"}},
		{[]string{"version"}, []string{"ratelimitd "}},
		{[]string{"--version"}, []string{"ratelimitd "}},
	} {
		stdout, stderr, status := runs(t, nil, tt.args...)
		if status != 0 || stderr != "" {
			t.Errorf("%v: exit status %d, %q", tt.args, status, stderr)
		}
		for _, want := range tt.says {
			if !strings.Contains(stdout, want) {
				t.Errorf("%v does not mention %q:\n%s", tt.args, want, stdout)
			}
		}
	}
}

// TestFlagWinsOverEnvironment sets one address both ways.
func TestFlagWinsOverEnvironment(t *testing.T) {
	addr, _ := serves(t, []string{"RATELIMITD_GRPC_ADDR=nowhere"}) // serves sets the flag
	if !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Errorf("it serves on %s", addr)
	}
}

// TestCheckGivesUp asks where nobody answers.
func TestCheckGivesUp(t *testing.T) {
	start := time.Now()
	_, stderr, status := runs(t, nil, "check", "--addr=127.0.0.1:1", "--namespace=a", "--identifier=b", "--rate=1/s")
	if status != exitError || !strings.Contains(stderr, "ask 127.0.0.1:1: Unavailable: ") || time.Since(start) > 20*time.Second {
		t.Errorf("exit status %d after %v: %s", status, time.Since(start), stderr)
	}
}
