/**
 * Asks ratelimitd whether a caller may do something now.
 *
 *     const limits = new Client({ addresses: ["ratelimitd:8081"] });
 *     const limiter = limits.limiter("checkout", "100/min");
 *     const result = await limiter.allow("user:42");
 *     if (!result.allowed) console.log(`come back in ${result.retryAfter} ms`);
 *
 * A request never fails because of the limiter: when there is no answer in time, the failure policy of the client
 * decides, and result.error says why. ratelimitd/express and ratelimitd/fetch have the middleware.
 */
export { Client } from "./client.js";
export type { ClientOptions } from "./client.js";
export type { ConnectionOptions, TLSOptions } from "./connection.js";
export type { Limit, Strategy } from "./limit.js";
export { EXEMPT, Limiter, Reservation } from "./limiter.js";
export type { CallOptions, Operation, ResultEvent } from "./limiter.js";
export { CallError, Instant } from "./result.js";
export type { Code, Reason, Result, Status } from "./result.js";
