/**
 * Holds fetch-style handlers, Request to Response, to limits of ratelimitd: those of Hono, Next, Deno, Bun and others.
 *
 *     export const GET = limit(limiter, bearerSubject())(async (request) => new Response("hello"));
 *
 * A request that is denied is answered 429 with application/problem+json, and each response has the fields RateLimit,
 * RateLimit-Policy and Retry-After of draft-ietf-httpapi-ratelimit-headers-11.
 */
import type { Identifier } from "./identity.js";
import type { Limiter } from "./limiter.js";
import type { Result } from "./result.js";
import { problemOf, problemType, Rules } from "./rules.js";
import type { RulesOptions } from "./rules.js";

export { apiKey, bearerSubject, clientAddress, firstOf, header } from "./identity.js";
export type { AddressOptions, AnyRequest, Identifier } from "./identity.js";
export { Caller, callerOf } from "./rules.js";
export type { Problem, Rule, RulesOptions, Step } from "./rules.js";

/** Answers a request. What its platform gives it beside the request is the rest. */
export type Handler<R extends Request = Request, A extends unknown[] = any[]> = (request: R, ...rest: A) => Response | Promise<Response>;

/** Returns a handler like the one it is given, whose requests are held to limits. */
export type Middleware<R extends Request = Request> = <A extends unknown[]>(handler: Handler<R, A>) => (request: R, ...rest: A) => Promise<Response>;

/** Say which requests are held to which limits. */
export interface FetchOptions<R extends Request, C = any> extends RulesOptions<R, C> {
  /** Answers a request that is denied; the fields are added. Absent: 429 and application/problem+json; or 503, if the failure policy denied. */
  denied?: (request: R, result: Result) => Response | Promise<Response>;
}

/** Holds all requests of a handler to one limiter. */
export function limit<R extends Request = Request>(limiter: Limiter, by: Identifier<R, any>): Middleware<R> {
  return rules<R>({ rules: [{ by, steps: [{ limiter }] }] });
}

/** Holds the requests of a handler to rules. */
export function rules<R extends Request = Request>(options: FetchOptions<R>): Middleware<R> {
  const all = new Rules<R, unknown>(options, decoded);
  return (handler) =>
    async (request, ...rest) => {
      const { pathname } = new URL(request.url);
      const { denial, headers, violated } = await all.judge({ request, context: rest[0], method: request.method, path: pathname, signal: request.signal });
      if (denial === undefined) return withHeaders(await handler(request, ...rest), headers);
      if (options.denied !== undefined) return withHeaders(await options.denied(request, denial), headers);
      const problem = problemOf(denial, violated);
      return withHeaders(new Response(`${JSON.stringify(problem)}\n`, { status: problem.status, headers: { "Content-Type": problemType } }), headers);
    };
}

/** Returns a response with more headers. */
function withHeaders(response: Response, headers: readonly [string, string][]): Response {
  if (headers.length === 0) return response;
  try {
    for (const [name, value] of headers) response.headers.set(name, value);
    return response;
  } catch {
    // The headers of this one cannot be changed, as it is a redirect or was fetched.
    const changed = new Response(response.body, response);
    for (const [name, value] of headers) changed.headers.set(name, value);
    return changed;
  }
}

/** Returns a path without percent-encoded letters, as routers compare it. An encoded slash stays one. */
function decoded(path: string): string {
  const plain = path.replace(/\/{2,}/g, "/");
  try {
    return decodeURI(plain);
  } catch {
    return plain;
  }
}
