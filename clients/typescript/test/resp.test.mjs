// The daemon over the protocol of Redis, with ioredis.
import assert from "node:assert/strict";
import { test } from "node:test";

import { Redis } from "ioredis";

import { Daemon } from "./daemon.mjs";

/** Whether a reply allows. ioredis asks for RESP 3 by itself, and makes an array of a map: "allowed", 1, "reason", ... */
const allows = ([name, value]) => name === "allowed" && value === 1;

test("ioredis", async (t) => {
  const daemon = await Daemon.start({ flags: ["--resp-addr=127.0.0.1:0"] });
  const [host, port] = daemon.resp.split(":");
  const redis = new Redis({ host, port: Number(port), connectionName: "tests" });
  t.after(() => redis.disconnect());

  assert.equal(await redis.ping(), "PONG");
  const asked = Array.from({ length: 3 }, () => redis.call("RL.ALLOW", "checkout", "user:42", "2/min"));
  assert.deepEqual((await Promise.all(asked)).map(allows), [true, true, false]);
  assert.deepEqual(await redis.call("CL.THROTTLE", "user:42", 15, 30, 60), [0, 16, 15, -1, 2]);

  const pipeline = redis.pipeline();
  for (let i = 0; i < 100; i++) pipeline.call("RL.ALLOW", "checkout", "user:43", "60/h");
  const replies = await pipeline.exec();
  assert.equal(replies.filter(([, reply]) => allows(reply)).length, 60);

  await assert.rejects(redis.call("RL.ALLOW", "checkout", "user:42", "2/fortnight"), /unknown unit "fortnight"/);
});
