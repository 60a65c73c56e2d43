/**
 * Middleware for Express and Connect that holds requests to limits of ratelimitd.
 *
 *     app.use(limit(limiter, clientAddress()));
 *
 * A request that is denied is answered 429 with application/problem+json, and each response has the fields RateLimit,
 * RateLimit-Policy and Retry-After of draft-ietf-httpapi-ratelimit-headers-11.
 */
import type { IncomingMessage, ServerResponse } from "node:http";

import type { Identifier } from "./identity.js";
import type { Limiter } from "./limiter.js";
import type { Result } from "./result.js";
import { problemOf, problemType, Rules } from "./rules.js";
import type { RulesOptions } from "./rules.js";

export { apiKey, bearerSubject, clientAddress, firstOf, header } from "./identity.js";
export type { AddressOptions, AnyRequest, Identifier } from "./identity.js";
export { Caller, callerOf } from "./rules.js";
export type { Problem, Rule, RulesOptions, Step } from "./rules.js";

/** Middleware of Express, Connect and what is like them. */
export type Middleware<R, S> = (request: R, response: S, next: (error?: unknown) => void) => void;

/** Say which requests are held to which limits. */
export interface ExpressOptions<R, S> extends RulesOptions<R> {
  /** Answers a request that is denied. The fields of the response are set already. Absent: 429 and application/problem+json; or 503, if the failure policy denied. */
  denied?: (request: R, response: S, result: Result) => void;
}

/** Returns middleware that holds all requests to one limiter. */
export function limit<R extends IncomingMessage, S extends ServerResponse>(limiter: Limiter, by: Identifier<R>): Middleware<R, S> {
  return rules<R, S>({ rules: [{ by, steps: [{ limiter }] }] });
}

/**
 * Returns middleware that holds requests to rules. As for routes of Express, the path of a rule is the same in upper and
 * lower case, and with a slash at its end.
 */
export function rules<R extends IncomingMessage, S extends ServerResponse>(options: ExpressOptions<R, S>): Middleware<R, S> {
  const all = new Rules<R, unknown>(options, asRouted);
  const handle = async (request: R, response: S): Promise<boolean> => {
    const gone = new AbortController();
    const end = (): void => gone.abort();
    response.once("close", end);
    const { originalUrl = request.url ?? "/" } = request as { originalUrl?: string };
    const path = originalUrl.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i, "").replace(/[?#].*$/s, "");
    const { denial, headers, violated } = await all.judge({ request, context: undefined, method: request.method ?? "GET", path, signal: gone.signal });
    response.off("close", end);
    if (gone.signal.aborted) return false;
    for (const [name, value] of headers) response.setHeader(name, value);
    if (denial === undefined) return true;
    if (options.denied !== undefined) {
      options.denied(request, response, denial);
      return false;
    }
    const problem = problemOf(denial, violated);
    response.statusCode = problem.status;
    response.setHeader("Content-Type", problemType);
    response.end(`${JSON.stringify(problem)}\n`);
    return false;
  };
  return (request, response, next) => {
    handle(request, response).then(
      (goesOn) => goesOn && next(),
      (error: unknown) => next(error), // of a function of the service's own
    );
  };
}

/** Returns a path as routers of Express compare it. They decode nothing, and keep // and /./ as they are. */
function asRouted(path: string): string {
  return path.toLowerCase().replace(/(.)\/$/, "$1");
}
