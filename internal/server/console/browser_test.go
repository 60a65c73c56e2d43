package console_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/browsertest"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/replay"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// A daemon is one that runs, and a client of it.
type daemon struct {
	*server.Server
	client ratelimitv1.RateLimitServiceClient
	envoy  rlsv3.RateLimitServiceClient
	log    *lockedBuffer
}

const policies = `namespaces:
  checkout:
    exempt: ["internal-*"]
    policies:
      default:
        limits:
          - {name: burst, rate: 1/h, strategy: token_bucket, burst: 10}
          - {name: long, rate: 100_000/366d}
        overrides:
          - {identifiers: ["partner-*"], limits: [{name: burst, rate: 500/h}]}
  search:
    policies:
      default: {limits: [{name: minute, rate: 1000/h, strategy: sliding_window_counter}]}
`

// start runs a daemon until the test ends.
func start(t *testing.T, change func(*server.Options)) *daemon {
	t.Helper()
	counters, err := memory.New(memory.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := config.Try("policies.yaml", []byte(policies), 1000)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{log: new(lockedBuffer)}
	registry := prometheus.NewRegistry()
	registry.MustRegister(counters.Collector())
	o := server.Options{
		GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", LogLevel: new(slog.LevelVar),
		Store: counters, StoreName: "memory", Registry: registry, Logger: slog.New(slog.NewTextHandler(d.log, nil)),
		Config: &server.Config{Policies: p.Namespaces, Text: p.Text}, Trials: replay.Trials{},
	}
	if change != nil {
		change(&o)
	}
	if d.Server, err = server.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	conn, err := grpc.NewClient(d.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	d.client, d.envoy = ratelimitv1.NewRateLimitServiceClient(conn), rlsv3.NewRateLimitServiceClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return d
}

// ask has an identifier ask the default policy of a namespace some times.
func (d *daemon) ask(t *testing.T, namespace, identifier string, times int) {
	t.Helper()
	for range times {
		if _, err := d.client.ShouldAllow(t.Context(), &ratelimitv1.ShouldAllowRequest{Namespace: namespace, Identifier: identifier, Policy: "default"}); err != nil {
			t.Fatal(err)
		}
	}
}

// A lockedBuffer is a buffer that several goroutines may use.
type lockedBuffer struct {
	mu  sync.Mutex // protects the following
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// TestWhoIsDenied reads from the first screen who is denied, by which limit, since when.
func TestWhoIsDenied(t *testing.T) {
	d := start(t, nil)
	b := browsertest.Open(t, "http://"+d.AdminAddr()+"/")
	b.Await("#headline", "Nobody is being denied")
	d.ask(t, "search", "crawler", 3)
	d.ask(t, "checkout", "alice", 2)
	d.ask(t, "checkout", "internal-job", 5)
	d.ask(t, "checkout", "mallory", 40)
	d.ask(t, "checkout", "trudy", 15)
	b.Await("#denied", "trudy")
	b.Await("#headline", "One limit denies")
	b.Await("#lead", "checkout / default / burst")
	row := b.Text("#denied tbody tr")
	for _, want := range []string{"checkout / default / burst", "1/1h token_bucket, burst 10", "mallory", "trudy", "for ", "/s", "%"} {
		if !strings.Contains(row, want) {
			t.Errorf("the row does not say %q: %s", want, row)
		}
	}
	if strings.Contains(row, "alice") || strings.Contains(b.Text("#denied"), "search") {
		t.Errorf("somebody is shown who is not denied: %s", b.Text("#denied"))
	}
	b.Shot("now-light")
	b.Dark()
	b.Shot("now-dark")
	b.Do(chromedp.EmulateViewport(390, 844))
	b.Shot("now-narrow")
	if wide, err := chromedp.Run(b.Context, chromedp.Evaluate[bool]("document.documentElement.scrollWidth > innerWidth")); err != nil || wide {
		t.Errorf("the narrow page is wider than the screen: %v", err)
	}
	b.Do(chromedp.EmulateViewport(1280, 900), chromedp.Click(chromedp.CSS(`nav a[href="#daemon"]`)))
	b.Await("#facts", "Shards")
	b.Shot("daemon")
}

// TestLookUp looks up who is denied, by a click on the first screen, and resets it.
func TestLookUp(t *testing.T) {
	d := start(t, nil)
	b := browsertest.Open(t, "http://"+d.AdminAddr()+"/")
	b.Await("#headline", "Nobody is being denied")
	d.ask(t, "checkout", "mallory", 12)
	b.Await("#denied", "mallory")
	b.Click("#denied button.id")
	b.Await("#look-up-result", "A request would be denied, for ")
	for _, want := range []string{"Policy default", "1/1h token_bucket, burst 10", "0 of 10", "long", "99,990 of 100,000"} {
		b.Await("#look-up-result", want)
	}
	b.Shot("look-up")
	// Looking consumes nothing, and is no request of mallory's.
	if _, body := d.get(t, "/hot-keys"); strings.Count(body, "mallory") != 2 {
		t.Errorf("hot keys: %s", body)
	}

	b.Click("#look-up-result button")
	b.Await("#ask", "Reset mallory?")
	b.Shot("reset")
	b.Click("#ask button[value=no]")
	b.Await("#look-up-result", "would be denied")
	if strings.Contains(d.log.String(), "was reset") {
		t.Error("it was reset in spite of a no")
	}
	b.Click("#look-up-result button")
	b.Click("#ask button[type=submit]")
	b.Await("#look-up-result", "mallory was reset.")
	b.Await("#look-up-result", "10 of 10")
	if log := d.log.String(); strings.Count(log, "an identifier was reset on the console") != 1 || !strings.Contains(log, "identifier=mallory policy=default") || !strings.Contains(log, "by=127.0.0.1:") {
		t.Errorf("the log: %s", log)
	}

	// Others, by the keyboard alone.
	for _, tt := range []struct{ namespace, identifier, cost, says string }{
		{"checkout", "partner-7", "1", "override partner-*"},
		{"checkout", "internal-job", "1", "because internal-* in exempt matches it"},
		{"checkout", "alice", "11", "however long it waits"},
		{"nowhere", "alice", "1", "has no policies"},
		{"<img src=x onerror=alert(1)>", "alice", "1", `"<img src=x onerror=alert(1)>" has no policies`},
		{"checkout", "<script>alert(1)</script>", "1", "Policy default"},
		{"checkout", strings.Repeat("\u202e\U0001f600", 100), "1", "Policy default"},
	} {
		b.Fill("#look-up-form [name=namespace]", tt.namespace)
		b.Fill("#look-up-form [name=identifier]", tt.identifier)
		b.Fill("#look-up-form [name=cost]", tt.cost+"\r")
		b.Await("#look-up-result", tt.says)
	}
}

// edge has limits of Envoy.
const edge = `domain: edge
descriptors:
  - {key: remote_address, rate_limit: {unit: hour, requests_per_unit: 5}}
  - {key: path, value: /api/*, share_threshold: true, rate_limit: {unit: hour, requests_per_unit: 2}, shadow_mode: true}
`

// withEdge has a daemon know the limits of edge.
func withEdge(t *testing.T) func(*server.Options) {
	p, err := config.Try("edge.yaml", []byte(edge), 1000)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *server.Options) { o.Config.Envoy = p.Domains }
}

// askEnvoy asks for a descriptor of one entry some times, as Envoy does.
func (d *daemon) askEnvoy(t *testing.T, key, value string, times int) {
	t.Helper()
	for range times {
		if _, err := d.envoy.ShouldRateLimit(t.Context(), &rlsv3.RateLimitRequest{Domain: "edge", Descriptors: []*commonv3.RateLimitDescriptor{
			{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: key, Value: value}}},
		}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLookUpDescriptor looks up a descriptor of Envoy, by a click on the first screen, and resets
// its counter; and others, by their entries.
func TestLookUpDescriptor(t *testing.T) {
	d := start(t, withEdge(t))
	b := browsertest.Open(t, "http://"+d.AdminAddr()+"/")
	b.Await("#headline", "Nobody is being denied")
	d.askEnvoy(t, "remote_address", "203.0.113.7", 8)
	d.askEnvoy(t, "path", "/api/a", 3)
	b.Await("#denied", "remote_address=203.0.113.7")
	b.Await("#lead", "Most by edge.remote_address, most of all remote_address=203.0.113.7")
	b.Await("#denied", "5/1h fixed_window")
	b.Click("#denied button.id")
	for _, want := range []string{"Limit edge.remote_address", "The counter of remote_address=203.0.113.7 in the domain edge", "A request would be denied, for ", "5/1h fixed_window", "0 of 5"} {
		b.Await("#look-up-result", want)
	}
	b.Shot("look-up-envoy")
	b.Click("#look-up-result button")
	b.Await("#ask", "Reset remote_address=203.0.113.7?")
	b.Await("#ask", "the limit edge.remote_address of Envoy")
	b.Click("#ask button[type=submit]")
	b.Await("#look-up-result", "remote_address=203.0.113.7 was reset.")
	b.Await("#look-up-result", "5 of 5")
	if log := d.log.String(); strings.Count(log, "an identifier was reset on the console") != 1 || !strings.Contains(log, `namespace=edge identifier="remote_address=203.0.113.7"`) {
		t.Errorf("the log: %s", log)
	}
	for _, tt := range []struct{ domain, entries, says string }{
		{"edge", "path=/api/b", "because the limit is in shadow mode"},
		{"edge", "path=/api/b", "The counter of path=/api/* in the domain edge"}, // which they share
		{"edge", "user=alice", "no limit applies to these entries"},
		{"edge", "alice", "write it as key=value"},
		{"elsewhere", "user=alice", "is not configured; there are \"edge\""},
	} {
		b.Fill("#descriptor-form [name=domain]", tt.domain)
		b.Paste("#descriptor-form [name=entries]", tt.entries)
		b.Click("#descriptor-form button")
		b.Await("#look-up-result", tt.says)
	}
}

// TestAccessible uses each view without looking, without a mouse, and on a small screen.
func TestAccessible(t *testing.T) {
	d := start(t, withEdge(t))
	b := browsertest.Open(t, "http://"+d.AdminAddr()+"/")
	b.Await("#headline", "Nobody is being denied")
	b.Accessible("now, idle")
	d.ask(t, "checkout", "mallory", 40)
	d.askEnvoy(t, "path", "/api/a", 9)
	b.Await("#denied", "mallory")
	if denied := b.Text("#denied"); strings.Contains(denied, "edge") {
		t.Errorf("a limit in shadow mode is shown as if it denied: %s", denied)
	}
	views := []struct {
		name string
		open func()
	}{
		{"now", func() {}},
		{"look-up", func() {
			b.Click("#denied button.id")
			b.Await("#look-up-result", "Policy default")
		}},
		{"reset", func() {
			b.Click("#look-up-result button")
			b.Await("#ask", "Reset mallory?")
		}},
		{"reset-done", func() {
			b.Click("#ask button[type=submit]")
			b.Await("#look-up-result", "mallory was reset.")
			if at := b.Focus(); at != "DIV look-up-result" {
				t.Errorf("after a reset the focus is on %s", at)
			}
		}},
		{"try", func() {
			b.Click(`nav a[href="#try"]`)
			b.Paste("#yaml", "namespaces:\n  web:\n    policies:\n      default: {limits: [{name: minute, rate: 60/mn}]}\n")
			b.Await("#problems", "line 4")
		}},
		{"try-answers", func() {
			b.Paste("#yaml", "namespaces:\n  web:\n    policies:\n      default: {limits: [{name: minute, rate: 30/min}]}\n")
			b.Await("#verdict", "Nothing is wrong.")
			b.Click("#try-form button[type=submit]")
			b.Await("#try-result", "30 such requests at once")
			b.Do(chromedp.SetUploadFiles(chromedp.CSS("#replay-form [name=log]"), []string{abused(t)}))
			b.Click("#replay-form button[type=submit]")
			b.Await("#replay-result", "would have been denied")
		}},
		{"daemon", func() {
			b.Click(`nav a[href="#daemon"]`)
			b.Await("#facts", "Shards")
		}},
	}
	for _, v := range views {
		v.open()
		b.Accessible(v.name)
		b.Dark()
		b.Accessible(v.name + ", dark")
		b.Light()
		b.Narrow(v.name)
		b.Shot("narrow-" + v.name)
		b.Do(chromedp.EmulateViewport(1280, 900))
	}
}

// abused writes a log with one who asks too much, and returns its path.
func abused(t *testing.T) string {
	t.Helper()
	var lines strings.Builder
	for i := range 100 {
		fmt.Fprintf(&lines, "203.0.113.7 - - [21/Sep/2026:14:20:%02d +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"-\"\n", i/2)
	}
	fmt.Fprintln(&lines, "this is no request")
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTryPolicy writes a configuration that is wrong, corrects it, and tries it with
// identifiers, with a log, with one that is too large, and with one that is nearly.
func TestTryPolicy(t *testing.T) {
	d := start(t, nil)
	b := browsertest.Open(t, "http://"+d.AdminAddr()+"/#try")
	b.Paste("#yaml", "namespaces:\n  web:\n    policies:\n      default: {limits: [{name: minute, rate: 60/mn}]}\n")
	b.Await("#verdict", "One problem")
	b.Await("#problems", "line 4, column 47")
	b.Await("#problems", "60/mn")
	b.Shot("problem")
	b.Click("#problems button")
	if line, err := chromedp.Run(b.Context, chromedp.Evaluate[string]("(() => { const e = document.activeElement; return e.id + ' ' + e.value.slice(e.selectionStart, e.selectionEnd); })()")); err != nil || !strings.HasPrefix(line, "yaml 60/mn") {
		t.Errorf("a click on the problem selects %q: %v", line, err)
	}
	b.Paste("#yaml", "namespaces:\n  web:\n    policies:\n      default: {limits: [{name: minute, rate: 60/min}], overrides: [{identifiers: [10.0.0.0/8], limits: [{name: minute, rate: 600/min}]}]}\n")
	b.Await("#verdict", "Nothing is wrong.")
	b.Fill("#try-form [name=identifiers]", "192.0.2.1\n10.1.2.3")
	b.Click("#try-form button[type=submit]")
	b.Await("#try-result", "192.0.2.1: 60 such requests at once")
	b.Await("#try-result", "10.1.2.3: 600 such requests at once")
	b.Await("#try-result", "override 10.0.0.0/8")

	b.Do(chromedp.SetUploadFiles(chromedp.CSS("#replay-form [name=log]"), []string{abused(t)}))
	b.Click("#replay-form button[type=submit]")
	b.Await("#replay-result", "40 of 100 requests would have been denied")
	b.Await("#replay-result", "203.0.113.7")
	b.Await("#replay-result", "2026-09-21 14:20:30 UTC")
	b.Await("#replay-result", "access.log:101: this is no request")
	b.Shot("replay")

	large, tooLarge := filepath.Join(t.TempDir(), "large.log"), filepath.Join(t.TempDir(), "too-large.log")
	line := "203.0.113.7 - - [21/Sep/2026:14:20:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"" + strings.Repeat("x", 1_000_000) + "\"\n"
	if err := os.WriteFile(large, []byte(strings.Repeat(line, 62)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tooLarge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(tooLarge, 100<<20); err != nil {
		t.Fatal(err)
	}
	b.Do(chromedp.SetUploadFiles(chromedp.CSS("#replay-form [name=log]"), []string{tooLarge}))
	b.Click("#replay-form button[type=submit]")
	b.Await("#replay-result", "The log has more than 64 MiB. Replay it with the command ratelimitd replay.")
	b.Do(chromedp.SetUploadFiles(chromedp.CSS("#replay-form [name=log]"), []string{large}))
	b.Click("#replay-form button[type=submit]")
	b.Await("#replay-result", "2 of 62 requests would have been denied")

	b.Click("#load-policies")
	b.AwaitTrue(`document.querySelector("#yaml").value.includes("partner-*")`)
	b.Await("#verdict", "Nothing is wrong.")
}

// TestToken opens the console of an admin port that other machines reach.
func TestToken(t *testing.T) {
	token := auth.NewToken()
	clients, err := auth.Parse("clients.yaml", []byte("clients: [{name: operator, tokens: [\""+auth.HashLine(token)+"\"], operations: [admin], namespaces: [\"*\"]}]"))
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, func(o *server.Options) {
		o.AdminAddr = "0.0.0.0:0"
		o.Config.Clients = clients
	})
	b := browsertest.Open(t, "http://127.0.0.1:"+port(d.AdminAddr())+"/")
	b.Await("#login", "Token of a client")
	b.Shot("login")
	b.Fill("#login input", "wrong wrong wrong wrong\r")
	b.Await("#login .wrong", "The port refuses this token.")
	b.Paste("#login input", token)
	b.Do(chromedp.KeyEvent("\r"))
	b.Await("#headline", "Nobody is being denied")
	b.Click(`nav a[href="#look-up"]`)
	b.Fill("#look-up-form [name=namespace]", "checkout")
	b.Fill("#look-up-form [name=identifier]", "alice\r")
	b.Await("#look-up-result", "A request would be allowed.")
	b.Click("#look-up-result button")
	b.Click("#ask button[type=submit]")
	b.Await("#look-up-result", "alice was reset.")
	if log := d.log.String(); !strings.Contains(log, "identifier=alice") || !strings.Contains(log, "by=operator") {
		t.Errorf("the log: %s", log)
	}
}

// port returns the port of an address.
func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}
