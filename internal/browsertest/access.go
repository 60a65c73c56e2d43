package browsertest

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// controls are the roles of what people operate. Each needs a name that a screen reader says.
var controls = []string{
	"button", "link", "textbox", "searchbox", "spinbutton", "combobox", "ComboBoxSelect", "checkbox", "radio", "slider",
	"DisclosureTriangle", "DisclosureTriangleGrouped", "listbox", "tab", "menuitem", "dialog", "table", "image", "img", "figure",
}

// Accessible checks that those can use the page, as it is, who do not see it, see little, or have
// no mouse: that a screen reader has a name for all that can be operated; that headings, tables
// and colours are in order; that the keyboard gets everywhere, and one sees where it is.
func (b *Browser) Accessible(what string) {
	b.t.Helper()
	tree, err := chromedp.Call(b.Context, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		b.t.Fatal(err)
	}
	roles := map[string]int{}
	for _, n := range tree.Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role, name := textOf(n.Role), textOf(n.Name)
		roles[role]++
		if slices.Contains(controls, role) && strings.TrimSpace(name) == "" {
			b.t.Errorf("%s: a %s has no name: %s", what, role, textOf(n.Description))
		}
	}
	for _, role := range []string{"main", "heading"} {
		if roles[role] == 0 && (role != "main" || roles["dialog"] == 0) { // which hides the rest
			b.t.Errorf("%s: there is no %s: %v", what, role, roles)
		}
	}
	for _, problem := range b.list(looked) {
		b.t.Errorf("%s: %s", what, problem)
	}
	b.reachable(what)
}

// Narrow checks that nothing is cut off at the width of a small phone, which is also that of a
// window of 1280 points in which all is four times as large. It leaves the window so.
func (b *Browser) Narrow(what string) {
	b.t.Helper()
	b.Do(chromedp.EmulateViewport(320, 640))
	for _, problem := range b.list(cutOff) {
		b.t.Errorf("%s, at a width of 320: %s", what, problem)
	}
}

// reachable goes through the page with the Tab key, and checks that it gets to all that can be
// operated, and that one sees where it is.
func (b *Browser) reachable(what string) {
	b.t.Helper()
	wanted := b.list(begun)
	for range 2*len(wanted) + 3 { // as a dialog does not begin with its first
		b.Do(chromedp.KeyEvent(kb.Tab))
		if len(b.list(stepped)) > 0 {
			break
		}
	}
	for _, problem := range b.list(ended) {
		b.t.Errorf("%s: %s", what, problem)
	}
}

