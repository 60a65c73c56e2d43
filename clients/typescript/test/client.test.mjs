import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { spawn } from "node:child_process";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import grpc from "@grpc/grpc-js";
import { Client, EXEMPT } from "ratelimitd";

import { Daemon } from "./daemon.mjs";

function clientOf(options) {
  const client = new Client(options);
  after(() => client.close());
  return client;
}

/** Waits until something holds, on however slow a machine. */
async function eventually(what, holds) {
  for (const end = performance.now() + 60_000; !(await holds()); await sleep(1)) assert.ok(performance.now() < end, `not within a minute: ${what}`);
}

test("streams that the daemon ends as they become old lose no call, and count none twice", async () => {
  const daemon = await Daemon.start({ flags: ["--connection-age=300ms", "--connection-grace=10s"] });
  const limiter = clientOf(daemon.options()).limiter("shop", "1_000_000/h");
  let asked = 0;
  const end = performance.now() + 1000;
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      for (; performance.now() < end; asked++) assert.equal((await limiter.allow("alice")).error, undefined);
    }),
  );
  const { statuses } = await limiter.check("alice", 0);
  assert.ok(asked > 0);
  assert.equal(1_000_000 - statuses[0].remaining, asked);
});

test("a daemon that is killed, stopped and paused under load: the failure policy answers meanwhile, and calls go on when it is back", async () => {
  const daemon = await Daemon.start();
  const limiter = clientOf(daemon.options({ timeout: 1000 })).limiter("shop", "1_000_000_000/h");
  const count = { allowed: 0, failed: 0 };
  let stopped = false;
  const callers = Array.from({ length: 64 }, async () => {
    while (!stopped) {
      const { allowed, reason, error } = await limiter.allow("alice");
      assert.equal(allowed, error === undefined);
      assert.equal(reason, allowed ? "WITHIN_LIMIT" : "FAILURE");
      count[allowed ? "allowed" : "failed"]++;
      if (!allowed) await sleep(1); // as the connection is refused at once
    }
  });
  const more = (kind, what) => {
    const before = count[kind];
    return eventually(`more are ${kind} after ${what}`, () => count[kind] >= before + 100);
  };
  await more("allowed", "the start");
  for (let i = 0; i < 2; i++) {
    await daemon.kill();
    await more("failed", "a kill");
    await daemon.restart();
    await more("allowed", "a kill");
    await daemon.stop();
    await more("failed", "a stop");
    await daemon.restart();
    await more("allowed", "a restart");
  }
  await daemon.pause();
  await more("failed", "a pause");
  daemon.signal("SIGCONT");
  await more("allowed", "a pause");
  stopped = true;
  await Promise.all(callers);
});

// A daemon that is back is to be found within a second. By gRPC's own pauses, the tenth try comes after two minutes.
test("a connection that fails is tried again soon", async () => {
  let tries = 0;
  const server = createServer((socket) => {
    tries++;
    socket.on("error", () => {}).destroy();
  }).listen(0, "127.0.0.1");
  after(() => server.close());
  await once(server, "listening");
  const limits = clientOf({ addresses: [`127.0.0.1:${server.address().port}`], logger: { warn() {} } });
  await limits.limiter("shop", "1/h").allow("alice");
  await eventually("ten connections", () => tries >= 10);
});

test("calls go to all daemons, and to the one that is left", async () => {
  const [one, other] = [await Daemon.start(), await Daemon.start()];
  const limiter = clientOf(one.options({ addresses: [one.grpc, other.grpc], unary: true })).limiter("shop", "4/h");
  let i = 0;
  await eventually("two daemons", async () => {
    const user = `user:${i++}`; // of whom each daemon counts 4
    let allowed = 0;
    for (let n = 0; n < 10; n++) allowed += (await limiter.allow(user)).allowed ? 1 : 0;
    return allowed === 8;
  });
  await one.kill();
  await limiter.allow("bob"); // it may have been on its way
  for (let n = 0; n < 3; n++) assert.equal((await limiter.allow("bob")).error, undefined);
});

/** Serves, as a daemon does, what `services` has: handlers by path. */
async function fakeDaemon(handlers) {
  const server = new grpc.Server();
  const same = (message) => message;
  for (const [path, handle] of Object.entries(handlers)) {
    const streams = path.endsWith("Watch");
    const definition = { path, requestStream: false, responseStream: streams, requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same };
    server.addService({ [path]: definition }, { [path]: handle });
  }
  after(() => server.forceShutdown());
  const port = await new Promise((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound)));
  });
  return `127.0.0.1:${port}`;
}

