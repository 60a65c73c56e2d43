// The first screen: who is denied, by which limit, since when.
import { $, keep, make, say } from "./dom.js";
import { clock, duration, number, percent, rate } from "./format.js";
import { Chart, newSpark, spark } from "./plot.js";
import { lookUp } from "./lookup.js";

/** @import { Denial, Key, Overview, Series } from "../types.js" */

const slots = 180; // steps in 15 minutes

const rates = new Chart($("rate-plot"), { label: "Decisions a second", names: ["asked", "denied"], classes: ["asked", "denied"], say: rate, filled: true, slots });
const times = new Chart($("latency-plot"), { label: "Time of a call", names: ["median", "99th percentile"], classes: ["median", "tail"], say: duration, filled: false, slots });

/** @param {Overview} o */
export function showNow(o) {
  const denying = o.denied.filter((d) => d.denying && !d.shadow);
  headline(o, denying);
  $("denied").hidden = o.denied.length === 0;
  keep(body("denied"), o.denied, keyOf, newDenial, (row, d) => showDenial(row, d, o));
  say($("denied-more"), o.denied_left_out ? `${o.denied_left_out} more limits deny less.` : "");

  // What goes by of the present step is the last value.
  rates.show([...o.all.asked_steps ?? [], o.all.asked_per_second].slice(-slots), [...o.all.denied_steps ?? [], o.all.denied_per_second].slice(-slots), o.step_seconds);
  times.show([...o.latency.p50_steps, o.latency.p50].slice(-slots), [...o.latency.p99_steps, o.latency.p99].slice(-slots), o.step_seconds);

  const series = nested(o.series);
  keep(body("series"), series.length ? series : [null], (s) => s ? keyOf(s) : "none", newSeries, (row, s) => showSeries(row, s, o));
  say($("series-more"), o.series_left_out ? `${o.series_left_out} more are asked less.` : "");
  keep(body("asked"), o.asked.length ? o.asked : [null], (k) => k ? k.namespace + "\0" + k.identifier : "none", newAsked, showAsked);
}

/** @param {string} id */
const body = (id) => /** @type {HTMLElement} */ ($(id).querySelector("tbody"));

/** @param {Series} s */
const keyOf = (s) => [s.kind, s.namespace, s.policy, s.limit].join("\0");

/** @param {Overview} o @param {Denial[]} denying */
function headline(o, denying) {
  const all = o.all, n = denying.length, lead = $("lead");
  const enforced = all.denied_per_second;
  const title = n === 0 ? "Nobody is being denied"
    : `${n === 1 ? "One limit denies" : n + " limits deny"} ${number(enforced)} requests a second`;
  say($("headline"), title);
  document.title = n ? `${rate(enforced)} denied · ratelimitd` : "ratelimitd";
  const worst = denying[0], ever = o.denied.find((d) => !d.shadow);
  /** @type {(string | Node)[]} */
  let text;
  if (worst) {
    const who = worst.identifiers[0];
    text = [`${percent(all.asked_per_second ? enforced / all.asked_per_second : 0)} of ${number(all.asked_per_second)} decisions a second. Most by `, make("strong", {}, titleOf(worst)),
      ...who ? [", most of all ", make("strong", {}, who.identifier)] : [], `, since ${clock(worst.denied_since ?? "")}.`];
  } else {
    text = [all.asked_per_second ? `${number(all.asked_per_second)} decisions a second. ` : "Nobody asks. ",
      ever ? `The last denial was at ${clock(ever.denied_last ?? "")}, by ${titleOf(ever)}.` : `No denial since ${clock(o.daemon.started)}, when the daemon started.`];
  }
  if (lead.textContent !== text.map((t) => typeof t === "string" ? t : t.textContent).join("")) lead.replaceChildren(...text);
  say($("news"), n ? "Denied by " + denying.slice(0, 5).map(titleOf).join(", ") : "Nobody is being denied");
}

/** @param {Series} s the limit in one line */
const titleOf = (s) => [s.namespace, s.policy, nameOf(s)].filter(Boolean).join(" / ");

/** @param {Series} s */
function nameOf(s) {
  switch (s.kind) {
    case "namespace": return "";
    case "inline": return "limits in requests";
    case "failure": return "failure policy";
    case "limit": return s.limit || "limit without a name";
    default: return s.limit ?? "";
  }
}

/** @param {Denial} d */
function newDenial(d) {
  const where = [d.namespace, d.policy].filter(Boolean).join(" / ");
  return make("tr", {},
    make("th", { scope: "row" }, make("span", { class: "path" }, where ? where + " / " : ""), make("span", { class: "name" }, nameOf(d)), make("span", { class: "sub" })),
    make("td", { class: "whom-cell" }, make("ul", { class: "whom" }), make("span", { class: "sub" })),
    make("td", { class: "since-cell" }, make("span", { class: "since" }), make("span", { class: "sub" })),
    make("td", { class: "n rate-cell" }, make("span", { class: "rate" })),
    make("td", { class: "n share" }),
    make("td", { class: "plot" }, newSpark()));
}

