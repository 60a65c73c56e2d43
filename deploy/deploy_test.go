// Package deploy holds what operators copy. Its tests run it.
package deploy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.yaml.in/yaml/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/store/memcached/memcachedtest"
	"github.com/ratelimitd/ratelimitd/internal/store/redis/redistest"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// tool runs a program that checks a file.
func tool(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", name, args, err, out)
	}
}

func TestRules(t *testing.T) {
	tool(t, "prometheus", "promtool", "check", "config", "prometheus.yaml")
	tool(t, "prometheus", "promtool", "test", "rules", "tests.yaml")
}

// TestUnit has systemd read the unit, with the daemon where it was built.
func TestUnit(t *testing.T) {
	unit, err := os.ReadFile("systemd/ratelimitd.service")
	if err != nil {
		t.Fatal(err)
	}
	const installed = "ExecStart=/usr/local/bin/ratelimitd "
	if !strings.Contains(string(unit), installed) {
		t.Fatalf("the unit does not have %q", installed)
	}
	file := filepath.Join(t.TempDir(), "ratelimitd.service")
	if err := os.WriteFile(file, []byte(strings.Replace(string(unit), installed, "ExecStart="+ratelimitd(t)+" ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, ".", "systemd-analyze", "verify", file)
}

// runbook is where the alerts say that the runbook is.
const runbook = "https://github.com/ratelimitd/ratelimitd/blob/main/docs/runbook.md"

// TestRunbook holds that the runbook has a part for each alert, where the alert says, and
// runs its commands: they are all of the daemon itself, as there is nothing else in its
// image.
func TestRunbook(t *testing.T) {
	book, err := os.ReadFile("../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range rules(t, "alert") {
		if !strings.Contains(string(book), "\n## "+name+"\n") {
			t.Errorf("the runbook says nothing of %s", name)
		}
		if want := runbook + "#" + strings.ToLower(name); r.Annotations["runbook_url"] != want {
			t.Errorf("the runbook_url of %s is %q, want %s", name, r.Annotations["runbook_url"], want)
		}
	}
	if strings.Contains(string(book), "curl") {
		t.Error("the runbook uses curl, which the image does not have")
	}

	path := ratelimitd(t)
	p := serve(t, path, "--config=ratelimitd/ratelimitd.yaml")
	_, block, _ := strings.Cut(string(book), "```sh\n")
	block, _, _ = strings.Cut(block, "```")
	ran := 0
	for line := range strings.Lines(block) {
		text, _, _ := strings.Cut(line, "#")
		words := strings.Fields(text)
		if len(words) < 2 || words[0] != "ratelimitd" {
			t.Errorf("a command that the image does not have: %s", line)
			continue
		}
		args := append(words[1:], "--wait=20s")
		if words[1] == "top" {
			args = append(words[1:], "--once", "--interval=100ms")
		}
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Env = append(os.Environ(), "RATELIMITD_ADDR="+p.grpc, "RATELIMITD_ADMIN_ADDR="+p.admin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s%v: %s", line, err, out)
		}
		ran++
	}
	if ran != 3 {
		t.Errorf("%d commands ran, want 3", ran)
	}
}

// A rule is one of Prometheus.
type rule struct {
	Alert, Record, Expr string
	Annotations         map[string]string
}

// rules returns the alerts, or the records, by name.
func rules(t *testing.T, kind string) map[string]rule {
	t.Helper()
	data, err := os.ReadFile("prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []rule
		}
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	found := map[string]rule{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if name := map[string]string{"alert": r.Alert, "record": r.Record}[kind]; name != "" {
				found[name] = r
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no %s in the rules", kind)
	}
	return found
}

// panels returns the expressions of the panels of all dashboards, by the name of
// the dashboard, the panel and the query.
func panels(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	found := map[string]string{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Title  string
			Panels []struct {
				Title   string
				Targets []struct{ RefID, Expr string }
			}
		}
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				found[d.Title+" / "+p.Title+" / "+q.RefID] = q.Expr
			}
		}
	}
	return found
}

// built is the path of the daemon, which is built once for all tests that run it.
var built = sync.OnceValues(func() (string, error) {
	path := filepath.Join(dir, "ratelimitd")
	out, err := exec.Command("go", "build", "-o", path, "../cmd/ratelimitd").CombinedOutput() //nolint:noctx // all tests wait for it
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

var dir string // for what all tests share

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "deploy"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// ratelimitd returns the path of the daemon.
func ratelimitd(t *testing.T) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// A process is a daemon that runs until the test ends, or until it is stopped.
type process struct {
	grpc, http, admin string
	stop              func() // waits for its end
}

// serve runs a daemon with flags.
func serve(t *testing.T, path string, flags ...string) process {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), path,
		append([]string{"serve", "--grpc-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--log-format=json"}, flags...)...)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	found := make(chan process, 1)
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			var line struct{ Msg, GRPC, HTTP, Admin string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				found <- process{grpc: line.GRPC, http: line.HTTP, admin: line.Admin}
			}
		}
	}()
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-done
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	select {
	case p := <-found:
		p.stop = stop
		return p
	case <-done:
		t.Fatalf("ratelimitd %v does not serve", flags)
	}
	return process{}
}