/** Returns the address of what accepts connections, and says nothing. */
async function hanging() {
  const server = createServer((socket) => socket.unref()).listen(0, "127.0.0.1");
  after(() => server.close());
  await once(server, "listening");
  return `127.0.0.1:${server.address().port}`;
}

const shouldAllow = "/ratelimit.v1.RateLimitService/ShouldAllow";
const withinLimit = Buffer.from([8, 1, 16, 1]); // allowed, WITHIN_LIMIT

test("calls go alone where there are no streams, and no health", async () => {
  let calls = 0;
  const address = await fakeDaemon({ [shouldAllow]: (_, reply) => { calls++; reply(null, withinLimit); } });
  const limiter = clientOf({ addresses: [address], timeout: 60_000 }).limiter("shop", "1/h");
  for (let i = 0; i < 5; i++) {
    const { allowed, error } = await limiter.allow("alice");
    assert.deepEqual({ allowed, error }, { allowed: true, error: undefined });
  }
  assert.equal(calls, 5);
});

test("a daemon that does not serve, as its health says, is not asked until it does", async () => {
  const calls = [0, 0];
  let watch;
  const daemons = [];
  for (const i of [0, 1]) {
    daemons.push(await fakeDaemon({
      [shouldAllow]: (_, reply) => { calls[i]++; reply(null, withinLimit); },
      "/grpc.health.v1.Health/Watch": (call) => {
        if (i === 0) watch = call;
        call.write(Buffer.from([8, i === 0 ? 2 : 1])); // NOT_SERVING, SERVING
      },
    }));
  }
  // In one name, as a name in DNS has several addresses; and as several addresses.
  for (const addresses of [daemons, [`ipv4:///${daemons.join()}`]]) {
    calls.fill(0);
    const limiter = clientOf({ addresses, timeout: 60_000, onFailure: "deny", unary: true }).limiter("shop", "1/h");
    for (let i = 0; i < 10; i++) assert.equal((await limiter.allow("alice")).error, undefined);
    assert.deepEqual(calls, [0, 10]);
    watch.write(Buffer.from([8, 1]));
    await eventually("the other daemon is asked", async () => (await limiter.allow("alice")) && calls[0] > 0);
  }
});

test("close answers all calls, and later ones", async () => {
  const daemon = await Daemon.start();
  const client = new Client(daemon.options());
  const limiter = client.limiter("shop", "1/h");
  await limiter.allow("alice");
  await daemon.pause();
  const waiting = limiter.allow("alice");
  client.close();
  client.close();
  for (const { allowed, error } of [await waiting, await limiter.allow("alice"), (await limiter.reserve("alice", 1)).result]) {
    assert.equal(allowed, false);
    assert.equal(error.message, "the client is closed");
  }
  daemon.signal("SIGCONT");
});

test("close answers those that wait for any of several daemons", async () => {
  const addresses = [await hanging(), await hanging()];
  const client = new Client({ addresses, timeout: 60_000, onFailure: "deny" });
  const limiter = client.limiter("shop", "1/h");
  const waiting = [limiter.allow("alice"), limiter.reserve("alice", 1).then(({ result }) => result)];
  client.close();
  for (const { error } of await Promise.all(waiting)) assert.equal(error.message, "the client is closed");
});

test("a process ends by itself, also without close", async () => {
  const daemon = await Daemon.start();
  const address = JSON.stringify(daemon.grpc);
  for (const then of ["", "limits.close();"]) {
    const source = `import { Client } from "ratelimitd";
      const limits = new Client({ addresses: [${address}], timeout: 60_000, onFailure: "deny" });
      console.log((await limits.limiter("shop", "1/h").allow("alice" + Math.random())).reason); ${then}`;
    const child = spawn(process.execPath, ["--input-type=module", "--eval", source], { cwd: import.meta.dirname, stdio: ["ignore", "pipe", "inherit"] });
    let said = "";
    child.stdout.on("data", (text) => (said += text));
    const slow = setTimeout(() => child.kill(), 10_000);
    const [code, signal] = await once(child, "close");
    clearTimeout(slow);
    assert.deepEqual({ code, signal, said }, { code: 0, signal: null, said: "WITHIN_LIMIT\n" });
  }
});

