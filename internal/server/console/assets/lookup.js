// Looks an identifier up, and resets it.
import { post } from "./api.js";
import { $, confirmed, keep, make } from "./dom.js";
import { duration, exact, number } from "./format.js";
import { node } from "./plot.js";

/** @import { Finding, Key, LimitAnswer, PolicyAnswer } from "../types.js" */

const form = /** @type {HTMLFormElement} */ (/** @type {unknown} */ ($("look-up-form")));
const descriptor = /** @type {HTMLFormElement} */ (/** @type {unknown} */ ($("descriptor-form")));
const result = $("look-up-result");

/** @param {string} name @param {HTMLFormElement} [of] @returns {HTMLInputElement} */
const field = (name, of = form) => /** @type {HTMLInputElement} */ (of.elements.namedItem(name));

/** @type {string[]} */
let domains = [];

/** @param {string[]} names the domains of Envoy that are in force */
export function knowDomains(names) {
  domains = names;
  descriptor.hidden = names.length === 0;
  keep($("domains"), names, (n) => n, (n) => make("option", { value: n }), () => {});
}

/** @param {Key} k goes to the view with an identifier of the first screen */
export function lookUp(k) {
  location.hash = "#look-up";
  if (!k.policy && domains.includes(k.namespace) && k.identifier.includes("=")) {
    descriptor.reset();
    field("domain", descriptor).value = k.namespace;
    field("entries", descriptor).value = k.identifier.split(",").map(unescaped).join("\n");
    descriptor.requestSubmit();
    return;
  }
  form.reset();
  field("namespace").value = k.namespace;
  field("identifier").value = k.identifier;
  const inline = k.policy ? null : /^([a-z_]+):([^:@]+)(?::(\d+))?$/.exec(k.limit ?? "");
  if (inline) [field("strategy").value, field("rate").value, field("burst").value] = [inline[1], inline[2], inline[3] ?? "0"];
  /** @type {HTMLDetailsElement} */ (form.querySelector("details")).open = !!inline;
  form.requestSubmit();
}

/** @param {string} entry of an identifier, which has %XX for what has a meaning there */
function unescaped(entry) {
  try {
    return decodeURIComponent(entry);
  } catch {
    return entry;
  }
}

/** @typedef {Record<string, string | number | string[]>} Question */

/** @returns {Question} what the form asks */
const question = () => ({
  namespace: field("namespace").value, identifier: field("identifier").value, cost: Number(field("cost").value),
  ...field("rate").value ? { rate: field("rate").value, strategy: field("strategy").value, burst: Number(field("burst").value), name: field("name").value } : {},
});

/** @returns {Question} what the form of a descriptor asks */
const ofDescriptor = () => ({
  namespace: field("domain", descriptor).value, cost: Number(field("cost", descriptor).value),
  entries: field("entries", descriptor).value.split("\n").map((e) => e.trim()).filter(Boolean),
});

let asked = 0;

form.addEventListener("submit", (e) => {
  e.preventDefault();
  show(question(), "");
});
descriptor.addEventListener("submit", (e) => {
  e.preventDefault();
  show(ofDescriptor(), "");
});

/** @param {Question} q @param {string} done what was done before */
async function show(q, done) {
  const mine = ++asked;
  try {
    /** @type {Finding} */
    const found = await post("/console/look-up", q);
    if (mine === asked) result.replaceChildren(...done ? [make("p", { class: "good" }, done)] : [], ...shown(found, (f, p) => reset(q, f, p)));
  } catch (e) {
    if (mine === asked) result.replaceChildren(make("p", { class: "wrong" }, String(/** @type {Error} */ (e).message)));
  }
  if (done && mine === asked) focus(result); // the button that was pressed is gone
}

/** @param {Question} q @param {Finding} f @param {PolicyAnswer} p */
async function reset(q, f, p) {
  const of = p.policy ? `policy ${p.policy} of namespace ${f.namespace}` : p.rule ? `the limit ${p.rule} of Envoy` : `this limit in namespace ${f.namespace}`;
  if (!await confirmed(`Reset ${f.identifier}?`, `It can use its limits of ${of} again at once, as if it had never asked. The log says that you did this. It cannot be undone.`)) return;
  try {
    await post("/console/reset", { ...q, ...p.policy ? { policy: p.policy } : {} });
    show(q, `${f.identifier} was reset.`);
  } catch (e) {
    result.prepend(make("p", { class: "wrong" }, String(/** @type {Error} */ (e).message)));
  }
}

