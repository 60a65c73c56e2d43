// Package browsertest shows pages in a real Chromium to tests.
package browsertest

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image/png"
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
)

var shots = flag.String("shots", "", "a folder to write screenshots to")

// Patient is a time that nothing takes on a loaded machine.
const Patient = time.Minute

// A Browser shows a page in Chromium.
type Browser struct {
	Context context.Context // of its page, for chromedp

	t *testing.T
}

// Open opens a page in a browser of its own. The test fails if the page logs an error: one of
// the script, or of what its security policy forbids.
func Open(t *testing.T, url string) *Browser {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*Patient)
	t.Cleanup(cancel)
	var mu sync.Mutex
	var wrong []string
	note := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, text)
	}
	ctx, cancel = chromedp.NewContext(ctx,
		chromedp.WithAllocatorOptions(chromedp.NoSandbox, chromedp.WindowSize(1280, 900), chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(Patient)),
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
	b := &Browser{ctx, t}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
		mu.Lock()
		defer mu.Unlock()
		if len(wrong) > 0 {
			t.Errorf("the page logs: %s", strings.Join(wrong, "; "))
		}
	})
	b.Do(chromedp.Navigate(url))
	return b
}

// Do does steps, in order. The test fails if one cannot be done.
func (b *Browser) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.Context, steps...); err != nil {
		b.t.Fatalf("%v; the page says:\n%s", err, b.Text("body"))
	}
}

// Text returns what can be read in an element.
func (b *Browser) Text(selector string) string {
	text, err := chromedp.Run(b.Context, chromedp.Evaluate[string]("document.querySelector("+strconv.Quote(selector)+")?.innerText ?? ''"))
	if err != nil {
		return err.Error()
	}
	return text
}

// Await waits until an element says something.
func (b *Browser) Await(selector, says string) {
	b.t.Helper()
	if err := b.poll(fmt.Sprintf("(document.querySelector(%q)?.innerText ?? '').includes(%q)", selector, says)); err != nil {
		b.t.Fatalf("%s does not say %q: %v; it says:\n%s", selector, says, err, b.Text(selector))
	}
}

// AwaitTrue waits until an expression is true.
func (b *Browser) AwaitTrue(expression string) {
	b.t.Helper()
	if err := b.poll(expression); err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
}

func (b *Browser) poll(expression string) error {
	ctx, cancel := context.WithTimeout(b.Context, Patient)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(0)))
	return err
}

// Fill types a text into a field instead of what is there.
func (b *Browser) Fill(selector, text string) {
	b.t.Helper()
	b.selectAll(selector)
	b.Do(chromedp.KeyEvent(text))
}

// Paste pastes a text into a field instead of what is there.
func (b *Browser) Paste(selector, text string) {
	b.t.Helper()
	b.selectAll(selector)
	if _, err := chromedp.Call(b.Context, input.InsertText, input.InsertTextParams{Text: text}); err != nil {
		b.t.Fatal(err)
	}
}

// selectAll puts the cursor into a field, and selects what is there.
func (b *Browser) selectAll(selector string) {
	b.t.Helper()
	b.Do(chromedp.Focus(chromedp.CSS(selector), chromedp.NodeVisible))
	if _, err := chromedp.Run(b.Context, chromedp.Evaluate[any]("document.activeElement.select()")); err != nil {
		b.t.Fatal(err)
	}
}

// Shot makes a screenshot, and checks that something is on it.
func (b *Browser) Shot(name string) {
	b.t.Helper()
	picture, err := chromedp.Run(b.Context, chromedp.FullScreenshot(100))
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

// Dark has the page shown as to those who like it dark.
func (b *Browser) Dark() { b.t.Helper(); b.prefer("dark") }

// Light has the page shown as to those who like it light.
func (b *Browser) Light() { b.t.Helper(); b.prefer("light") }

func (b *Browser) prefer(scheme string) {
	b.t.Helper()
	if _, err := chromedp.Call(b.Context, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		b.t.Fatal(err)
	}
}

// Focus returns the tag and the id of the element that has the focus.
func (b *Browser) Focus() string {
	b.t.Helper()
	at, err := chromedp.Run(b.Context, chromedp.Evaluate[string]("document.activeElement.tagName + ' ' + document.activeElement.id"))
	if err != nil {
		b.t.Fatal(err)
	}
	return at
}

// Click clicks an element when it can be seen.
func (b *Browser) Click(selector string) {
	b.t.Helper()
	b.Do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

// Drag drags the mouse over an element, from one part of its width to another.
func (b *Browser) Drag(selector string, from, to float64) {
	b.t.Helper()
	box, err := chromedp.Run(b.Context, chromedp.Evaluate[[]float64](fmt.Sprintf(
		`(() => { const e = document.querySelector(%q); e.scrollIntoView({ block: "center" }); const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()`, selector)))
	if err != nil {
		b.t.Fatal(err)
	}
	y := box[1] + box[3]/2
	for _, step := range []struct {
		kind input.DispatchMouseEventType
		part float64
	}{{input.DispatchMouseEventTypeMousePressed, from}, {input.DispatchMouseEventTypeMouseMoved, (from + to) / 2}, {input.DispatchMouseEventTypeMouseMoved, to}, {input.DispatchMouseEventTypeMouseReleased, to}} {
		if _, err := chromedp.Call(b.Context, input.DispatchMouseEvent, input.DispatchMouseEventParams{
			Type: step.kind, X: box[0] + step.part*box[2], Y: y, Button: input.MouseButtonLeft, Buttons: 1, ClickCount: 1,
		}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// Requests returns how many files the page has loaded, or tried to.
func (b *Browser) Requests() int {
	b.t.Helper()
	n, err := chromedp.Run(b.Context, chromedp.Evaluate[int]("performance.getEntriesByType('resource').length"))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}
