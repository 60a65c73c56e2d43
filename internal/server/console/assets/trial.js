// Tries a configuration: what is wrong with it, what identifiers would get, and what it would
// have done to the requests of a log. The daemon does not change.
import { ask, post } from "./api.js";
import { $, make, say } from "./dom.js";
import { count, number, percent } from "./format.js";
import { shown } from "./lookup.js";

/** @import { Problem, Trials, Verdict } from "../types.js" */

const yaml = /** @type {HTMLTextAreaElement} */ (/** @type {unknown} */ ($("yaml")));
const form = /** @type {HTMLFormElement} */ (/** @type {unknown} */ ($("try-form")));
const replayForm = /** @type {HTMLFormElement} */ (/** @type {unknown} */ ($("replay-form")));
const drop = $("drop");
const maxLogBytes = 64 << 20;

/** @param {HTMLFormElement} of @param {string} name @returns {any} */
const field = (of, name) => of.elements.namedItem(name);

/** @type {Verdict | null} */
let verdict = null;
/** @type {number | undefined} */
let timer;
let asked = 0;

yaml.addEventListener("input", () => {
  lines([]);
  clearTimeout(timer);
  timer = setTimeout(validate, 300);
});
yaml.addEventListener("scroll", () => { $("gutter").scrollTop = yaml.scrollTop; });
$("load-policies").addEventListener("click", async () => {
  try {
    const text = await (await ask("/console/policies")).text();
    yaml.value = text ? "namespaces:\n" + text.trimEnd().split("\n").map((l) => "  " + l).join("\n") + "\n" : "namespaces: {}\n";
    validate();
  } catch (e) {
    say($("verdict"), message(e));
  }
});

/** @param {unknown} e */
const message = (e) => String(/** @type {Error} */ (e).message);

/** @param {Problem[]} problems numbers the lines, and marks those that are wrong */
function lines(problems) {
  const wrong = new Set(problems.map((p) => p.line)), n = yaml.value.split("\n").length;
  $("gutter").replaceChildren(...Array.from({ length: n }, (_, i) => make("span", wrong.has(i + 1) ? { class: "bad" } : {}, i + 1 + "\n")));
  $("gutter").scrollTop = yaml.scrollTop;
}
lines([]);

async function validate() {
  const mine = ++asked;
  if (!yaml.value.trim()) {
    verdict = null;
    show("", "Paste or write a configuration.", []);
    return choose();
  }
  try {
    /** @type {Verdict} */
    const v = await post("/console/validate", { yaml: yaml.value });
    if (mine !== asked) return;
    verdict = v;
    const n = v.problems.length;
    if (n) show("wrong", n === 1 ? "One problem" : count(n, "problem"), v.problems);
    else if (v.kind === "envoy") show("good", "Nothing is wrong with this file of Envoy's. Its limits cannot be tried here.", []);
    else show("good", "Nothing is wrong." + v.warnings.map((w) => " But " + w + ".").join(""), []);
  } catch (e) {
    if (mine !== asked) return;
    verdict = null;
    show("wrong", message(e), []);
  }
  choose();
}

/** @param {string} kind @param {string} text @param {Problem[]} problems */
function show(kind, text, problems) {
  $("verdict").className = kind;
  say($("verdict"), text);
  lines(problems);
  $("problems").replaceChildren(...problems.map((p) => make("li", {},
    make("button", { type: "button", click: () => goTo(p) }, p.line ? make("span", { class: "at" }, `line ${p.line}, column ${p.column}`) : null, p.text,
      p.source ? make("code", {}, p.source.trim()) : null))));
}

/** @param {Problem} p puts the cursor where it is */
function goTo(p) {
  if (!p.line) return;
  const all = yaml.value.split("\n"), before = all.slice(0, p.line - 1).join("\n").length + (p.line > 1 ? 1 : 0);
  const at = before + Math.max(0, p.column - 1);
  yaml.focus();
  yaml.setSelectionRange(at, before + (all[p.line - 1] ?? "").length);
  yaml.scrollTop = Math.max(0, (p.line - 4) * parseFloat(getComputedStyle(yaml).lineHeight));
}

/** Offers the namespaces and policies of the configuration. */
function choose() {
  const namespace = field(form, "namespace"), policy = field(form, "policy"), known = verdict?.namespaces ?? [];
  options(namespace, known.map((n) => n.name));
  options(policy, known.find((n) => n.name === namespace.value)?.policies ?? []);
  for (const f of [form, replayForm]) f.querySelector("button[type=submit]")?.toggleAttribute("disabled", !policy.value);
}
field(form, "namespace").addEventListener("change", choose);
choose();

