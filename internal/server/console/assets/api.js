// Asks the daemon, and knows the token if it wants one.

const key = "ratelimitd token";

/** An answer of the daemon that is not what was asked for. */
export class Refused extends Error {
  /** @param {number} status @param {string} text */
  constructor(status, text) { super(text); this.status = status; }
}

/**
 * Asks a path of the admin port, and asks for a token if the port wants one.
 * @param {string} path
 * @param {{json?: unknown, body?: BodyInit, patience?: number}} [o] json is sent with POST; patience is in ms
 * @returns {Promise<Response>}
 */
export async function ask(path, o = {}) {
  for (let wrong = ""; ; wrong = "The port refuses this token.") {
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json" };
    const token = sessionStorage.getItem(key);
    if (token) headers.Authorization = "Bearer " + token;
    /** @type {RequestInit} */
    const request = { headers, cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(o.patience ?? 30000) };
    if (o.json !== undefined) {
      headers["Content-Type"] = "application/json";
      Object.assign(request, { method: "POST", body: JSON.stringify(o.json) });
    } else if (o.body !== undefined) {
      headers["Content-Type"] = "application/octet-stream";
      Object.assign(request, { method: "POST", body: o.body });
    }
    const reply = await fetch(path, request);
    if (reply.ok) return reply;
    const why = await reason(reply);
    if (reply.status !== 401) throw new Refused(reply.status, why);
    await login(token ? wrong || why : "");
  }
}

/** @param {string} path @param {unknown} json @returns {Promise<any>} */
export const post = async (path, json) => (await ask(path, { json })).json();

/** @param {Response} reply */
async function reason(reply) {
  const text = await reply.text();
  try {
    return String(JSON.parse(text).message ?? text);
  } catch {
    return text.trim() || reply.statusText;
  }
}

/** @type {Promise<void> | null} */
let asking = null;

/**
 * Waits until somebody has given a token.
 * @param {string} wrong what was wrong with the last one
 */
function login(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("login"));
    const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
    const field = /** @type {HTMLInputElement} */ (form.elements.namedItem("token"));
    const says = /** @type {HTMLElement} */ (dialog.querySelector(".wrong"));
    says.textContent = wrong;
    dialog.oncancel = (e) => e.preventDefault();
    form.onsubmit = (e) => {
      e.preventDefault();
      sessionStorage.setItem(key, field.value.trim());
      field.value = "";
      dialog.close();
      asking = null;
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}
