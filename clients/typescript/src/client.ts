import type * as api from "./api.js";
import { askAlone, Batcher } from "./batcher.js";
import type { EncodedRequest, Patience } from "./batcher.js";
import { callErrorOf, Connection } from "./connection.js";
import type { ConnectionOptions } from "./connection.js";
import { Denials } from "./denials.js";
import type { Limit } from "./limit.js";
import { checkTimeout, Limiter } from "./limiter.js";
import type { Backend, ResultEvent } from "./limiter.js";
import { plainResult } from "./result.js";
import type { CallError, Result } from "./result.js";

/** How to reach the daemons, and what to do when none answers. The default is a daemon on this machine. */
export interface ClientOptions extends ConnectionOptions {
  /** The longest that a call waits for its answer, in ms. Absent: 50, for as long as the daemon waits for its store. */
  timeout?: number;
  /** Answers a call that gets no answer in time. "allow", the default, lets everybody pass while no daemon answers; "deny" nobody. */
  onFailure?: "allow" | "deny";
  /** How many denials are remembered: see `Limiter.allow`. Absent: 10,000. 0: none. */
  maxDenials?: number;
  /** Sends each call on its own. Otherwise calls that are made at the same time share the messages of one stream. */
  unary?: boolean;
  /** Is told every result, for metrics and logs. It must be quick. */
  onResult?: (event: ResultEvent) => void;
  /** Is told, once every 10 s at most, that the failure policy answers. Absent: console. */
  logger?: { warn(message: string): void };
}

/** How long, in ms, the log is not told of another failure. */
const quiet = 10_000;

/** Has the connections to the daemons, which its limiters share. A process needs one. It does not keep the process running. */
export class Client implements Backend {
  /** @internal */
  readonly connection: Connection;
  /** @internal */
  readonly denials: Denials | undefined;
  readonly #options: ClientOptions;
  readonly #timeout: number;
  readonly #batcher: Batcher;
  #closed = false;
  /** Failures since the log was last told of one. */
  #failures = 0;
  #told = -Infinity;

  /** It begins to connect, and does not wait for it. It throws if the options cannot be. */
  constructor(options: ClientOptions = {}) {
    const { timeout = 50, onFailure = "allow", maxDenials = 10_000 } = options;
    this.#options = options;
    this.#timeout = checkTimeout(timeout);
    if (onFailure !== "allow" && onFailure !== "deny") throw new RangeError(`ratelimitd: onFailure ${JSON.stringify(onFailure)}: must be "allow" or "deny"`);
    this.denials = maxDenials > 0 ? new Denials(maxDenials) : undefined;
    this.connection = new Connection(options);
    this.#batcher = new Batcher(this.connection);
  }

  /** Returns a limiter that holds identifiers to limits, from 1 to 16: a call is allowed if each of them allows it. */
  limiter(namespace: string, ...limits: (string | Limit)[]): Limiter {
    const all = limits.map((limit): Limit => (typeof limit === "string" ? { rate: limit } : { ...limit }));
    return new Limiter(this, { namespace, limits: all, policy: "", timeout: this.#timeout });
  }

  /** Returns a limiter that holds identifiers to a policy of the daemon's configuration. */
  policy(namespace: string, policy: string): Limiter {
    return new Limiter(this, { namespace, limits: [], policy, timeout: this.#timeout });
  }

  /** Closes the connections. The failure policy answers calls under way, and later ones. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#batcher.close();
    this.connection.close();
  }

  /** @internal Returns the answer to a request. It throws a CallError. */
  decide(request: EncodedRequest, patience: Patience): Promise<api.ShouldAllowResponse> {
    if (!this.#options.unary) return this.#batcher.ask(request, patience);
    return askAlone(this.connection, request, { deadline: Date.now() + patience.timeout, signal: patience.signal });
  }

  /** @internal Returns the result of a call, or that of the failure policy. */
  async answered(call: Promise<Result>): Promise<Result> {
    try {
      return await call;
    } catch (thrown) {
      const error = callErrorOf(thrown);
      if (error.code !== "CANCELLED") this.#log(error); // and not of callers that went away
      return plainResult((this.#options.onFailure ?? "allow") === "allow", "FAILURE", error);
    }
  }

  /** @internal */
  tell(event: ResultEvent): void {
    try {
      this.#options.onResult?.(event);
    } catch (error) {
      this.#log(callErrorOf(error)); // a fault in a hook is no fault of the request
    }
  }

  #log(error: CallError): void {
    this.#failures++;
    const now = performance.now();
    if (now - this.#told < quiet) return;
    const { onFailure = "allow", logger = console } = this.#options;
    logger.warn(`ratelimitd gives no answer: the failure policy decides (${onFailure}); calls: ${this.#failures}; ${error.code}: ${error.message}`);
    this.#told = now;
    this.#failures = 0;
  }
}
