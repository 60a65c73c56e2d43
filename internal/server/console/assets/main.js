// Shows one view at a time, and asks the daemon for news.
import { ask } from "./api.js";
import { $, keep, make, say } from "./dom.js";
import { clock, duration } from "./format.js";
import { showDaemon } from "./daemon.js";
import { knowDomains } from "./lookup.js";
import { showNow } from "./now.js";
import "./trial.js";

/** @import { Overview } from "../types.js" */

const every = 2000; // ms
const views = ["now", "look-up", "try", "daemon"];

function view() {
  const wanted = location.hash.slice(1), name = views.includes(wanted) ? wanted : views[0];
  for (const v of views) {
    $("view-" + v).hidden = v !== name;
    const link = /** @type {HTMLElement} */ (document.querySelector(`nav a[href="#${v}"]`));
    if (v === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}
addEventListener("hashchange", () => { view(); $("main").focus({ preventScroll: true }); scrollTo(0, 0); });
view();

/** @param {Overview} o */
function show(o) {
  state(o);
  showNow(o);
  showDaemon(o);
  const names = [...new Set(o.series.map((s) => s.namespace).filter(Boolean))];
  knowDomains(o.configuration.domain_names);
  keep($("namespaces"), names, (n) => n, (n) => make("option", { value: n }), () => {});
}

/** @param {Overview} o */
function state(o) {
  const d = o.daemon, c = o.configuration;
  const broken = d.servers_gone > 0;
  $("state").replaceChildren(
    make("span", { class: broken ? "bad" : "good" }, broken ? `${d.store}: circuit breaker open, on_error ${d.on_error}` : d.store),
    make("span", {}, d.version), make("span", {}, "up " + duration((Date.parse(o.at) - Date.parse(d.started)) / 1000)));
  notice(c.refused ? `A new configuration was refused at ${clock(c.refused_at ?? "")}, and the old one stays in force. See Daemon.` : "");
}

/** @param {string} text */
function notice(text) {
  $("notice").hidden = !text;
  say($("notice"), text);
}

const pause = /** @type {HTMLButtonElement} */ (/** @type {unknown} */ ($("pause")));
let paused = false;
/** @type {number | undefined} */
let timer;

pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  say(pause, paused ? "Go on" : "Pause");
  if (!paused) look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });

let looking = false;

async function look() {
  clearTimeout(timer);
  if (looking || paused) return;
  looking = true;
  try {
    show(await (await ask("/console/overview")).json());
    document.body.dataset.ready = "true";
  } catch (e) {
    notice(`The daemon does not answer: ${/** @type {Error} */ (e).message}. What you see may be old.`);
  }
  looking = false;
  if (!document.hidden) timer = setTimeout(look, every);
}
look();
