import type { Limit } from "./limit.js";
import type { Limiter } from "./limiter.js";
import type { Result, Status } from "./result.js";

// What results say of limits, in the fields of draft-ietf-httpapi-ratelimit-headers-11. Their names are here alone.

/** A limiter and what it said. */
export interface Answer {
  limiter: Limiter;
  result: Result;
}

/** The fields of a response, by their names, and the names of the limits that denied. */
export interface Fields {
  headers: [name: string, value: string][];
  violated: string[];
}

/** Returns the fields of what was asked for one request. */
export function fieldsOf(answers: readonly Answer[]): Fields {
  const policies: string[] = [];
  const states: string[] = [];
  const violated: string[] = [];
  const names = new Set<string>();
  let retryAfter = "";
  for (const { result } of answers) {
    if (!result.allowed && result.retryAfter > 0 && result.retryAfter < Infinity) retryAfter = String(seconds(result.retryAfter));
  }
  const denied = answers.some(({ result }) => !result.allowed);
  for (const { limiter, result } of answers) {
    result.statuses.forEach((status, i) => {
      if (status.limit === Infinity) return; // "unlimited"
      const limit = limiter.limits[i];
      let name = nameOf(status, limit, i);
      while (names.has(name)) name += `#${names.size}`;
      names.add(name);
      const item = itemOf(name);
      const window = windowOf(limit);
      policies.push(`${item};q=${integer(status.limit)}${window > 0 ? `;w=${integer(window)}` : ""}`);
      if (!status.allowed) violated.push(name);
      const wait = status.allowed ? (denied ? 0 : status.resetAfter) : status.retryAfter;
      const there = wait < Infinity && (wait > 0 || !status.allowed);
      states.push(`${item};r=${integer(status.remaining)}${there ? `;t=${integer(seconds(wait))}` : ""}`);
    });
  }
  const all: [string, string][] = [
    ["RateLimit-Policy", policies.join(", ")],
    ["RateLimit", states.join(", ")],
    ["Retry-After", retryAfter],
  ];
  return { headers: all.filter(([, value]) => value !== ""), violated };
}

function nameOf(status: Status, limit: Limit | undefined, place: number): string {
  if (status.name !== "") return status.name;
  return limit === undefined ? `limit-${place + 1}` : `${limit.strategy ?? "fixed_window"}:${limit.rate}`;
}

/** The seconds of the units of rates that are whole seconds. Months and years differ in length. */
const units: readonly [name: RegExp, seconds: number][] = [
  [/^(s|sec|second)s?$/, 1],
  [/^(m|min|minute)s?$/, 60],
  [/^(h|hr|hour)s?$/, 3600],
  [/^(d|day)s?$/, 86_400],
  [/^(w|week)s?$/, 604_800],
];

/** Returns the period of a limit in seconds, if that is whole seconds; or else 0. */
function windowOf(limit: Limit | undefined): number {
  if (limit === undefined || limit.timeZone) return 0;
  const [, count = "1", unit = ""] = /(?:\/| per )\s*([\d_]+)?\s*([a-z]+)\s*$/.exec(limit.rate.toLowerCase()) ?? [];
  const found = units.find(([name]) => name.test(unit) && unit !== "ss");
  return found === undefined ? 0 : Number(count.replaceAll("_", "")) * found[1];
}

/** Returns milliseconds in seconds, rounded up. */
function seconds(ms: number): number {
  return Math.ceil(ms / 1000);
}

/** Returns an Integer of RFC 9651, which has 15 digits at most. */
function integer(n: number): number {
  return Math.min(n, 999_999_999_999_999);
}

/** Returns a name as a String of RFC 9651. That holds printable ASCII alone: other bytes, and the percent sign, are percent-encoded. */
function itemOf(name: string): string {
  let out = "";
  for (const byte of Buffer.from(name)) {
    const letter = String.fromCharCode(byte);
    if (byte < 0x20 || byte > 0x7e || letter === "%") out += `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
    else out += letter === '"' || letter === "\\" ? `\\${letter}` : letter;
  }
  return `"${out}"`;
}
