package replay

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/ratelimitd/ratelimitd/internal/browsertest"
)

// TestPage opens the report from its file in Chromium, and zooms into its plots with the mouse and
// with the keyboard. What it says is what --json says. It loads nothing and breaks no rule of its
// security policy: such an error fails the test.
func TestPage(t *testing.T) {
	html, log := filepath.Join(t.TempDir(), "report.html"), write(t, "access.log", abused()+"nonsense\n"+combined(start, "<img src=x onerror=alert(1)>"))
	larger := strings.ReplaceAll(policies, "60/min", "120/min")
	out, errs, err := replay(t, "--json", "--config", write(t, "new.yaml", policies), "--current", write(t, "old.yaml", larger), "--suggest", "identifiers=1", "--html", html, log)
	if err != nil {
		t.Fatal(err, errs)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	b := browsertest.Open(t, "file://"+html)
	for _, want := range []string{grouped(r.Records) + " records", fmt.Sprintf("%d lines not read", r.Unread)} {
		b.Await("#facts", want)
	}
	for i, l := range r.Limits {
		for _, want := range []string{l.Limit, l.Rate, grouped(l.Asked), grouped(l.Denied), percent(l.Share), fmt.Sprint(l.Identifiers), fmt.Sprint(l.IdentifiersDenied), l.Before.Rate, grouped(l.Before.Denied), l.Suggestion.Rate} {
			b.Await(fmt.Sprintf("#limits tbody tr:nth-child(%d)", i+1), want)
		}
	}
	hit := r.Limits[0].Hit[0]
	for _, want := range []string{hit.Identifier, grouped(hit.Denied), hit.FirstDenied.Format(timeLayout), hit.LastDenied.Format(timeLayout), grouped(hit.Peak)} {
		b.Await("#hits", want)
	}
	b.Await("#change", grouped(r.Change.DeniedInstead)+" that were allowed are denied")
	b.Await("#unread", "nonsense")
	whole := fmt.Sprintf("%s asked, %s denied", grouped(r.Records), grouped(r.Outcomes["denied"]))
	b.Await("#time-says", whole)

	b.Do(chromedp.Focus(chromedp.CSS("#time")), chromedp.KeyEvent("+"))
	b.Await("#time-says", "2026-09-21 14:14:56Z to 2026-09-21 14:45:04Z")
	b.Do(chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent("-"), chromedp.KeyEvent(kb.Escape))
	b.Await("#time-says", whole)
	b.Drag("#time", 0.1, 0.3) // before the abuser came
	b.Await("#time-says", " 0 denied")
	b.Shot("report-zoomed")
	b.Click("#reset")
	b.Await("#time-says", whole)
	if _, err := chromedp.Run(b.Context, chromedp.Evaluate[any](`document.querySelector("#which").value = "0"; document.querySelector("#which").dispatchEvent(new Event("change"))`)); err != nil {
		t.Fatal(err)
	}
	b.Await("#time-says", fmt.Sprintf("%s asked, %s denied", grouped(r.Limits[0].Asked), grouped(r.Limits[0].Denied)))
	b.Await("#demand-says", fmt.Sprintf("%d identifiers, %d of them denied", r.Limits[0].Identifiers, r.Limits[0].IdentifiersDenied))
	b.Do(chromedp.Focus(chromedp.CSS("#rank")), chromedp.KeyEvent("+"))
	b.Await("#rank-says", "they ask")

	b.Shot("report")
	b.Accessible("the report")
	b.Dark()
	b.Accessible("the report, dark")
	b.Shot("report-dark")
	b.Narrow("the report")
	b.Shot("report-narrow")
	if n := b.Requests(); n != 0 {
		t.Errorf("the page has made %d requests", n)
	}
}

// grouped shows a number as the page does.
func grouped(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
