import * as api from "./api.js";

/** The way in which a rate is enforced: see docs/strategies.md of the daemon. */
export type Strategy = "fixed_window" | "sliding_window_counter" | "sliding_window_log" | "token_bucket" | "leaky_bucket" | "gcra";

/** A rate to hold an identifier to. */
export interface Limit {
  /** "100/min", "5/s", "10/30s", "1000/month" or "unlimited". */
  rate: string;
  /** Absent: fixed_window. */
  strategy?: Strategy;
  /** The capacity of token_bucket, leaky_bucket and gcra. Absent: the strategy's default. */
  burst?: number;
  /** Names the counter, so that it keeps what was consumed when its rate changes. */
  name?: string;
  /** Of fixed_window with a rate of days or longer: "Europe/Berlin". Absent: UTC. */
  timeZone?: string;
  /** Of a rate of months or years: the day on which they begin. */
  anchorDay?: number;
  /** The most debt that a charge may leave. Absent: no bound. */
  maxDebt?: number;
}

/** Reports whether n can be a number of units. */
export function isCount(n: unknown): n is number {
  return Number.isSafeInteger(n) && (n as number) >= 0;
}

/** Returns a limit as a message has it. It throws if that cannot be: the daemon checks the rest. */
export function messageOf(limit: Limit): api.Limit {
  const { strategy = "fixed_window", ...rest } = limit;
  const number = (api.Strategy as Record<string, number>)[strategy.toUpperCase()];
  if (number === undefined) throw new RangeError(`ratelimitd: strategy ${JSON.stringify(strategy)}: unknown; write one such as "token_bucket"`);
  for (const field of ["burst", "anchorDay", "maxDebt"] as const) {
    if (rest[field] !== undefined && !isCount(rest[field])) {
      throw new RangeError(`ratelimitd: ${field} ${rest[field]}: must be a whole number from 0, such as 100`);
    }
  }
  return { ...rest, strategy: number };
}
