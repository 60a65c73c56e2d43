import { createHash } from "node:crypto";
import { setTimeout as sleepFor } from "node:timers/promises";

import protobuf from "protobufjs/minimal.js";

import * as api from "./api.js";
import type { EncodedRequest, Patience } from "./batcher.js";
import { cancelled } from "./connection.js";
import type { Connection } from "./connection.js";
import type { Denials, Recollection } from "./denials.js";
import { isCount, messageOf } from "./limit.js";
import type { Limit } from "./limit.js";
import { CallError, plainResult, resultOf, timestampOf } from "./result.js";
import type { Result } from "./result.js";

/** The identifier of whoever has no limit: it is allowed without a call. No header and no address is this. */
export const EXEMPT = "\u0000exempt";

/** How many bytes an identifier may have for the daemon. */
const maxIdentifier = 1024;

/** Spreads those who wait for the same instant. In ms. */
const maxJitter = 100;

/** What the caller of a call may say. */
export interface CallOptions {
  /** Ends the call early. */
  signal?: AbortSignal | undefined;
}

export type Operation = "allow" | "check" | "charge" | "refund" | "reserve" | "commit" | "cancel" | "reset";

/** One call and its result. */
export interface ResultEvent {
  operation: Operation;
  namespace: string;
  /** "" if the limiter has limits of its own. */
  policy: string;
  /** As it was given. A label of a metric must not have it: there may be any number. */
  identifier: string;
  result: Result;
  /** In ms. */
  took: number;
}

/** What a limiter needs of its client. */
export interface Backend {
  /** @internal */
  readonly connection: Connection;
  /** @internal */
  readonly denials: Denials | undefined;
  /** @internal Returns the answer to a request. It throws a CallError. */
  decide(request: EncodedRequest, patience: Patience): Promise<api.ShouldAllowResponse>;
  /** @internal Returns the result of a call, or that of the failure policy. */
  answered(call: Promise<Result>): Promise<Result>;
  /** @internal Tells a result to whoever wants to know. */
  tell(event: ResultEvent): void;
}

/** What a limiter is bound to. */
export interface Binding {
  namespace: string;
  limits: readonly Limit[];
  policy: string;
  timeout: number;
}

/**
 * Holds identifiers to limits, or to a policy. `Client.limiter` and `Client.policy` make it; make it once, and use it for
 * all calls.
 *
 * No call throws: if there is no answer, the failure policy of the client decides, and the result has the error. An
 * identifier that is longer than 1,024 bytes stands for itself by its SHA-256, so that nobody gets rid of a limit by a
 * name that the daemon would refuse.
 */
export class Limiter {
  readonly #client: Backend;
  readonly #binding: Binding;
  readonly #message: api.ShouldAllowRequest;
  readonly #head: Buffer;
  readonly #key: string;

  /** @internal */
  constructor(client: Backend, binding: Binding) {
    this.#client = client;
    this.#binding = binding;
    const { namespace, policy, limits } = binding;
    this.#message = { namespace, policy, limits: limits.map(messageOf) };
    this.#head = encoded(api.writeShouldAllowRequest, this.#message);
    this.#key = `${namespace.length}:${namespace}`; // unambiguous, whatever is in it
  }

  get namespace(): string {
    return this.#binding.namespace;
  }

  /** None if it is bound to a policy. */
  get limits(): readonly Limit[] {
    return this.#binding.limits;
  }

