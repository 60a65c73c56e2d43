package console_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image/png"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/replay"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

var shots = flag.String("shots", "", "a folder to write screenshots to")

// patient is a time that nothing takes on a loaded machine.
const patient = time.Minute

// A daemon is one that runs, and a client of it.
type daemon struct {
	*server.Server
	client ratelimitv1.RateLimitServiceClient
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
	d.client = ratelimitv1.NewRateLimitServiceClient(conn)
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

// A browser shows a page in Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
}

// open opens a page in a browser of its own. The test fails if the page logs an error: one of
// the script, or of what its security policy forbids.
func open(t *testing.T, url string) *browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*patient)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var wrong []string
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, text)
	}
	ctx, cancel = chromedp.NewContext(ctx,
		chromedp.WithAllocatorOptions(chromedp.NoSandbox, chromedp.WindowSize(1280, 900), chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(patient)),
		chromedp.WithListener(func(e any) {
			switch e := e.(type) {
			case *runtime.EventExceptionThrown:
				note(e.ExceptionDetails.Text + " " + e.ExceptionDetails.URL)
			case *log.EventEntryAdded:
				if e.Entry.Level == log.EntryLevelError && !strings.Contains(e.Entry.Text, "status of 4") {
					note(e.Entry.Text)
				}
			}
		}))
	b := &browser{t, ctx}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) > 0 {
			t.Errorf("the page logs: %s", strings.Join(wrong, "; "))
		}
	})
	b.do(chromedp.Navigate(url))
	return b
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%v; the page says:\n%s", err, b.text("body"))
	}
}

// text returns what can be read in an element.
func (b *browser) text(selector string) string {
	text, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.querySelector("+strconv.Quote(selector)+")?.innerText ?? ''"))
	if err != nil {
		return err.Error()
	}
	return text
}

// await waits until an element says something.
func (b *browser) await(selector, says string) {
	b.t.Helper()
	expression := fmt.Sprintf("(document.querySelector(%q)?.innerText ?? '').includes(%q)", selector, says)
	ctx, cancel := context.WithTimeout(b.ctx, patient)
	defer cancel()
	if _, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0))); err != nil {
		b.t.Fatalf("%s does not say %q: %v; it says:\n%s", selector, says, err, b.text(selector))
	}
}

// fill types a text into a field instead of what is there.
func (b *browser) fill(selector, text string) {
	b.t.Helper()
	b.selectAll(selector)
	b.do(chromedp.KeyEvent(text))
}

// paste pastes a text into a field instead of what is there.
func (b *browser) paste(selector, text string) {
	b.t.Helper()
	b.selectAll(selector)
	if _, err := chromedp.Call(b.ctx, input.InsertText, input.InsertTextParams{Text: text}); err != nil {
		b.t.Fatal(err)
	}
}

// selectAll puts the cursor into a field, and selects what is there.
func (b *browser) selectAll(selector string) {
	b.t.Helper()
	b.do(chromedp.Focus(chromedp.CSS(selector), chromedp.NodeVisible))
	if _, err := chromedp.Run(b.ctx, chromedp.Evaluate[any]("document.activeElement.select()")); err != nil {
		b.t.Fatal(err)
	}
}

// shot makes a screenshot, and checks that something is on it.
func (b *browser) shot(name string) {
	b.t.Helper()
	picture, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	shown, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		b.t.Fatal(err)
	}
	colours := map[[3]uint32]bool{}
	for y := 0; y < shown.Bounds().Dy(); y += 3 {
		for x := 0; x < shown.Bounds().Dx(); x += 3 {
			r, g, b, _ := shown.At(x, y).RGBA()
			colours[[3]uint32{r, g, b}] = true
		}
	}
	if len(colours) < 10 {
		b.t.Errorf("%s: the screenshot has %d colours", name, len(colours))
	}
	if *shots != "" {
		if err := os.WriteFile(filepath.Join(*shots, name+".png"), picture, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}

// dark has the page shown as to those who like it dark.
func (b *browser) dark() {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	}); err != nil {
		b.t.Fatal(err)
	}
}