// list returns what a script says, which is a list of texts.
func (b *Browser) list(script string) []string {
	b.t.Helper()
	all, err := chromedp.Run(b.Context, chromedp.Evaluate[[]string](script))
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

func textOf(v *accessibility.Value) string {
	var text string
	if v != nil {
		_ = json.Unmarshal(v.Value, &text)
	}
	return text
}

// looked says what is wrong with headings, tables, names of fields, and colours.
const looked = `(() => {
  const wrong = [];
  const seen = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getBoundingClientRect().width > 1;
  const top = document.querySelector("dialog[open]") ?? document.body;
  let level = 0;
  const headings = [...document.querySelectorAll("h1, h2, h3, h4")].filter(seen);
  if (headings.filter((h) => h.tagName === "H1").length !== 1) wrong.push("it has not one h1: " + headings.map((h) => h.tagName + " " + h.textContent));
  for (const h of headings) {
    const now = Number(h.tagName[1]);
    if (now > level + 1) wrong.push("after a heading of level " + level + " comes one of level " + now + ": " + h.textContent);
    level = now;
  }
  if (!document.documentElement.lang) wrong.push("the page does not say its language");
  for (const t of [...document.querySelectorAll("table")].filter(seen)) {
    if (!t.caption && !t.getAttribute("aria-label") && !t.getAttribute("aria-labelledby")) wrong.push("a table has no caption: " + t.innerText.slice(0, 60));
    if (!t.querySelector("thead th")) wrong.push("a table has no headers: " + t.innerText.slice(0, 60));
    for (const th of t.querySelectorAll("th")) if (!th.scope) wrong.push("a header has no scope: " + th.textContent);
  }
  for (const svg of [...document.querySelectorAll(":not(svg) > svg")].filter(seen)) {
    if (svg.getAttribute("aria-hidden") !== "true" && !(svg.getAttribute("role") && svg.getAttribute("aria-label"))) wrong.push("a picture has neither a name nor is it hidden");
  }
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { const all = []; for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3]) all.push(c); if (c[3] === 1) break; } return all.reverse().reduce((under, c) => over(c, under), rgba(matchMedia("(prefers-color-scheme: dark)").matches ? "#121212" : "#fff")); };
  const walk = document.createTreeWalker(top, NodeFilter.SHOW_TEXT), told = new Set();
  for (let n = walk.nextNode(); n; n = walk.nextNode()) {
    const e = n.parentElement;
    if (!n.textContent.trim() || !e || ["SCRIPT", "STYLE", "OPTION", "NOSCRIPT", "TITLE", "DATALIST"].includes(e.tagName) || !seen(e) || e.closest(":disabled, [aria-hidden=true]")) continue;
    const style = getComputedStyle(e), back = behind(e);
    const ink = over(rgba(e instanceof SVGElement ? style.fill : style.color), back);
    const [a, b] = [light(ink), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700;
    const key = style.color + back + large;
    if (ratio < (large ? 3 : 4.5) && !told.has(key)) { told.add(key); wrong.push("a contrast of " + ratio.toFixed(2) + ": " + n.textContent.trim().slice(0, 40)); }
  }
  return wrong;
})()`

// cutOff says what cannot be seen in a narrow window.
const cutOff = `(() => {
  const wrong = [];
  if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page is " + document.documentElement.scrollWidth + " wide");
  const scrolls = (e) => { for (; e; e = e.parentElement) { const s = getComputedStyle(e); if (["auto", "scroll"].includes(s.overflowX) && e.scrollWidth > e.clientWidth) return true; } return false; };
  for (const e of document.querySelectorAll("button, input, select, textarea, a, h1, h2, th, td, p, li, summary")) {
    const r = e.getBoundingClientRect();
    if (e.checkVisibility() && r.width > 1 && (r.right > innerWidth + 1 || r.left < -1) && !e.closest(".skip, .unseen") && !scrolls(e.parentElement)) wrong.push(e.tagName + " goes to " + Math.round(r.right) + ": " + e.textContent.slice(0, 40));
  }
  return wrong;
})()`

// begun puts the focus before the first element, and returns all that the keyboard must get to.
const begun = `(() => {
  const top = document.querySelector("dialog[open]") ?? document;
  const wanted = [...top.querySelectorAll("button, input, select, textarea, a[href], summary, [tabindex='0']")]
    .filter((e) => e.checkVisibility({ visibilityProperty: true }) && !e.disabled && e.tabIndex >= 0 && !(e.type === "radio" && !e.checked));
  globalThis.tour = { wanted, got: new Set(), unseen: [] };
  document.activeElement?.blur?.();
  getSelection()?.removeAllRanges();
  if (top === document) { document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute("tabindex"); }
  return wanted.map((e) => e.tagName);
})()`

// stepped notes where the focus is, and returns something at the end of the tour.
const stepped = `(() => {
  const e = document.activeElement, tour = globalThis.tour;
  if (!e || e === document.body || e.tagName === "DIALOG") return tour.got.size >= tour.wanted.length || tour.got.size && !document.querySelector("dialog[open]") ? ["end"] : [];
  if (tour.got.has(e)) return tour.got.size >= tour.wanted.length ? ["end"] : [];
  tour.got.add(e);
  const s = getComputedStyle(e), parent = e.parentElement && getComputedStyle(e.parentElement);
  if (!(s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0) && !(parent && parent.outlineStyle !== "none" && parseFloat(parent.outlineWidth) > 0) && s.boxShadow === "none") tour.unseen.push(e);
  return [];
})()`

// ended says where the keyboard did not get to, or one would not see that it had.
const ended = `(() => {
  const name = (e) => e.tagName + " " + (e.id || e.name || e.textContent.trim().slice(0, 30));
  const tour = globalThis.tour;
  return [...tour.wanted.filter((e) => !tour.got.has(e)).map((e) => "the keyboard does not get to " + name(e)), ...tour.unseen.map((e) => "one does not see that the focus is on " + name(e))];
})()`
