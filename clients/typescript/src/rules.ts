import { fieldsOf } from "./fields.js";
import type { Answer, Fields } from "./fields.js";
import { anonymous } from "./identity.js";
import type { Identifier } from "./identity.js";
import { sleep } from "./limiter.js";
import type { CallOptions, Limiter } from "./limiter.js";
import { plainResult } from "./result.js";
import type { Result } from "./result.js";

/** Say which requests are held to which limits. R is the request, and C what a handler is given beside it. */
export interface RulesOptions<R, C = unknown> {
  /** Are looked at in order. The first that matches a request holds; one that none matches has no limit. */
  rules: readonly Rule<R, C>[];
  /** Asks, and denies nobody: to try limits out. Responses say nothing of them. */
  shadow?: boolean;
  /** Is told each result, for metrics and logs. */
  onResult?: (request: R, limiter: Limiter, result: Result) => void;
}

/** The limits of some requests. */
export interface Rule<R, C = unknown> {
  /** Such as "POST". Absent: all. */
  methods?: readonly string[];
  /** "/orders" is exactly that, and "/orders/" is also what is below. Absent: all. */
  path?: string;
  /** Finds the identifier for each step that has no `by` of its own. It is called once for a request. */
  by?: Identifier<R, C>;
  /** Are asked in order, and the first that denies answers. What those before it have taken is not given back: put first what denies most for the least. */
  steps?: readonly Step<R, C>[];
}

/** A limiter that a request goes through. */
export interface Step<R, C = unknown> {
  limiter: Limiter;
  /** Absent: that of the rule. */
  by?: Identifier<R, C>;
  /** Absent: 1. */
  cost?: (request: R, context: C) => number;
}

/** What an adapter knows of a request. */
export interface Asked<R, C> {
  request: R;
  context: C;
  method: string;
  path: string;
  /** Ends when the client goes away. */
  signal?: AbortSignal | undefined;
}

/** What became of a request. */
export interface Verdict extends Fields {
  caller: Caller | undefined;
  /** The result of the denial; undefined if the request may go on. */
  denial: Result | undefined;
}

interface Question {
  limiter: Limiter;
  identifier: string;
  cost: number;
}

/** Who makes a request, under the identifiers that were found for it. */
export class Caller {
  readonly #questions: Question[];
  readonly #ask: (questions: Question[], options?: CallOptions) => Promise<Answer[]>;
  readonly #shadow: boolean;

  /** @internal */
  constructor(questions: Question[], shadow: boolean, ask: (questions: Question[], options?: CallOptions) => Promise<Answer[]>) {
    this.#questions = questions;
    this.#shadow = shadow;
    this.#ask = ask;
  }

  /** @internal */
  begin(options?: CallOptions): Promise<Answer[]> {
    return this.#ask(this.#questions, options);
  }

  /** Asks the limiters of the request again, for one more thing that its caller does on it, such as a message of a WebSocket. */
  async allow(cost = 1, options?: CallOptions): Promise<Result> {
    const answers = await this.#ask(this.#questions.map((q) => ({ ...q, cost })), options);
    const last = answers.at(-1)?.result ?? plainResult(true, "UNLIMITED");
    return this.#shadow ? { ...last, allowed: true } : last;
  }
}

const callers = new WeakMap<object, Caller>();

/** Returns who makes a request; undefined if no rule matched it. */
export function callerOf(request: object): Caller | undefined {
  return callers.get(request);
}

/** Holds requests to rules. The adapters to Express and fetch share it. */
export class Rules<R extends object, C> {
  readonly #options: RulesOptions<R, C>;
  readonly #clean: (path: string) => string;

  /** `clean` returns a path in one form for all the ways to write it that the router of the service takes for the same. */
  constructor(options: RulesOptions<R, C>, clean: (path: string) => string) {
    for (const rule of options.rules) {
      for (const step of rule.steps ?? []) {
        if (!step.limiter || !(step.by ?? rule.by)) throw new TypeError("ratelimitd: each step needs a limiter, and a `by` of its own or of its rule");
      }
    }
    this.#options = options;
    this.#clean = clean;
  }

  /** Asks the limiters of a request, and holds it for the delay of what it is allowed. */
  async judge(asked: Asked<R, C>): Promise<Verdict> {
    const rule = this.#ruleOf(asked);
    if (rule === undefined) return { caller: undefined, denial: undefined, headers: [], violated: [] };
    const caller = await this.#callerOf(asked, rule);
    callers.set(asked.request, caller);
    const answers = await caller.begin({ signal: asked.signal });
    if (this.#options.shadow) return { caller, denial: undefined, headers: [], violated: [] };
    const denial = answers.find(({ result }) => !result.allowed)?.result;
    const delay = Math.max(0, ...answers.map(({ result }) => result.delay));
    if (denial === undefined && delay > 0) await sleep(delay, asked.signal);
    return { caller, denial, ...fieldsOf(answers) };
  }

  #ruleOf({ method, path }: Asked<R, C>): Rule<R, C> | undefined {
    const at = this.#clean(path);
    return this.#options.rules.find((rule) => {
      if (rule.methods?.length && !rule.methods.includes(method)) return false;
      if (!rule.path) return true;
      const of = this.#clean(rule.path);
      return of === at || (rule.path.endsWith("/") && `${at}/`.startsWith(of.endsWith("/") ? of : `${of}/`));
    });
  }

  async #callerOf({ request, context }: Asked<R, C>, rule: Rule<R, C>): Promise<Caller> {
    const found = new Map<Identifier<R, C>, string>();
    const questions: Question[] = [];
    for (const { limiter, by = rule.by!, cost } of rule.steps ?? []) {
      if (!found.has(by)) found.set(by, (await by(request, context)) || anonymous);
      questions.push({ limiter, identifier: found.get(by)!, cost: cost?.(request, context) ?? 1 });
    }
    const { shadow = false, onResult } = this.#options;
    return new Caller(questions, shadow, async (all, options) => {
      const answers: Answer[] = [];
      for (const { limiter, identifier, cost: units } of all) {
        const result = await limiter.allow(identifier, units, options);
        onResult?.(request, limiter, result);
        answers.push({ limiter, result });
        if (!result.allowed && !shadow) break;
      }
      return answers;
    });
  }
}

/** The answer to a request that is denied, of RFC 9457 and the draft. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  "violated-policies"?: string[];
}

/** The media type of a problem. */
export const problemType = "application/problem+json";

/** Returns the answer to a denial. If a failure policy denied, nobody is over a limit. */
export function problemOf(denial: Result, violated: string[]): Problem {
  const named = violated.length > 0 ? { "violated-policies": violated } : {};
  if (denial.reason === "FAILURE" || denial.reason === "STORE_FAILURE") return { type: "about:blank", title: "Service Unavailable", status: 503, ...named };
  return { type: "https://iana.org/assignments/http-problem-types#quota-exceeded", title: "over the limit", status: 429, ...named };
}
