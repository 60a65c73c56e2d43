// Makes elements. Texts are only ever texts: nothing here makes HTML of them.

/** @typedef {Node | string | number | null | undefined} Child */

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | boolean | EventListener>} [attributes] a function is a listener
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, value);
  }
  add(element, children);
  return element;
}

/** @param {Element} to @param {Child[]} children */
function add(to, children) {
  for (const child of children) {
    if (child !== null && child !== undefined) to.append(typeof child === "number" ? String(child) : child);
  }
}

/**
 * The element of an id, which the page has.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export const $ = (id) => /** @type {T} */ (/** @type {unknown} */ (document.getElementById(id)));

/** @param {Element} element @param {string} text sets it only if it differs, so that a selection stays */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of an element those of items, in order. A child stays the same element
 * while its item has the same key, so that the focus stays where it is.
 * @template I
 * @param {Element} parent
 * @param {I[]} items
 * @param {(item: I) => string} keyOf
 * @param {(item: I) => Element} create
 * @param {(element: any, item: I) => void} update
 */
export function keep(parent, items, keyOf, create, update) {
  /** @type {Map<string, Element>} */
  const had = new Map();
  for (const child of parent.children) had.set(/** @type {HTMLElement} */ (child).dataset.key ?? "", child);
  /** @type {Element | null} */
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let element = had.get(key);
    had.delete(key);
    if (!element) {
      element = create(item);
      /** @type {HTMLElement} */ (element).dataset.key = key;
    }
    update(element, item);
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
  for (const left of had.values()) left.remove();
}

/**
 * Asks a question, and whether the answer was yes.
 * @param {string} title @param {string} text
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text) {
  const dialog = /** @type {HTMLDialogElement} */ ($("ask"));
  const form = /** @type {HTMLFormElement} */ (dialog.querySelector("form"));
  say(/** @type {Element} */ (dialog.querySelector("h2")), title);
  say(/** @type {Element} */ (dialog.querySelector("p")), text);
  return new Promise((resolve) => {
    let yes = false;
    form.onsubmit = (e) => { e.preventDefault(); yes = true; dialog.close(); };
    /** @type {HTMLButtonElement} */ (form.querySelector("button[value=no]")).onclick = () => dialog.close();
    dialog.onclose = () => resolve(yes);
    dialog.showModal();
  });
}