/** @param {HTMLSelectElement} select @param {string[]} names */
function options(select, names) {
  const was = select.value;
  select.replaceChildren(...names.map((n) => make("option", {}, n)));
  if (names.includes(was)) select.value = was;
}

form.addEventListener("submit", async (e) => {
  e.preventDefault();
  const cost = Number(field(form, "cost").value);
  const identifiers = field(form, "identifiers").value.split("\n").map((/** @type {string} */ l) => l.trim()).filter(Boolean);
  try {
    /** @type {Trials} */
    const { trials } = await post("/console/try", { yaml: yaml.value, namespace: field(form, "namespace").value, policy: field(form, "policy").value, identifiers, cost });
    $("try-result").replaceChildren(...trials.flatMap((t) => [
      make("h2", { class: "answer" }, t.identifier + (t.exempt === null && t.at_once !== null ? `: ${count(t.at_once, "such request")} at once` : "")), ...shown(t, null),
    ]));
  } catch (e) {
    $("try-result").replaceChildren(make("p", { class: "wrong" }, message(e)));
  }
});

for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (e) => { e.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (e) => {
  e.preventDefault();
  const files = /** @type {DragEvent} */ (e).dataTransfer?.files;
  if (files?.length) {
    field(replayForm, "log").files = files;
    replayForm.requestSubmit();
  }
});

replayForm.addEventListener("submit", async (e) => {
  e.preventDefault();
  const into = $("replay-result"), file = field(replayForm, "log").files[0];
  if (!verdict || verdict.problems.length || !field(form, "policy").value) return into.replaceChildren(make("p", { class: "wrong" }, "First paste a configuration that has a policy."));
  if (!file) return into.replaceChildren(make("p", { class: "wrong" }, "Choose or drop a log first."));
  if (file.size > maxLogBytes) return into.replaceChildren(make("p", { class: "wrong" }, "The log has more than 64 MiB. Replay it with the command ratelimitd replay."));
  into.replaceChildren(make("p", { class: "soft" }, `Replaying ${file.name} …`));
  const data = new FormData();
  data.append("yaml", yaml.value);
  data.append("namespace", field(form, "namespace").value);
  data.append("policy", field(form, "policy").value);
  data.append("identifier", field(replayForm, "identifier").value);
  data.append("log", file);
  try {
    const { report, page } = await (await ask("/console/replay", { body: data, patience: 90000 })).json();
    into.replaceChildren(...replayed(report, page));
  } catch (e) {
    into.replaceChildren(make("p", { class: "wrong" }, message(e)));
  }
});

/** @param {string} at */
const when = (at) => at.replace("T", " ").slice(0, 19) + " UTC";

/** @type {string | null} */
let last = null; // the address of the last report

/** @param {any} r as ratelimitd replay --json prints it @param {string} page the report of --html */
function replayed(r, page) {
  if (last) URL.revokeObjectURL(last);
  last = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  const denied = r.outcomes.denied ?? 0;
  const all = [make("div", { class: "panel" },
    make("p", {}, make("strong", {}, `${number(denied)} of ${number(r.records)} requests would have been denied`), ` (${percent(r.records ? denied / r.records : 0)}), ` +
      `of ${count(r.identifiers, "identifier")}${r.from ? `, from ${when(r.from)} to ${when(r.to)}` : ""}. ${count(r.unread, "line")} could not be read.`),
    ...r.unread_lines.map((/** @type {any} */ u) => make("p", { class: "soft" }, `${number(u.count)} × ${u.kind}: `, make("code", {}, u.example))),
    make("p", { class: "buttons" }, make("a", { href: last, download: "replay.html" }, "Save the report with plots")))];
  for (const l of r.limits) {
    all.push(make("table", { class: "panel rows answer" }, make("caption", {}, `${l.namespace} / ${l.policy} / ${l.limit}: ${l.rate} ${l.strategy} denies ${count(l.denied, "request")} of ${count(l.identifiers_denied, "identifier")}`),
      make("thead", {}, make("tr", {}, ...["Denied most", "Asked", "Denied", "First denied", "Most in a period"].map((t, i) => make("th", { scope: "col", ...[1, 2, 4].includes(i) ? { class: "n" } : {} }, t)))),
      make("tbody", {}, ...l.denied_most.length ? l.denied_most.map((/** @type {any} */ h) => make("tr", {},
        make("th", { scope: "row", class: "id" }, h.identifier), make("td", { class: "n" }, number(h.asked)), make("td", { class: "n denies" }, number(h.denied)),
        make("td", {}, when(h.first_denied)), make("td", { class: "n" }, `${number(h.peak)}, ${number(h.over)} × the limit`)))
        : [make("tr", {}, make("td", { class: "empty", colspan: "5" }, "It denies nobody."))])));
  }
  return all;
}