// TestWhoIsDenied reads from the first screen who is denied, by which limit, since when.
func TestWhoIsDenied(t *testing.T) {
	d := start(t, nil)
	b := open(t, "http://"+d.AdminAddr()+"/")
	b.await("#headline", "Nobody is being denied")
	d.ask(t, "search", "crawler", 3)
	d.ask(t, "checkout", "alice", 2)
	d.ask(t, "checkout", "internal-job", 5)
	d.ask(t, "checkout", "mallory", 40)
	d.ask(t, "checkout", "trudy", 15)
	b.await("#denied", "trudy")
	b.await("#headline", "One limit denies")
	b.await("#lead", "checkout / default / burst")
	row := b.text("#denied tbody tr")
	for _, want := range []string{"checkout / default / burst", "1/1h token_bucket, burst 10", "mallory", "trudy", "for ", "/s", "%"} {
		if !strings.Contains(row, want) {
			t.Errorf("the row does not say %q: %s", want, row)
		}
	}
	if strings.Contains(row, "alice") || strings.Contains(b.text("#denied"), "search") {
		t.Errorf("somebody is shown who is not denied: %s", b.text("#denied"))
	}
	b.shot("now-light")
	b.dark()
	b.shot("now-dark")
	b.do(chromedp.EmulateViewport(390, 844))
	b.shot("now-narrow")
	if wide, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("document.documentElement.scrollWidth > innerWidth")); err != nil || wide {
		t.Errorf("the narrow page is wider than the screen: %v", err)
	}
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Click(chromedp.CSS(`nav a[href="#daemon"]`)))
	b.await("#facts", "Shards")
	b.shot("daemon")
}

// click clicks an element when it can be seen.
func (b *browser) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// TestLookUp looks up who is denied, by a click on the first screen, and resets it.
func TestLookUp(t *testing.T) {
	d := start(t, nil)
	b := open(t, "http://"+d.AdminAddr()+"/")
	b.await("#headline", "Nobody is being denied")
	d.ask(t, "checkout", "mallory", 12)
	b.await("#denied", "mallory")
	b.click("#denied button.id")
	b.await("#look-up-result", "A request would be denied, for ")
	for _, want := range []string{"Policy default", "1/1h token_bucket, burst 10", "0 of 10", "long", "99,990 of 100,000"} {
		b.await("#look-up-result", want)
	}
	b.shot("look-up")
	// Looking consumes nothing, and is no request of mallory's.
	if _, body := d.get(t, "/hot-keys"); strings.Count(body, "mallory") != 2 {
		t.Errorf("hot keys: %s", body)
	}

	b.click("#look-up-result button")
	b.await("#ask", "Reset mallory?")
	b.shot("reset")
	b.click("#ask button[value=no]")
	b.await("#look-up-result", "would be denied")
	if strings.Contains(d.log.String(), "was reset") {
		t.Error("it was reset in spite of a no")
	}
	b.click("#look-up-result button")
	b.click("#ask button[type=submit]")
	b.await("#look-up-result", "mallory was reset.")
	b.await("#look-up-result", "10 of 10")
	if log := d.log.String(); strings.Count(log, "an identifier was reset on the console") != 1 || !strings.Contains(log, "identifier=mallory policy=default") || !strings.Contains(log, "by=127.0.0.1:") {
		t.Errorf("the log: %s", log)
	}

	// Others, by the keyboard alone.
	for _, tt := range []struct{ namespace, identifier, cost, says string }{
		{"checkout", "partner-7", "1", "override partner-*"},
		{"checkout", "internal-job", "1", "because internal-* in exempt matches it"},
		{"checkout", "alice", "11", "however long it waits"},
		{"nowhere", "alice", "1", "has no policies"},
	} {
		b.fill("#look-up-form [name=namespace]", tt.namespace)
		b.fill("#look-up-form [name=identifier]", tt.identifier)
		b.fill("#look-up-form [name=cost]", tt.cost+"\r")
		b.await("#look-up-result", tt.says)
	}
}