  /** Returns a limiter like this one whose calls wait for their answer for no more than so many ms. */
  timeout(ms: number): Limiter {
    return new Limiter(this.#client, { ...this.#binding, timeout: checkTimeout(ms) });
  }

  /**
   * Asks whether an identifier may do now what costs so many units, and consumes them if it may. A denial is remembered
   * until its retryAfter, for a second at most, and is repeated without a call.
   */
  allow(identifier: string, cost = 1, options?: CallOptions): Promise<Result> {
    return this.#take("allow", identifier, cost, options);
  }

  /** Is `allow`, but consumes nothing. With the cost 0 it is allowed, and says what is left. */
  check(identifier: string, cost = 1, options?: CallOptions): Promise<Result> {
    return this.#take("check", identifier, cost, options);
  }

  /** Consumes what has already happened, whatever is left: it may leave debt. It is allowed if it was within the limits. */
  charge(identifier: string, cost: number, options?: CallOptions): Promise<Result> {
    return this.#report("charge", identifier, { cost, mode: api.Mode.CHARGE }, options);
  }

  /** Gives back. `consumedAt` is the decidedAt of the result that consumed; absent is just now. */
  refund(identifier: string, cost: number, consumedAt?: Date, options?: CallOptions): Promise<Result> {
    return this.#report("refund", identifier, { cost, mode: api.Mode.REFUND, consumedAt: consumedAt && timestampOf(consumedAt) }, options);
  }

  /** Forgets what an identifier has consumed. The daemon must permit it. It returns what went wrong, if anything. */
  async reset(identifier: string, options?: CallOptions): Promise<CallError | undefined> {
    const id = wellFormed(identifier);
    const request = encoded(api.writeResetRequest, { ...this.#message, identifier: id });
    const result = await this.#freeing("reset", identifier, async () => {
      await this.#unary(api.method.Reset, request, options);
      return plainResult(true, "REASON_UNSPECIFIED");
    });
    return result.error;
  }

  /** Asks whether an identifier may do now what will cost about so many units, and consumes them if it may. */
  async reserve(identifier: string, estimate: number, options?: CallOptions): Promise<Reservation> {
    const began = performance.now();
    let id: Uint8Array | undefined;
    const ask = async (): Promise<Result> => {
      if (identifier === EXEMPT) return plainResult(true, "EXEMPT");
      const request = { ...this.#message, identifier: wellFormed(identifier), cost: checkCost(estimate) };
      const answer = await this.#unary(api.method.Reserve, encoded(api.writeReserveRequest, { request }), options);
      const { reservation, response } = api.readReserveResponse(protobuf.Reader.create(answer));
      if (response === undefined) throw new CallError("INTERNAL", "the daemon's answer is empty");
      if (reservation.length > 0) id = Buffer.from(reservation);
      return resultOf(response);
    };
    const result = await this.#client.answered(ask());
    this.#told("reserve", identifier, result, began);
    return new Reservation(this, identifier, result, id);
  }

  /** Returns the reservation of an ID, so that another process than the one that made it can settle it. */
  reservation(identifier: string, id: Uint8Array): Reservation {
    return new Reservation(this, identifier, plainResult(true, "REASON_UNSPECIFIED"), id);
  }

  /**
   * Is `allow` for a caller that can wait, for so many ms at most: it asks again when a denial says to, a little later
   * at random, and holds an allowed call for its delay. It returns a denial at once if waiting is of no use, or would
   * take longer.
   */
  async wait(identifier: string, max: number, cost = 1, options?: CallOptions): Promise<Result> {
    const end = performance.now() + max;
    for (;;) {
      const result = await this.allow(identifier, cost, options);
      if (result.error !== undefined) return result;
      const left = end - performance.now();
      let pause = result.allowed ? result.delay : result.retryAfter;
      if (pause <= 0) return result; // also if the answer has come late: what is allowed may be done now
      if (result.allowed && pause > left) {
        // Its turn comes too late: somebody else may have it.
        await this.refund(identifier, cost, result.decidedAt, options);
        return { ...result, allowed: false, reason: "OVER_LIMIT", retryAfter: pause, delay: 0 };
      }
      if (pause > left) return result;
      if (!result.allowed) pause += Math.random() * Math.min(maxJitter, pause / 10, left - pause);
      if (!(await sleep(pause, options?.signal))) return { ...result, allowed: false, error: cancelled() };
      if (result.allowed) return result;
    }
  }

  /** @internal Settles a reservation. */
  settle(operation: "commit" | "cancel", identifier: string, id: Uint8Array, actual: number, options?: CallOptions): Promise<Result> {
    return this.#freeing(operation, identifier, async () => {
      if (operation === "cancel") {
        await this.#unary(api.method.Cancel, encoded(api.writeCancelRequest, { reservation: id }), options);
        return plainResult(true, "REASON_UNSPECIFIED");
      }
      const request = encoded(api.writeCommitRequest, { reservation: id, actual: checkCost(actual) });
      const answer = await this.#unary(api.method.Commit, request, options);
      const { response } = api.readCommitResponse(protobuf.Reader.create(answer));
      if (response === undefined) throw new CallError("INTERNAL", "the daemon's answer is empty");
      return resultOf(response);
    });
  }

  /** Asks for a cost, and may answer from memory. */
  async #take(operation: "allow" | "check", identifier: string, cost: number, options?: CallOptions): Promise<Result> {
    const began = performance.now();
    if (identifier === EXEMPT) return this.#told(operation, identifier, plainResult(true, "EXEMPT"), began);
    const id = wellFormed(identifier);
    const memory = this.#client.denials;
    const key = this.#key + id;
    const known = memory?.recall(key, this.#message, cost);
    if (known !== undefined && "allowed" in known) return this.#told(operation, identifier, known, began);
    const result = await this.#ask({ identifier: id, cost, dryRun: operation === "check" }, options);
    if (memory !== undefined && !result.allowed) memory.remember(key, this.#message, cost, result, known as Recollection);
    return this.#told(operation, identifier, result, began);
  }

  /** Has the daemon count what may free an identifier. */
  async #report(operation: "charge" | "refund", identifier: string, request: api.ShouldAllowRequest, options?: CallOptions): Promise<Result> {
    if (identifier === EXEMPT) return this.#told(operation, identifier, plainResult(true, "EXEMPT"), performance.now());
    return this.#freeing(operation, identifier, () => this.#ask({ ...request, identifier: wellFormed(identifier) }, options));
  }

