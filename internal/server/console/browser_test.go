package console_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/server"
	"github.com/ratelimitd/ratelimitd/internal/store/memory"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

var shots = flag.String("shots", "", "a folder to write screenshots to")

// patient is a time that nothing takes on a loaded machine.
const patient = 2 * time.Minute

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
          - {name: burst, rate: 5/h, strategy: token_bucket, burst: 10}
          - {name: daily, rate: 100_000/day}
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
		Config: &server.Config{Policies: p.Namespaces, Text: policies},
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
	ctx, cancel := context.WithTimeout(t.Context(), patient)
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
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(patient))); err != nil {
		b.t.Fatalf("%s does not say %q: %v; it says:\n%s", selector, says, err, b.text(selector))
	}
}

// fill types a text into a field instead of what is there.
func (b *browser) fill(selector, text string) {
	b.t.Helper()
	b.do(chromedp.Clear(chromedp.CSS(selector)), chromedp.SendKeys(chromedp.CSS(selector), text))
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
	d.ask(t, "search", "crawler", 3)
	d.ask(t, "checkout", "alice", 2)
	d.ask(t, "checkout", "mallory", 40)
	d.ask(t, "checkout", "trudy", 15)
	d.ask(t, "checkout", "internal-job", 5)
	b := open(t, "http://"+d.AdminAddr()+"/")
	b.await("#headline", "One limit denies")
	b.await("#lead", "checkout / default / burst")
	row := b.text("#denied tbody tr")
	for _, want := range []string{"checkout / default / burst", "5/1h token_bucket, burst 10", "mallory", "trudy", "for ", "/s", "%"} {
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