// load asks a daemon, by gRPC and as Envoy does, until the test ends: some of it
// is denied, and some, by callers that come once, never is. Without the latter a
// lost store could go unseen: what is denied until its window ends needs none.
func load(t *testing.T, p process) {
	t.Helper()
	conn, err := grpc.NewClient(p.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	client, envoy := ratelimitv1.NewRateLimitServiceClient(conn), rlsv3.NewRateLimitServiceClient(conn)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ { // errors are among what is measured
			_, _ = client.ShouldAllow(ctx, &ratelimitv1.ShouldAllowRequest{Namespace: "checkout", Identifier: fmt.Sprint("user ", i%50), Policy: "default"})
			_, _ = client.ShouldAllowBatch(ctx, &ratelimitv1.ShouldAllowBatchRequest{Requests: []*ratelimitv1.ShouldAllowRequest{
				{Namespace: "search", Identifier: "one", Limits: []*ratelimitv1.Limit{{Rate: "5/min"}}},
				{Namespace: "search", Identifier: fmt.Sprint("once ", i), Limits: []*ratelimitv1.Limit{{Rate: "5/min"}}}, {},
			}})
			for _, path := range []string{"/v1/a", "/tried"} {
				_, _ = envoy.ShouldRateLimit(ctx, &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: []*commonv3.RateLimitDescriptor{{
					Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "path", Value: path}},
				}}})
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done; _ = conn.Close() })
}

const configuration = `
namespaces:
  checkout:
    policies: {default: {limits: [{name: burst, rate: 10/min}]}}
`

const envoyLimits = `
domain: edge
descriptors:
  - {key: path, value: /v1/*, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: path, value: /tried, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 5}}
`

// prometheus runs Prometheus on the daemons, once a second.
func prometheus(t *testing.T, targets ...string) *http.Client {
	t.Helper()
	dir := t.TempDir()
	config := map[string]any{
		"global":         map[string]any{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{absolute(t, "prometheus/rules.yaml")},
		"scrape_configs": []any{map[string]any{"job_name": "ratelimitd", "static_configs": []any{map[string]any{"targets": targets}}}},
	}
	data, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "prometheus", "--config.file="+file, "--storage.tsdb.path="+dir, "--web.listen-address="+addr, "--log.level=error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; scripts/install-test-deps.sh installs it", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// query returns how many samples an expression has, and why there is none.
func query(t *testing.T, client *http.Client, expr string) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://prometheus/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return err
	}
	reply, err := client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []any }
	}
	if err := json.NewDecoder(reply.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s", answer.Error)
	}
	if len(answer.Data.Result) == 0 {
		return fmt.Errorf("it returns nothing")
	}
	return nil
}

// asGrafana puts values in place of the variables of a dashboard.
var asGrafana = strings.NewReplacer("$__rate_interval", "10s", "$instance", ".*", "$namespace", ".*")

var variable = regexp.MustCompile(`\$\w+`)

// TestAgainstPrometheus has a real Prometheus scrape daemons under load, of
// which one loses its Redis and another is given a bad configuration: every
// panel shows data, and the alerts that these faults should raise are raised.
// That the other alerts fire too is for tests.yaml.
func TestAgainstPrometheus(t *testing.T) {
	path := ratelimitd(t)
	config, limits := filepath.Join(t.TempDir(), "ratelimitd.yaml"), t.TempDir()
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(config, configuration)
	write(filepath.Join(limits, "edge.yaml"), envoyLimits)
	server, cache := redistest.Start(t), memcachedtest.Start(t)
	var targets []string
	for _, flags := range [][]string{
		{"--store=memory"}, {"--store=redis", "--redis-url=" + server.URL}, {"--store=memcached", "--memcached-addr=" + cache.Addr},
	} {
		p := serve(t, path, append(flags, "--config="+config, "--envoy-config-dir="+limits)...)
		load(t, p)
		targets = append(targets, p.http)
	}
	// Its server is not there: the panels of xDS show that.
	targets = append(targets, serve(t, path, "--xds-server=127.0.0.1:1", "--xds-start-unconfigured").http)
	client := prometheus(t, targets...)
	eventually := func(what, expr string) {
		t.Helper()
		redistest.Eventually(t, what, func() error { return query(t, client, expr) })
	}
	eventually("all daemons scraped twice", "count(count_over_time(up[30s]) > 3) == 4")
	server.Kill()
	write(config, "namespaces: {checkout: {limit: 5}}")

	for name, expr := range panels(t) {
		expr = asGrafana.Replace(expr)
		if v := variable.FindString(expr); v != "" {
			t.Errorf("%s: %s is no variable of the dashboard", name, v)
		}
		eventually(name, expr)
	}
	for name, r := range rules(t, "record") {
		if err := query(t, client, r.Expr); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	raised := map[string]bool{"RatelimitdUndecided": true, "RatelimitdStoreGivenUp": true, "RatelimitdConfigRefused": true, "RatelimitdXDSLost": true}
	for name, r := range rules(t, "alert") {
		if raised[name] {
			eventually(name, r.Expr)
		} else if err := query(t, client, r.Expr); err != nil && err.Error() != "it returns nothing" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