test("options that cannot be", () => {
  for (const [options, message] of [
    [{ timeout: -1 }, "ratelimitd: timeout -1: must be above 0, in milliseconds, such as 50"],
    [{ onFailure: "open" }, 'ratelimitd: onFailure "open": must be "allow" or "deny"'],
    [{ addresses: ["a", "a:b:c"] }, 'ratelimitd: addresses: "a:b:c": write host:port, such as ratelimitd:8081'],
    [{ token: "a b" }, "ratelimitd: token: it has a character that no token has; give one token without spaces"],
  ]) {
    assert.throws(() => new Client(options), { message });
  }
  const client = clientOf({});
  assert.throws(() => client.limiter("shop", { rate: "1/h", strategy: "bucket" }), { message: 'ratelimitd: strategy "bucket": unknown; write one such as "token_bucket"' });
  assert.throws(() => client.limiter("shop", { rate: "1/h", burst: -1 }), { message: "ratelimitd: burst -1: must be a whole number from 0, such as 100" });
});

test("what is no cost, no text and no signal is answered by the failure policy, or has its limit", async () => {
  const daemon = await Daemon.start();
  const limiter = clientOf(daemon.options()).limiter("shop", "1/h");
  for (const cost of [-1, 1.5, NaN, "7", 2 ** 60]) assert.equal((await limiter.allow("alice", cost)).error.code, "INVALID_ARGUMENT", String(cost));
  assert.equal((await (await limiter.reserve("alice", 0)).commit(-1)).error.code, "INVALID_ARGUMENT");
  assert.equal((await limiter.allow(undefined)).error.code, "INVALID_ARGUMENT");
  assert.equal((await limiter.allow(42)).allowed, true);
  assert.equal((await limiter.allow("42")).allowed, false);
  assert.equal((await limiter.allow("half a \ud83d")).allowed, true);
  assert.equal((await limiter.allow("half a \ufffd")).allowed, false, "they are the same");
  assert.equal((await limiter.allow("alice", 1, { signal: AbortSignal.abort() })).error.code, "CANCELLED");
});

test("the hook is told of each result, and may fail", async () => {
  const daemon = await Daemon.start();
  const told = [];
  const onResult = ({ operation, identifier, result }) => {
    told.push(`${operation} ${identifier} ${result.reason}`);
    throw new Error("a fault");
  };
  const limiter = clientOf(daemon.options({ onResult })).limiter("shop", "1/h");
  await limiter.allow("alice");
  await limiter.allow("alice");
  await limiter.allow(EXEMPT);
  await (await limiter.reserve("bob", 1)).commit(1);
  assert.equal(await limiter.reset("alice"), undefined);
  assert.deepEqual(told, [
    "allow alice WITHIN_LIMIT", "allow alice OVER_LIMIT", `allow ${EXEMPT} EXEMPT`, "reserve bob WITHIN_LIMIT", "commit bob WITHIN_LIMIT", "reset alice REASON_UNSPECIFIED",
  ]);
});

test("another process settles a reservation", async () => {
  const daemon = await Daemon.start();
  const limiter = clientOf(daemon.options()).limiter("shop", "10/h");
  const { id } = await limiter.reserve("alice", 5);
  assert.equal(await limiter.reservation("alice", id).cancel(), undefined);
  assert.equal((await limiter.check("alice", 0)).statuses[0].remaining, 10);
});

test("the log is told of failures once, and who waits for a daemon that hangs is not kept", async () => {
  const lines = [];
  const client = clientOf({ addresses: [await hanging()], logger: { warn: (line) => lines.push(line) } });
  const limiter = client.limiter("shop", "1/h");
  for (let i = 0; i < 5; i++) {
    const began = performance.now();
    const result = await limiter.allow("alice");
    assert.deepEqual([result.allowed, result.reason, result.error.code], [true, "FAILURE", "DEADLINE_EXCEEDED"]);
    assert.ok(performance.now() - began < 10_000);
  }
  assert.equal(lines.length, 1);
  assert.match(lines[0], /^ratelimitd gives no answer: the failure policy decides \(allow\); calls: 1; DEADLINE_EXCEEDED: no answer in 50 ms$/);
});

test("no more denials are remembered than that", async () => {
  const daemon = await Daemon.start();
  const limiter = clientOf(daemon.options({ maxDenials: 2 })).limiter("shop", "0/h");
  for (const name of ["a", "b", "c"]) await limiter.allow(name);
  const remembered = [];
  for (const name of ["c", "b", "a"]) remembered.push((await limiter.allow(name)).remembered);
  assert.deepEqual(remembered, [true, true, false]);
});