  /** Does what may free an identifier. */
  async #freeing(operation: Operation, identifier: string, ask: () => Promise<Result>): Promise<Result> {
    const began = performance.now();
    const key = this.#key + wellFormed(identifier);
    this.#client.denials?.forget(key);
    const result = await this.#client.answered(ask());
    this.#client.denials?.forget(key);
    return this.#told(operation, identifier, result, began);
  }

  /** Returns the answer to what is not in the head of the limiter; or that of the failure policy. */
  #ask(rest: api.ShouldAllowRequest, options?: CallOptions): Promise<Result> {
    const ask = async (): Promise<Result> => {
      checkCost(rest.cost ?? 1);
      const request = { head: this.#head, tail: encoded(api.writeShouldAllowRequest, rest) };
      return resultOf(await this.#client.decide(request, { timeout: this.#binding.timeout, signal: options?.signal }));
    };
    return this.#client.answered(ask());
  }

  #unary(path: string, request: Buffer, options: CallOptions | undefined): Promise<Buffer> {
    return this.#client.connection.unary(path, request, { deadline: Date.now() + this.#binding.timeout, signal: options?.signal });
  }

  /** Returns a result, of which it tells whoever wants to know. */
  #told(operation: Operation, identifier: string, result: Result, began: number): Result {
    const { namespace, policy } = this.#binding;
    this.#client.tell({ operation, namespace, policy, identifier, result, took: performance.now() - began });
    return result;
  }
}

/** Work whose cost is known only when it is done. `commit` or `cancel` settles it. One that nobody settles has cost its estimate. */
export class Reservation {
  /** Says whether the work may be done. */
  readonly result: Result;
  /** Settles the reservation, also in another process: see `Limiter.reservation`. undefined if there is nothing to settle. */
  readonly id: Uint8Array | undefined;
  readonly #limiter: Limiter;
  readonly #identifier: string;

  /** @internal */
  constructor(limiter: Limiter, identifier: string, result: Result, id: Uint8Array | undefined) {
    this.#limiter = limiter;
    this.#identifier = identifier;
    this.result = result;
    this.id = id;
  }

  /**
   * Settles it with what was really used. It counts once, so that it may be called again after an error. If no daemon
   * made the reservation, as none answered and the failure policy allowed the work, it charges what was used.
   */
  async commit(actual: number, options?: CallOptions): Promise<Result> {
    if (this.id !== undefined) return this.#limiter.settle("commit", this.#identifier, this.id, actual, options);
    if (this.result.reason === "FAILURE" && this.result.allowed) return this.#limiter.charge(this.#identifier, actual, options);
    return this.result;
  }

  /** Settles it: nothing was used. After an error it may be called again. It returns what went wrong, if anything. */
  async cancel(options?: CallOptions): Promise<CallError | undefined> {
    if (this.id === undefined) return undefined;
    return (await this.#limiter.settle("cancel", this.#identifier, this.id, 0, options)).error;
  }
}

function encoded<T>(write: (message: T, w: protobuf.Writer) => protobuf.Writer, message: T): Buffer {
  return write(message, protobuf.Writer.create()).finish() as Buffer;
}

/** Returns a cost that can be sent. */
function checkCost(cost: number): number {
  if (!isCount(cost)) throw new CallError("INVALID_ARGUMENT", `cost ${cost}: must be a whole number from 0, such as 1`);
  return cost;
}

/** The longest that Node's timers can wait, in ms. */
const longestTimer = 2 ** 31 - 1;

/** Returns a timeout that can be. */
export function checkTimeout(ms: number): number {
  if (!(ms > 0 && ms <= longestTimer)) throw new RangeError(`ratelimitd: timeout ${ms}: must be above 0, in milliseconds, such as 50`);
  return ms;
}

/** Waits so many ms. It is false if the signal ended that. */
export async function sleep(ms: number, signal?: AbortSignal): Promise<boolean> {
  try {
    for (; ms > longestTimer; ms -= longestTimer) await sleepFor(longestTimer, undefined, { signal });
    await sleepFor(Math.ceil(ms), undefined, { signal });
    return true;
  } catch {
    return false;
  }
}

/** Returns an identifier as the daemon takes it. */
function wellFormed(identifier: string): string {
  if (typeof identifier !== "string") identifier = String(identifier ?? ""); // from JavaScript: it is refused, or has its limit
  // Text may have halves of characters, which are nothing in UTF-8: each becomes U+FFFD.
  const id = Buffer.byteLength(identifier) > maxIdentifier ? `sha256:${createHash("sha256").update(identifier).digest("hex")}` : identifier;
  return id.replace(/\p{Surrogate}/gu, "\uFFFD");
}
