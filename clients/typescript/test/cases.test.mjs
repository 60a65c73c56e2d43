// The cases of clients/cases.json, which the clients of all languages run: clients/README.md says what the fields mean.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client, EXEMPT } from "ratelimitd";

import { Daemon, repository, testdata } from "./daemon.mjs";

const { cases } = JSON.parse(readFileSync(join(repository, "clients/cases.json"), "utf8"));

describe("cases", { concurrency: 4 }, () => {
  for (const one of cases) {
    for (const unary of [false, true]) test(one.name + (unary ? ", alone" : ""), () => run(one, unary));
  }
});

async function run(one, unary) {
  const daemon = await Daemon.start({ flags: one.flags, realClock: one.clock === "real" });
  const client = new Client(daemon.options({ ...optionsOf(one.client ?? {}), unary }));
  try {
    const { namespace, policy, limits } = one.limiter;
    const limiter = policy ? client.policy(namespace, policy) : client.limiter(namespace, ...limits.map(limitOf));
    const runner = { daemon, limiter, results: {}, reservations: {} };
    for (const [i, step] of one.steps.entries()) await take(runner, step, `step ${i}, ${step.do}`);
  } finally {
    client.close();
    daemon.signal("SIGCONT");
    await daemon.kill();
  }
}

function limitOf({ strategy, max_debt: maxDebt, ...limit }) {
  return { ...limit, ...(strategy && { strategy: strategy.toLowerCase() }), ...(maxDebt !== undefined && { maxDebt }) };
}

function optionsOf({ on_failure: onFailure = "allow", timeout_ms: timeout = 60_000, remember = false, token, tls }) {
  const pem = (name) => name && readFileSync(join(testdata, name));
  return { onFailure, timeout, token, maxDenials: remember ? 10_000 : 0, tls: tls && { ca: pem(tls.ca), cert: pem(tls.cert), key: pem(tls.key) } };
}

async function take(runner, step, where) {
  for (let i = 0; i < (step.times ?? 1); i++) {
    for (const end = performance.now() + (step.eventually_ms ?? 0); ; await sleep(5)) {
      const began = performance.now();
      const result = await perform(runner, step);
      try {
        holds(result, step.want ?? {}, performance.now() - began);
        break;
      } catch (error) {
        if (performance.now() < end) continue;
        error.message = `${where}: ${error.message} in ${JSON.stringify(result)}`;
        throw error;
      }
    }
  }
}

/** Does what a step says, and returns the result. */
async function perform({ daemon, limiter, results, reservations }, step) {
  const identifier = step.exempt ? EXEMPT : (step.identifier ?? "").repeat(step.identifier_times ?? 1);
  const options = step.cancel_after_ms && { signal: AbortSignal.timeout(step.cancel_after_ms) };
  const cost = step.cost ?? 1;
  const does = {
    allow: () => limiter.allow(identifier, step.cost, options),
    check: () => limiter.check(identifier, step.cost, options),
    charge: () => limiter.charge(identifier, cost, options),
    refund: () => limiter.refund(identifier, cost, results[step.consumed_at]?.decidedAt, options),
    wait: () => limiter.wait(identifier, step.max_ms, step.cost, options),
    reset: async () => ({ error: await limiter.reset(identifier, options) }),
    reserve: async () => (reservations[step.save] = await limiter.reserve(identifier, cost, options)).result,
    commit: () => reservations[step.reservation].commit(step.actual, options),
    cancel: async () => ({ error: await reservations[step.reservation].cancel(options) }),
    race: () => race(limiter, identifier, step),
    advance: () => daemon.advance(step.by),
    daemon: () =>
      ({ kill: () => daemon.kill(), stop: () => daemon.stop(), start: () => daemon.restart(), pause: () => daemon.pause(), resume: () => daemon.signal("SIGCONT") })[step.to](),
  };
  const result = (await does[step.do]()) ?? {};
  if (step.save) results[step.save] = result;
  return result;
}

/** Has many callers ask at the same time. */
async function race(limiter, identifier, { callers, each, cost }) {
  const all = await Promise.all(
    Array.from({ length: callers }, async () => {
      const mine = [];
      for (let i = 0; i < each; i++) mine.push(await limiter.allow(identifier, cost));
      return mine;
    }),
  );
  const results = all.flat();
  const allowed = results.filter((r) => r.allowed).length;
  return { allowedCount: allowed, deniedCount: results.length - allowed, error: results.find((r) => r.error)?.error };
}

/** Fails unless a result is as a step wants it. */
function holds(result, want, took) {
  const known = {
    allowed: () => result.allowed,
    reason: () => result.reason,
    remembered: () => result.remembered,
    retry_after_us: () => micros(result.retryAfter),
    delay_us: () => micros(result.delay),
    allowed_count: () => result.allowedCount,
    denied_count: () => result.deniedCount,
  };
  for (const [field, value] of Object.entries(want)) {
    if (field === "error") assert.ok([value].flat().includes(result.error?.code ?? null), `error: ${result.error}, want ${value}`);
    else if (field === "error_has") assert.ok(result.error?.message.includes(value), `error: ${result.error}, want ${value}`);
    else if (field === "within_ms") assert.ok(took <= value, `it took ${took} ms, want ${value} at most`);
    else if (field === "at_least_ms") assert.ok(took >= value, `it took ${took} ms, want ${value} at least`);
    else if (field === "statuses") statusesHold(result.statuses, value);
    else assert.equal(known[field](), value, field);
  }
}

function statusesHold(statuses, want) {
  assert.equal(statuses.length, want.length, "statuses");
  for (const [i, { reset_after_us: reset, retry_after_us: retry, ...plain }] of want.entries()) {
    const got = statuses[i];
    for (const [field, value] of Object.entries(plain)) assert.equal(got[field], value, `statuses[${i}].${field}`);
    if (reset !== undefined) assert.equal(micros(got.resetAfter), reset, `statuses[${i}].reset_after_us`);
    if (retry !== undefined) assert.equal(micros(got.retryAfter), retry, `statuses[${i}].retry_after_us`);
  }
}

/** Returns milliseconds in microseconds; null for never. */
function micros(ms) {
  return ms === Infinity ? null : Math.round(ms * 1000);
}