/** @param {HTMLElement} element gets the focus, so that what is done next begins there */
function focus(element) {
  element.tabIndex = -1;
  element.focus({ preventScroll: true });
}

/**
 * The elements that show a finding.
 * @param {Finding} f
 * @param {((f: Finding, p: PolicyAnswer) => void) | null} onReset
 */
export function shown(f, onReset) {
  /** @type {HTMLElement[]} */
  const all = [];
  if (f.exempt !== null) {
    all.push(make("p", { class: "panel answer" }, make("span", { class: "verdict yes" }, "Exempt. "), `No limit applies to it, because ${f.exempt} in exempt matches it.`));
  }
  if (f.policies[0]?.rule) all.push(make("p", { class: "soft" }, `The counter of ${f.identifier} in the domain ${f.namespace}.`));
  for (const p of f.policies) all.push(policy(f, p, f.exempt === null ? onReset : null));
  if (f.left_out) all.push(make("p", { class: "soft" }, `${f.left_out} more policies are not shown.`));
  return all;
}

/** @param {Finding} f @param {PolicyAnswer} p @param {((f: Finding, p: PolicyAnswer) => void) | null} onReset */
function policy(f, p, onReset) {
  const name = p.policy ? "Policy " + p.policy : p.rule ? "Limit " + p.rule : "Limit in the request";
  const head = make("div", { class: "head" }, make("h2", {}, name),
    p.override ? make("span", { class: "tag" }, "override " + p.override) : null,
    p.quota ? make("span", { class: "tag" }, "quota") : null,
    p.problem ? null : make("span", { class: "verdict " + (p.allowed ? "yes" : "no") }, verdict(f, p)),
    onReset && !p.problem ? make("button", { type: "button", click: () => onReset(f, p) }, "Reset …") : null);
  if (p.problem) return make("div", { class: "panel answer" }, head, make("p", { class: "wrong" }, p.problem));
  if (!p.limits.length) return make("div", { class: "panel answer" }, head);
  return make("div", { class: "panel answer" }, head, make("table", { "aria-label": `Limits of ${name}` },
    make("thead", {}, make("tr", {}, ...["Limit", "Left", "Wholly free", "This request"].map((t, i) => make("th", { scope: "col", ...i === 1 ? { class: "n" } : {} }, t)))),
    make("tbody", {}, ...p.limits.map(limit))));
}

/** @param {Finding} f @param {PolicyAnswer} p */
function verdict(f, p) {
  const what = f.cost === 1 ? "A request" : `A request of cost ${number(f.cost)}`;
  if (p.outcome.startsWith("failed") || p.outcome.startsWith("local")) return `The store failed. ${what} is ${p.allowed ? "allowed" : "denied"} by on_error.`;
  if (p.allowed) return `${what} would be allowed${p.outcome === "shadow" ? ", because the limit is in shadow mode" : ""}.`;
  return p.never ? `${what} would be denied, however long it waits.` : `${what} would be denied, for ${duration(p.retry_after_seconds ?? 0)}.`;
}

/** @param {LimitAnswer} l */
function limit(l) {
  const name = make("th", { scope: "row" }, make("span", { class: "name" }, l.limit), l.shadow ? make("span", { class: "tag" }, "shadow") : null, make("span", { class: "sub" }, l.rule));
  if (l.unlimited) return make("tr", {}, name, make("td", { class: "n" }, "all"), make("td", {}, ""), make("td", {}, "allowed"));
  const svg = node("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(node("rect", { width: l.most ? 100 * l.remaining / l.most : 0, height: 1 }));
  const left = l.debt ? `${exact(l.debt)} owed` : `${exact(l.remaining)} of ${exact(l.most)}`;
  const free = l.reset_after_seconds ? "in " + duration(l.reset_after_seconds) : "now";
  const answer = l.allowed ? "allowed" : l.never ? "never: the cost is above the limit" : "denied for " + duration(l.retry_after_seconds ?? 0);
  return make("tr", {}, name,
    make("td", { class: "n" }, left, make("span", { class: l.remaining ? "meter" : "meter out" }, /** @type {any} */ (svg))),
    make("td", {}, free), make("td", l.allowed ? {} : { class: "denies" }, answer));
}