/** @param {HTMLTableRowElement} row @param {Denial} d @param {Overview} o */
function showDenial(row, d, o) {
  const [limit, whom, since, many, share, plot] = row.cells;
  const tags = d.shadow ? " · shadow mode: it denies nothing, but would" : "";
  row.className = d.shadow ? "shadow" : d.denying ? "" : "over";
  say(part(limit, ".sub"), (d.rule ?? what(d)) + tags);
  keep(part(whom, "ul"), d.identifiers.slice(0, 5), (k) => k.namespace + "\0" + k.identifier, newWhom, (li, k) => {
    say(part(li, ".n"), rate(k.per_second));
    li.title = (k.since ? `denied since ${clock(k.since)}` : "") + (k.limit && d.kind !== "limit" ? ` by ${k.limit}` : "");
  });
  const more = d.more_identifiers + Math.max(0, d.identifiers.length - 5);
  say(part(whom, "span.sub"), more ? `and ${more} more` : d.identifiers.length ? "" : d.denying && !d.shadow ? "nobody stands out" : "");
  const from = d.denied_since ?? "", to = d.denied_last ?? "";
  if (d.denying) {
    say(part(since, ".since"), clock(from));
    say(part(since, ".sub"), "for " + duration(Math.max(1, (Date.parse(o.at) - Date.parse(from)) / 1000)));
  } else {
    say(part(since, ".since"), `${clock(from)} to ${clock(to)}`);
    say(part(since, ".sub"), "over");
  }
  say(part(many, ".rate"), rate(d.denied_per_second));
  say(share, d.asked_per_second ? percent(d.denied_per_second / d.asked_per_second) : "");
  sparkOf(plot, d, o);
}

/** @param {Element} cell @param {Series} s @param {Overview} o with the rates at present as the last values */
function sparkOf(cell, s, o) {
  const many = slots / o.steps_shown;
  const svg = /** @type {SVGElement} */ (/** @type {unknown} */ (part(cell, "svg")));
  spark(svg, [...s.asked_steps ?? [], s.asked_per_second].slice(-many), [...s.denied_steps ?? [], s.denied_per_second].slice(-many), many);
}

/** @param {Denial} d what it is, if it has no rule */
const what = (d) => ({ failure: "the store failed, and on_error denies", inline: d.identifiers[0]?.limit ?? "", envoy: "limit of Envoy" })[/** @type {string} */ (d.kind)] ?? "not in the configuration any more";

/** @param {Element} e @param {string} selector @returns {HTMLElement} */
const part = (e, selector) => /** @type {HTMLElement} */ (e.querySelector(selector));

/** @param {Key} k */
const newWhom = (k) => make("li", {}, identifier(k), make("span", { class: "n" }));

/** @param {Key} k a button that looks the identifier up */
const identifier = (k) => make("button", { type: "button", class: "id", title: "Look up", click: () => lookUp(k) }, k.identifier);

/** @param {Series[]} all limits after their namespace, which are in the order of how much they are asked */
function nested(all) {
  /** @type {Map<string, Series[]>} */
  const within = new Map();
  for (const s of all) {
    if (s.kind === "namespace") within.set(s.namespace, [s, ...within.get(s.namespace) ?? []]);
    else if (s.kind !== "envoy") within.set(s.namespace, [...within.get(s.namespace) ?? [], s]);
  }
  return [...[...within.values()].flat(), ...all.filter((s) => s.kind === "envoy")];
}

/** @param {Series | null} s */
function newSeries(s) {
  if (!s) return make("tr", {}, make("td", { class: "empty", colspan: "4" }, "Nobody has asked in the last 15 minutes."));
  const name = s.kind === "limit" ? (s.policy ? s.policy + " / " : "") : "";
  return make("tr", { class: s.kind === "namespace" ? "of" : "limit" },
    make("th", { scope: "row" }, make("span", { class: "path" }, name), make("span", s.kind === "namespace" ? { class: "name" } : {}, s.kind === "namespace" ? s.namespace : nameOf(s))),
    make("td", { class: "n" }), make("td", { class: "n" }), make("td", { class: "plot" }, newSpark()));
}

/** @param {HTMLTableRowElement} row @param {Series | null} s @param {Overview} o */
function showSeries(row, s, o) {
  if (!s) return;
  const [, asked, denied, plot] = row.cells;
  const shadow = o.denied.some((d) => d.shadow && keyOf(d) === keyOf(s));
  row.classList.toggle("shadow", shadow);
  say(asked, rate(s.asked_per_second));
  say(denied, shadow ? `0/s, would ${rate(s.denied_per_second)}` : rate(s.denied_per_second));
  denied.className = s.denied_per_second && !shadow ? "n denies" : "n";
  sparkOf(plot, s, o);
}

/** @param {Key | null} k */
function newAsked(k) {
  if (!k) return make("tr", {}, make("td", { class: "empty", colspan: "2" }, "Nobody stands out."));
  return make("tr", {}, make("td", {}, identifier(k), make("span", { class: "sub" }, k.namespace)), make("td", { class: "n" }));
}

/** @param {HTMLTableRowElement} row @param {Key | null} k */
function showAsked(row, k) {
  if (k) say(row.cells[1], rate(k.per_second));
}
