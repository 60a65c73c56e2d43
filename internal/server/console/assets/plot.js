// Draws plots as SVG.

const ns = "http://www.w3.org/2000/svg";

/** @param {string} tag @param {Record<string, string | number>} attributes @param {string} [text] */
export function node(tag, attributes, text) {
  const e = document.createElementNS(ns, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, String(value));
  if (text !== undefined) e.textContent = text;
  return e;
}

/**
 * The points of a line from left to right.
 * @param {number[]} values the newest last
 * @param {number} slots how many values the width is
 * @param {number} width @param {number} height @param {number} top the value at the top
 */
function points(values, slots, width, height, top) {
  const step = width / Math.max(1, slots - 1), first = slots - values.length;
  return values.map((v, i) => [(first + i) * step, height - (top > 0 ? v / top : 0) * height]);
}

/** @param {number[][]} at */
const path = (at) => at.map(([x, y]) => x.toFixed(1) + " " + y.toFixed(1)).join("L");

/** @param {number[][]} at @param {number} height */
const area = (at, height) => at.length ? `M${at[0][0].toFixed(1)} ${height}L${path(at)}L${at[at.length - 1][0].toFixed(1)} ${height}Z` : "";

/**
 * Draws what was asked and denied as a small plot.
 * @param {SVGElement} svg
 * @param {number[]} asked @param {number[]} denied @param {number} slots
 */
export function spark(svg, asked, denied, slots) {
  const width = 160, height = 24, top = Math.max(...asked, ...denied, 1e-9);
  const drawn = asked.join() + ";" + denied.join();
  if (svg.dataset.drawn === drawn) return;
  svg.dataset.drawn = drawn;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const a = points(asked, slots, width, height - 1, top), d = points(denied, slots, width, height - 1, top);
  svg.replaceChildren(
    node("line", { class: "grid", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }),
    node("path", { class: "asked area", d: area(a, height - 1) }),
    node("path", { class: "denied area", d: area(d, height - 1) }),
    node("path", { class: "denied line", d: d.length ? "M" + path(d) : "" }),
  );
}

/** @returns {SVGElement} */
export const newSpark = () => /** @type {SVGElement} */ (node("svg", { class: "spark", "aria-hidden": "true" }));

/** @param {number} top a round number that is not less */
function round(top) {
  const unit = 10 ** Math.floor(Math.log10(top));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((n) => n * unit).find((n) => n >= top * 0.999) ?? top;
}

/** A chart of two series over the last minutes. A pointer or the arrow keys read a value. */
export class Chart {
  /**
   * @param {HTMLElement} into
   * @param {{label: string, names: [string, string], say: (n: number) => string, classes: [string, string], filled: boolean, slots: number}} o
   */
  constructor(into, o) {
    this.o = o;
    /** @type {[number[], number[]]} */
    this.values = [[], []];
    this.seconds = 5;
    /** @type {number | null} */
    this.at = null;
    this.svg = node("svg", { class: "chart", role: "img", tabindex: 0 });
    into.append(this.svg);
    const place = (/** @type {MouseEvent} */ e) => {
      const box = this.svg.getBoundingClientRect(), left = 44, width = box.width - left;
      return o.slots - 1 - Math.round(Math.min(1, Math.max(0, (e.clientX - box.left - left) / width)) * (o.slots - 1));
    };
    this.svg.addEventListener("pointermove", (e) => { this.at = place(/** @type {PointerEvent} */ (e)); this.draw(); });
    this.svg.addEventListener("pointerleave", () => { this.at = null; this.draw(); });
    this.svg.addEventListener("blur", () => { this.at = null; this.draw(); });
    this.svg.addEventListener("keydown", (e) => {
      const by = { ArrowLeft: 1, ArrowRight: -1 }[/** @type {KeyboardEvent} */ (e).key];
      if (!by) return;
      e.preventDefault();
      this.at = Math.min(this.values[0].length - 1, Math.max(0, (this.at ?? -1) + by));
      this.draw();
    });
    new ResizeObserver(() => this.draw()).observe(into);
  }

  /** @param {number[]} first @param {number[]} second the newest last @param {number} seconds of a step */
  show(first, second, seconds) {
    this.values = [first, second];
    this.seconds = seconds;
    this.draw();
  }

  draw() {
    const { names, say, classes, filled, slots, label } = this.o, [a, b] = this.values;
    const left = 44, bottom = 18, above = 14;
    const width = Math.max(120, this.svg.clientWidth || 600), height = this.svg.clientHeight || 136;
    const w = width - left, h = height - bottom - above;
    const top = round(Math.max(...a, ...b, 1e-9));
    const empty = Math.max(...a, ...b, 0) === 0;
    const plot = node("g", { transform: `translate(${left} ${above})` });
    for (const share of [0, 0.5, 1]) {
      plot.append(node("line", { class: "grid", x1: 0, x2: w, y1: h * (1 - share), y2: h * (1 - share) }));
      if (!empty || share === 0) plot.append(node("text", { x: -6, y: h * (1 - share) + 4, "text-anchor": "end" }, share ? say(top * share) : "0"));
    }
    for (const minutes of [15, 10, 5, 0]) {
      const x = w * (1 - minutes / (slots * this.seconds / 60));
      plot.append(node("text", { x: Math.max(0, x), y: h + 14, "text-anchor": minutes === 15 ? "start" : minutes ? "middle" : "end" }, minutes ? `−${minutes} min` : "now"));
    }
    [a, b].forEach((values, i) => {
      const at = points(values, slots, w, h, empty ? 1 : top), kind = classes[i];
      if (filled && values.length) plot.append(node("path", { class: kind + " area", d: area(at, h) }));
      if (values.length) plot.append(node("path", { class: kind + " line", d: "M" + path(at) }));
    });
    if (!a.length) plot.append(node("text", { x: w / 2, y: h / 2, "text-anchor": "middle" }, "The first values come in a few seconds."));
    let says = label + (a.length ? `: at present ${names[0]} ${say(a[a.length - 1])}, ${names[1]} ${say(b[b.length - 1])}` : "");
    if (this.at !== null && this.at < a.length) {
      const i = a.length - 1 - this.at, x = w * (1 - this.at / (slots - 1));
      const ago = this.at * this.seconds;
      says = `${ago ? Math.floor(ago / 60) + ":" + String(ago % 60).padStart(2, "0") + " ago" : "now"}: ${names[0]} ${say(a[i])}, ${names[1]} ${say(b[i])}`;
      plot.append(node("line", { class: "cursor", x1: x, x2: x, y1: 0, y2: h }),
        node("text", { x: Math.min(w, Math.max(0, x)), y: -4, "text-anchor": x < w / 3 ? "start" : x > 2 * w / 3 ? "end" : "middle" }, says));
    }
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("aria-label", says);
    this.svg.replaceChildren(plot);
  }
}
