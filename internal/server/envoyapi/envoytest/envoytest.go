// Package envoytest runs a real Envoy for tests.
package envoytest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Version is the one that scripts/install-test-deps.sh installs.
const Version = "1.40.0"

// patience is longer than an Envoy takes to start on a loaded machine.
const patience = 60 * time.Second

// An Envoy is a process that runs until its test ends.
type Envoy struct {
	URL   string // of its first listener
	Admin string // URL of its administration
}

// Binary returns the path of the program.
func Binary(tb testing.TB) string {
	tb.Helper()
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(cache, "ratelimitd", "envoy-"+Version, "envoy", "_bin", "envoy")
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("no envoy %s: run scripts/install-test-deps.sh (%v)", Version, err)
	}
	return path
}

// Edit replaces parts of a configuration that operators copy with what a test needs:
// old, new, old, new. Each old one must be there once.
func Edit(tb testing.TB, config string, pairs ...string) string {
	tb.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if n := strings.Count(config, pairs[i]); n != 1 {
			tb.Fatalf("the configuration has %q %d times, want once", pairs[i], n)
		}
		config = strings.Replace(config, pairs[i], pairs[i+1], 1)
	}
	return config
}

// Start runs an Envoy with a configuration in YAML, which has no admin section and
// listens on port 0. It returns when the Envoy serves and holds all its clusters
// for healthy.
func Start(tb testing.TB, config string) *Envoy {
	tb.Helper()
	dir := tb.TempDir()
	file, admin := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	config += "\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(Binary(tb), "--config-path", file, "--admin-address-path", admin, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warn") //nolint:noctx // it is ended below
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	var exit error // good once ended is closed
	go func() { exit = cmd.Wait(); close(ended) }()
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
		}
		if text, err := os.ReadFile(log.Name()); err == nil && tb.Failed() {
			tb.Logf("envoy: %s", text)
		}
		_ = log.Close()
	})

	e := &Envoy{}
	why := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-ended:
			tb.Fatalf("envoy ended: %v", exit)
		default:
		}
		addr, err := os.ReadFile(admin)
		if err != nil {
			why = err.Error()
			continue
		}
		e.Admin = "http://" + strings.TrimSpace(string(addr))
		if why = e.notReady(); why == "" {
			return e
		}
	}
	tb.Fatalf("envoy is not ready: %s", why)
	return nil
}

// notReady returns why e does not serve yet, or "". It finds out where e listens.
func (e *Envoy) notReady() string {
	if body, err := get(e.Admin + "/ready"); err != nil || strings.TrimSpace(body) != "LIVE" {
		return fmt.Sprint(body, err)
	}
	body, err := get(e.Admin + "/listeners?format=json")
	if err != nil {
		return err.Error()
	}
	var listeners struct {
		Statuses []struct {
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal([]byte(body), &listeners); err != nil || len(listeners.Statuses) == 0 {
		return fmt.Sprint(body, err)
	}
	socket := listeners.Statuses[0].Address.Socket
	e.URL = fmt.Sprintf("http://%s:%d", socket.Address, socket.Port)
	clusters, err := get(e.Admin + "/clusters")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(clusters) {
		if _, flags, ok := strings.Cut(line, "::health_flags::"); ok && strings.TrimSpace(flags) != "healthy" {
			return line
		}
	}
	return ""
}

// Counter returns the value of one of e's counters, or 0 as long as it has none of that
// name.
func (e *Envoy) Counter(tb testing.TB, name string) int {
	tb.Helper()
	body, err := get(e.Admin + "/stats?filter=^" + regexp.QuoteMeta(name) + "$")
	if err != nil {
		tb.Fatal(err)
	}
	n := 0
	if _, err := fmt.Sscanf(body, name+": %d", &n); err != nil && body != "" {
		tb.Fatalf("%s: %v", body, err)
	}
	return n
}

// Stats returns all counters that are above 0 and have part in their names.
func (e *Envoy) Stats(tb testing.TB, part string) string {
	tb.Helper()
	body, err := get(e.Admin + "/stats?usedonly&type=Counters&filter=" + part)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

// Healthy returns whether e takes the endpoint at addr for healthy.
func (e *Envoy) Healthy(tb testing.TB, addr string) bool {
	tb.Helper()
	clusters, err := get(e.Admin + "/clusters")
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Contains(clusters, "::"+addr+"::health_flags::healthy\n")
}

func get(url string) (body string, err error) {
	reply, err := http.Get(url) //nolint:noctx,gosec // on loopback, by a test
	if err != nil {
		return "", err
	}
	defer func() { _ = reply.Body.Close() }()
	text, err := io.ReadAll(reply.Body)
	return string(text), err
}

// PortOf returns the port of an address.
func PortOf(tb testing.TB, addr string) string {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	return port
}