// TestTryPolicy writes a configuration that is wrong, corrects it, and tries it with
// identifiers and with a log.
func TestTryPolicy(t *testing.T) {
	d := start(t, nil)
	b := open(t, "http://"+d.AdminAddr()+"/#try")
	b.paste("#yaml", "namespaces:\n  web:\n    policies:\n      default: {limits: [{name: minute, rate: 60/mn}]}\n")
	b.await("#verdict", "One problem")
	b.await("#problems", "line 4, column 47")
	b.await("#problems", "60/mn")
	b.shot("problem")
	b.click("#problems button")
	if line, err := chromedp.Run(b.ctx, chromedp.Evaluate[string]("(() => { const e = document.activeElement; return e.id + ' ' + e.value.slice(e.selectionStart, e.selectionEnd); })()")); err != nil || !strings.HasPrefix(line, "yaml 60/mn") {
		t.Errorf("a click on the problem selects %q: %v", line, err)
	}
	b.paste("#yaml", "namespaces:\n  web:\n    policies:\n      default: {limits: [{name: minute, rate: 60/min}], overrides: [{identifiers: [10.0.0.0/8], limits: [{name: minute, rate: 600/min}]}]}\n")
	b.await("#verdict", "Nothing is wrong.")
	b.fill("#try-form [name=identifiers]", "192.0.2.1\n10.1.2.3")
	b.click("#try-form button[type=submit]")
	b.await("#try-result", "192.0.2.1: 60 such requests at once")
	b.await("#try-result", "10.1.2.3: 600 such requests at once")
	b.await("#try-result", "override 10.0.0.0/8")

	log := filepath.Join(t.TempDir(), "access.log")
	var lines strings.Builder
	for i := range 100 {
		fmt.Fprintf(&lines, "203.0.113.7 - - [21/Sep/2026:14:20:%02d +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"-\"\n", i/2)
	}
	fmt.Fprintln(&lines, "this is no request")
	if err := os.WriteFile(log, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SetUploadFiles(chromedp.CSS("#replay-form [name=log]"), []string{log}))
	b.click("#replay-form button[type=submit]")
	b.await("#replay-result", "40 of 100 requests would have been denied")
	b.await("#replay-result", "203.0.113.7")
	b.await("#replay-result", "2026-09-21 14:20:30 UTC")
	b.await("#replay-result", "access.log:101: this is no request")
	b.shot("replay")

	b.click("#load-policies")
	b.await("#verdict", "Nothing is wrong.")
	if text, err := chromedp.Run(b.ctx, chromedp.Value(chromedp.CSS("#yaml"))); err != nil || !strings.Contains(text, "partner-*") {
		t.Errorf("what is in force: %s: %v", text, err)
	}
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
	b := open(t, "http://127.0.0.1:"+port(d.AdminAddr())+"/")
	b.await("#login", "Token of a client")
	b.shot("login")
	b.fill("#login input", "wrong wrong wrong wrong\r")
	b.await("#login .wrong", "The port refuses this token.")
	b.paste("#login input", token)
	b.do(chromedp.KeyEvent("\r"))
	b.await("#headline", "Nobody is being denied")
	b.click(`nav a[href="#look-up"]`)
	b.fill("#look-up-form [name=namespace]", "checkout")
	b.fill("#look-up-form [name=identifier]", "alice\r")
	b.await("#look-up-result", "A request would be allowed.")
	b.click("#look-up-result button")
	b.click("#ask button[type=submit]")
	b.await("#look-up-result", "alice was reset.")
	if log := d.log.String(); !strings.Contains(log, "identifier=alice") || !strings.Contains(log, "by=operator") {
		t.Errorf("the log: %s", log)
	}
}

// port returns the port of an address.
func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}
