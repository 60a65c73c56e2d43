package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/auth/authtest"
	"github.com/ratelimitd/ratelimitd/internal/auth/keypair"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/null"
	"github.com/ratelimitd/ratelimitd/loadtest/internal/report"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server until the test ends.
func serve(t *testing.T, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// startNull starts a null server and returns its addresses of gRPC and HTTP.
func startNull(t *testing.T) (grpcAddr, httpAddr string) {
	t.Helper()
	var listeners [2]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
	}
	serve(t, func(ctx context.Context) error {
		return null.Serve(ctx, null.Options{StreamWorkers: 4}, listeners[0], listeners[1])
	})
	return listeners[0].Addr().String(), listeners[1].Addr().String()
}

// startReal starts a daemon with the memory store.
func startReal(t *testing.T) string {
	t.Helper()
	counters, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Options{
		GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Store: counters, StoreName: "memory",
		Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s.Serve)
	return s.GRPCAddr()
}

// brief has the flags for a short run.
var brief = []string{"run", "--duration=60s", "--warmup=0s", "--concurrency=8", "--quiet"}

func loadtest(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = runCommand(t.Context(), append(append([]string{}, brief...), args...), &out, &errs)
	return status, out.String(), errs.String()
}

// TestTargets asks with each protocol. The daemon keeps to the limit. The null server breaks it,
// because it allows everything.
func TestTargets(t *testing.T) {
	grpcAddr, httpAddr := startNull(t)
	real := startReal(t)
	for _, tt := range []struct{ target, null, real string }{
		{"unary", grpcAddr, real}, {"batch", grpcAddr, real}, {"stream", grpcAddr, real},
		{"envoy", grpcAddr, ""}, {"http", httpAddr, ""}, {"envoy-http", httpAddr, ""},
	} {
		t.Run(tt.target, func(t *testing.T) {
			args := []string{"--target=" + tt.target, "--count=100", "--key-distribution=hot", "--json"}
			check := func(addr, limit string, status int) report.Report {
				t.Helper()
				got, out, errs := loadtest(t, append(args, "--addr="+addr, "--limit="+limit)...)
				var r report.Report
				if err := json.Unmarshal([]byte(out), &r); err != nil || got != status {
					t.Fatalf("status %d, want %d; %v\n%s\n%s", got, status, err, out, errs)
				}
				if r.Calls != 100 || r.Errors != 0 || !r.Correctness.Checked || r.CPU.Client == nil || r.CPU.Server == nil {
					t.Errorf("%+v", r)
				}
				return r
			}
			check(tt.null, "1000000/s", exitOK)
			if r := check(tt.null, "3/366d", exitWrong); r.Correctness.KeysOver != 1 {
				t.Errorf("%+v", r.Correctness)
			}
			if tt.real == "" {
				return
			}
			for _, s := range []string{"fixed_window", "sliding_window_counter", "sliding_window_log", "token_bucket", "leaky_bucket", "gcra"} {
				if r := check(tt.real, "3/366d,"+s, exitOK); r.Denied == 0 || r.Allowed == 0 {
					t.Errorf("%s: %d allowed, %d denied; want some of both", s, r.Allowed, r.Denied)
				}
			}
		})
	}
}

func TestReports(t *testing.T) {
	addr, _ := startNull(t)
	page := filepath.Join(t.TempDir(), "report.html")
	status, out, errs := loadtest(t, "--addr="+addr, "--count=2000", "--arrival-rate=10000", "--poisson", "--html="+page)
	if status != exitOK || !strings.Contains(out, "2_000 in ") || !strings.Contains(out, "p99.9") || !strings.Contains(out, "right: ") {
		t.Errorf("status %d:\n%s\n%s", status, out, errs)
	}
	html, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"unary at " + addr, "<polyline", "prefers-color-scheme"} {
		if !bytes.Contains(html, []byte(want)) {
			t.Errorf("the page has no %q", want)
		}
	}
	if bytes.Contains(html, []byte("http://")) || bytes.Contains(html, []byte("https://")) {
		t.Error("the page needs another")
	}
}

// TestBench compares one case, briefly.
func TestBench(t *testing.T) {
	t.Chdir("..") // it builds the daemon
	var out, errs bytes.Buffer
	status := runCommand(t.Context(), []string{"bench", "--only=unary, memory, Zipf", "--repeat=1", "--duration=1s", "--max-stolen=1"}, &out, &errs)
	if status != exitOK || !strings.Contains(out.String(), "\n| unary, memory, Zipf | ") || !strings.Contains(out.String(), "to its first decision") {
		t.Errorf("status %d:\n%s\n%s", status, &out, &errs)
	}
}

