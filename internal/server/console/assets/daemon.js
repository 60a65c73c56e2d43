// The state of the process: its store, its configuration, its memory and its locks.
import { ask } from "./api.js";
import { $, make, say } from "./dom.js";
import { bytes, clock, duration, exact, number, percent, rate } from "./format.js";

/** @import { Overview } from "../types.js" */

/** @type {Overview | null} */
let before = null;
let version = "";

/** @param {Overview} o */
export function showDaemon(o) {
  const d = o.daemon, c = o.configuration;
  // What only grows, as a rate since the overview before.
  const since = before && before.daemon.started === d.started ? before : null;
  const seconds = since ? (Date.parse(o.at) - Date.parse(since.at)) / 1000 : 0;
  /** @param {"evictions" | "store_errors" | "deny_cache_hits" | "lock_contentions" | "lock_acquisitions" | "lock_wait_seconds"} name */
  const grows = (name) => since && seconds > 0 ? (d[name] - since.daemon[name]) / seconds : 0;
  before = o;
  const acquired = grows("lock_acquisitions");
  const perShard = d.lock_acquisitions / Math.max(1, d.shards);
  card("Store", [
    ["Store", d.store],
    ["Circuit breaker", !d.has_breaker ? "none: it is in this process" : d.servers_gone ? `open, for ${number(d.servers_gone)} of its servers` : "closed", d.servers_gone > 0],
    ["If the store fails", { allow: "allow", deny: "deny", error: "error", local: "count in memory" }[d.on_error] ?? d.on_error],
    ["Errors of the store", `${number(d.store_errors)} · ${rate(grows("store_errors"))}`, grows("store_errors") > 0],
    ["Denied without asking it", `${number(d.deny_cache_hits)} · ${rate(grows("deny_cache_hits"))}`],
  ]);
  card("Process", [
    ["Version", d.version], ["Started", clock(d.started)], ["Up for", duration((Date.parse(o.at) - Date.parse(d.started)) / 1000)],
    ["Memory of the process", d.process_bytes ? bytes(d.process_bytes) : "not measured"],
    ["Invalid requests", number(d.refused_requests)], ["Panics", number(d.panics), d.panics > 0],
  ]);
  card("Counters in memory", [
    ["Counters", exact(d.keys)], ["Room for", exact(d.max_keys)], ["Used", percent(d.max_keys ? d.keys / d.max_keys : 0)], ["Bytes", bytes(d.bytes)],
    ["Live ones evicted", `${number(d.evictions)} · ${rate(grows("evictions"))}`, grows("evictions") > 0],
    ["Of those, were denied", number(d.evictions_shut), d.evictions_shut > 0],
  ]);
  card("Locks", [
    ["Shards", number(d.shards)], ["Taken", rate(acquired)],
    ["Had to wait", percent(acquired ? grows("lock_contentions") / acquired : 0)],
    ["Waited", duration(grows("lock_wait_seconds")) + " a second"],
    ["Busiest shard", perShard ? `${(d.hottest_lock_acquisitions / perShard).toFixed(1)} × the mean` : "0"],
  ]);
  const config = card("Configuration", [
    ["Namespaces", number(c.namespaces)], ["Policies", number(c.policies)], ["Domains of Envoy", number(c.domains)],
    ["Version", c.version || "none: nothing is reloaded"], ["In force since", clock(c.since ?? d.started)],
    ["Last reload", c.refused ? `refused at ${clock(c.refused_at ?? "")}` : c.version ? "applied" : "none", !!c.refused],
  ]);
  refused(config, c.refused);
  policies(c.version + c.namespaces);
}

/** @param {HTMLElement} card @param {string} [why] */
function refused(card, why) {
  let pre = card.querySelector("pre");
  card.classList.toggle("span", !!why);
  if (!why) return pre?.remove();
  if (!pre) card.append(pre = make("pre", { class: "refused", tabindex: "0" }));
  say(pre, why);
}

/** @param {string} title @param {[string, string, boolean?][]} facts a bad one has true */
function card(title, facts) {
  const id = "card-" + title;
  let card = document.getElementById(id);
  if (!card) {
    card = make("div", { class: "panel", id }, make("h2", {}, title), make("dl", {}, ...facts.flatMap(([name]) => [make("dt", {}, name), make("dd")])));
    $("facts").append(card);
  }
  card.querySelectorAll("dd").forEach((dd, i) => {
    say(dd, facts[i][1]);
    dd.className = facts[i][2] ? "bad" : "";
  });
  return card;
}

/** @param {string} now asks for the policies if they are shown and are others than before */
async function policies(now) {
  const details = /** @type {HTMLDetailsElement} */ (/** @type {unknown} */ ($("policies")));
  details.ontoggle = () => policies(now);
  if (!details.open || version === now) return;
  version = now;
  const pre = /** @type {HTMLElement} */ (details.querySelector("pre"));
  try {
    say(pre, await (await ask("/console/policies")).text() || "None: callers send their own limits.");
  } catch (e) {
    version = "";
    say(pre, String(/** @type {Error} */ (e).message));
  }
}
