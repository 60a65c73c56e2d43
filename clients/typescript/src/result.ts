import * as api from "./api.js";

/** Why a result is what it is. */
export type Reason =
  | "WITHIN_LIMIT"
  /** Denied. */
  | "OVER_LIMIT"
  /** The identifier has no limit. */
  | "EXEMPT"
  /** Every limit is "unlimited". */
  | "UNLIMITED"
  /** The daemon's store failed, and the daemon's `on_error` decided. */
  | "STORE_FAILURE"
  /** Over a limit that is in shadow mode. */
  | "SHADOW"
  /** There was no answer: `error` says why, and `onFailure` of the client decided. */
  | "FAILURE"
  | "REASON_UNSPECIFIED";

/** The answer to one call. All durations are in milliseconds, with microseconds as fractions. */
export interface Result {
  allowed: boolean;
  reason: Reason;
  /** Of a denial: how long until the same call can be allowed. Infinity if it never can, 0 if that is not known. */
  retryAfter: number;
  /** How long to hold an allowed call of a LEAKY_BUCKET, so that calls leave evenly. */
  delay: number;
  /** What each limit says, in their order. */
  statuses: Status[];
  /** When it was decided, by the daemon's store: for `refund`. undefined if no counter was asked. */
  decidedAt: Instant | undefined;
  /** A denial that was repeated from memory, without a call. */
  remembered: boolean;
  /** Why there was no answer. undefined if there was one. */
  error: CallError | undefined;
}

/** What one limit says. */
export interface Status {
  /** "" if it has none. */
  name: string;
  /** The largest cost that it ever allows at once. Infinity if it is "unlimited". */
  limit: number;
  /** The largest cost that it would allow now. */
  remaining: number;
  /** Until it is wholly unused again. */
  resetAfter: number;
  /** If it denied: until it can allow the same cost, or Infinity if it never can. */
  retryAfter: number;
  /** Whether this limit alone allows it. */
  allowed: boolean;
}

/** A Date that keeps its nanoseconds: a refund is exact to the microsecond. */
export class Instant extends Date {
  readonly seconds: number;
  readonly nanos: number;

  constructor(seconds: number, nanos: number) {
    super(seconds * 1000 + Math.trunc(nanos / 1e6));
    this.seconds = seconds;
    this.nanos = nanos;
  }
}

/** Returns when `at` is, as a message has it. */
export function timestampOf(at: Date): api.Timestamp {
  if (at instanceof Instant) return { seconds: at.seconds, nanos: at.nanos };
  const seconds = Math.floor(at.getTime() / 1000);
  return { seconds, nanos: (at.getTime() - seconds * 1000) * 1e6 };
}

/** The names of gRPC's status codes, by their numbers. */
const codes = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
  "UNAUTHENTICATED",
] as const;

/** The name of a gRPC status code. */
export type Code = (typeof codes)[number];

/** Why a call got no answer. It is in a result, and is never thrown by a call. */
export class CallError extends Error {
  override readonly name = "CallError";
  readonly code: Code;

  constructor(code: number | Code, message: string) {
    super(message);
    this.code = typeof code === "number" ? (codes[code] ?? "UNKNOWN") : code;
  }
}

const reasons = Object.keys(api.Reason) as Reason[];

/** Returns the milliseconds of a duration. */
function milliseconds(d: api.Duration | undefined): number {
  return d === undefined ? 0 : d.seconds * 1000 + d.nanos / 1e6;
}

/** The greatest uint64, rounded to a number: the limit of "unlimited". */
const greatest = 2 ** 64;

/** Returns what a response says. */
export function resultOf(r: api.ShouldAllowResponse): Result {
  const reason = reasons[r.reason] ?? "REASON_UNSPECIFIED";
  return {
    allowed: r.allowed,
    reason,
    retryAfter: r.retryAfter === undefined && reason === "OVER_LIMIT" && !r.allowed ? Infinity : milliseconds(r.retryAfter),
    delay: milliseconds(r.delay),
    statuses: r.statuses.map(statusOf),
    decidedAt: r.decidedAt && new Instant(r.decidedAt.seconds ?? 0, r.decidedAt.nanos ?? 0),
    remembered: false,
    error: undefined,
  };
}

function statusOf(s: api.LimitStatus): Status {
  return {
    name: s.name,
    limit: s.limit >= greatest ? Infinity : s.limit,
    remaining: s.remaining >= greatest ? Infinity : s.remaining,
    resetAfter: milliseconds(s.resetAfter),
    retryAfter: s.retryAfter === undefined && !s.allowed ? Infinity : milliseconds(s.retryAfter),
    allowed: s.allowed,
  };
}

/** Returns a result that is about no limit. */
export function plainResult(allowed: boolean, reason: Reason, error?: CallError): Result {
  return { allowed, reason, retryAfter: 0, delay: 0, statuses: [], decidedAt: undefined, remembered: false, error };
}