// TestPeers gives what cannot be measured.
func TestPeers(t *testing.T) {
	for args, want := range map[string]string{
		"--matrix=peers":                                         "--matrix peers, 0 of --peer",
		"--peer=limitador=" + os.Args[0]:                         "--matrix server, 1 of --peer",
		"--matrix=peers --peer=x=/bin/true":                      `--peer "x=/bin/true": give the name of a service (throttlecrab, limitador, gubernator, envoyproxy)`,
		"--matrix=peers --peer=limitador":                        `--peer "limitador": give the name`,
		"--matrix=peers --peer=limitador=/":                      "this is no program",
		"--matrix=peers --peer=limitador=/nonexistent/limitador": "no such file",
	} {
		var out, errs bytes.Buffer
		status := runCommand(t.Context(), append([]string{"bench"}, strings.Fields(args)...), &out, &errs)
		if status != exitError || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: status %d: %s; want %s", args, status, &errs, want)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	const nobody = "127.0.0.1:1" // a port that needs rights, and that no service has
	for _, target := range []string{"unary", "stream", "http"} {
		status, _, errs := loadtest(t, "--target="+target, "--addr="+nobody, "--count=10")
		if status != exitError || !strings.Contains(errs, "refused") {
			t.Errorf("%s: status %d: %s", target, status, errs)
		}
	}
}

// TestFlags gives wrong flags. The message must name the flag and quote the value.
func TestFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--addr=8081":                  `--addr "8081": give host:port, such as 127.0.0.1:8081`,
		"--duration=0s":                "--duration 0s: give more than 0",
		"--duration=48h":               "--duration 48h0m0s: give more than 0 and at most 1h0m0s",
		"--concurrency=0":              "--concurrency 0: give 1 to 10000",
		"--batch=5":                    "--batch 5: --target unary has one request per message",
		"--target=batch --batch=1001":  "--batch 1001: give 1 to 1000",
		"--path=/x":                    `--path "/x": --target unary has no path`,
		"--target=http --path=x":       `--path "x": write it with a slash`,
		"--arrival-rate=-1":            "--arrival-rate -1: give calls a second",
		"--arrival-rate=NaN":           "--arrival-rate NaN",
		"--poisson":                    "--poisson: give a rate of arrivals",
		"--cost=0":                     "--cost 0: give 1 to",
		"--limit=ten/s":                `--limit "ten/s": rate "ten/s": must start with a count`,
		"--limit=10/s,tokens":          `--limit "10/s,tokens": unknown strategy "tokens"`,
		"--limit=10/s,burst=x":         `--limit "10/s,burst=x": strconv`,
		"--limit=10/s,burst=5":         "burst 5: fixed_window has none",
		"--limit=10/s --strategy=gcra": `--strategy "gcra": --limit is given`,
		"--strategy=x":                 `unknown strategy "x"`,
		"--scenario=at":                "--scenario at: the limit is the rate at which each key asks",
		"--target=envoy --policy=p":    `--policy "p": --target envoy has no policies`,
		"--start=/nonexistent/program --addr=127.0.0.1:1": `--start "/nonexistent/program"`,
		"--target=udp": `--target "udp": use unary, batch`,
	} {
		status, _, errs := loadtest(t, strings.Fields(args)...)
		if status != exitError || !strings.Contains(errs, want) {
			t.Errorf("%s: status %d: %s; want %s", args, status, errs, want)
		}
	}
}

// TestWithCredentials asks a daemon that speaks TLS and knows its clients.
func TestWithCredentials(t *testing.T) {
	own, dir, token := authtest.NewAuthority(t, "servers"), t.TempDir(), auth.NewToken()
	cert, key := own.Issue(t, "127.0.0.1").Write(t, dir)
	ca, tokenFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	authtest.Write(t, ca, own.PEM)
	authtest.Write(t, tokenFile, []byte(token))
	known, err := auth.Parse("clients.yaml", []byte("clients: [{name: load, tokens: ['"+auth.HashLine(token)+"'], namespaces: ['*']}]"))
	if err != nil {
		t.Fatal(err)
	}
	counters, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	pair := keypair.New(keypair.Options{Files: keypair.Files{Cert: cert, Key: key}, Logger: logger, Registry: prometheus.NewRegistry()})
	s, err := server.New(server.Options{
		GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Store: counters, StoreName: "memory", Logger: logger, Registry: prometheus.NewRegistry(),
		Config: &server.Config{Clients: known}, Trust: server.Trust{TLS: pair, GRPC: true, HTTP: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s.Serve)
	for target, addr := range map[string]string{"unary": s.GRPCAddr(), "stream": s.GRPCAddr(), "http": s.HTTPAddr()} {
		args := []string{"--target=" + target, "--addr=" + addr, "--count=50", "--tls-ca=" + ca}
		if status, out, errs := loadtest(t, append(args, "--token-file="+tokenFile)...); status != exitOK {
			t.Errorf("%s: exit status %d\n%s\n%s", target, status, out, errs)
		}
		if status, _, errs := loadtest(t, args...); status == exitOK || !strings.Contains(errs, "no credentials") {
			t.Errorf("%s without a token: exit status %d, %s", target, status, errs)
		}
	}
}
