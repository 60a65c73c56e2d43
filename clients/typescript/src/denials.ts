import type { Result, Status } from "./result.js";

/** For how many ms a denial is repeated from memory: for so long another process's reset may go unnoticed. */
const longest = 1000;

/** How many stripes tell whether an identifier may have been freed. */
const stripes = 256;

/** What a limiter was answered. */
interface Denial {
  limiter: object;
  cost: number;
  result: Result;
  asked: number;
  until: number;
}

/** What `remember` needs to know of when a call was made. */
export interface Recollection {
  asked: number;
  changes: number;
}

/**
 * The identifiers that were denied a short while ago. A denial stands until its retryAfter: what others consume can
 * only put that off. It says nothing of another cost, nor of other limits.
 */
export class Denials {
  readonly #most: number;
  readonly #known = new Map<string, Denial>();
  /** How often something may have freed an identifier: what was asked before that is not remembered after. */
  readonly #changes = new Uint32Array(stripes);

  constructor(most: number) {
    this.#most = most;
  }

  /** Returns the denial that is known to stand, or else what `remember` needs. `key` has the namespace and the identifier. */
  recall(key: string, limiter: object, cost: number): Result | Recollection {
    const now = performance.now();
    const of = this.#known.get(key);
    if (of !== undefined && now >= of.until) this.#known.delete(key);
    else if (of !== undefined && of.limiter === limiter && of.cost === cost) return older(of.result, now - of.asked);
    return { asked: now, changes: this.#changes[stripeOf(key)]! };
  }

  /**
   * Keeps the denial that a call was answered. One that the daemon repeats from its own memory is not kept, lest it
   * becomes older than `longest`: it does not say when it was decided.
   */
  remember(key: string, limiter: object, cost: number, result: Result, when: Recollection): void {
    if (result.allowed || result.reason !== "OVER_LIMIT" || result.decidedAt === undefined) return;
    let wait = Math.min(result.retryAfter, longest);
    for (const s of result.statuses) if (!s.allowed) wait = Math.min(wait, s.retryAfter); // of several, the first to change its answer
    const until = when.asked + wait;
    const now = performance.now();
    if (now >= until || this.#changes[stripeOf(key)] !== when.changes) return;
    this.#known.delete(key); // so that it is the youngest
    if (this.#known.size >= this.#most) this.#known.delete(this.#known.keys().next().value!); // the oldest
    this.#known.set(key, { limiter, cost, result: { ...result, remembered: true }, asked: when.asked, until });
  }

  /** Drops what is known of an identifier, which may have become free. */
  forget(key: string): void {
    this.#changes[stripeOf(key)]!++;
    this.#known.delete(key);
  }
}

/** Returns a denial as it is after `age`. */
function older(of: Result, age: number): Result {
  const left = (duration: number): number => Math.max(0, duration - age);
  return {
    ...of,
    retryAfter: left(of.retryAfter),
    statuses: of.statuses.map((s): Status => ({ ...s, resetAfter: left(s.resetAfter), retryAfter: left(s.retryAfter) })),
  };
}

/** Returns the stripe of a key, by its last letters. */
function stripeOf(key: string): number {
  let hash = key.length;
  for (let i = Math.max(0, key.length - 8); i < key.length; i++) hash = (hash * 31 + key.charCodeAt(i)) | 0;
  return hash & (stripes - 1);
}
