// The middleware, in a real Express and as fetch handlers, against the real daemon.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, test } from "node:test";

import express from "express";
import { Client, EXEMPT } from "ratelimitd";
import * as inExpress from "ratelimitd/express";
import * as inFetch from "ratelimitd/fetch";

import { Daemon } from "./daemon.mjs";

const { apiKey, bearerSubject, clientAddress, firstOf, header } = inExpress;

const problem = "https://iana.org/assignments/http-problem-types#quota-exceeded";

async function newClient(options) {
  const daemon = await Daemon.start();
  const client = new Client(daemon.options(options));
  after(() => client.close());
  return { daemon, client };
}

/** Serves on a free port until the tests end, and returns the URL. */
async function listen(app) {
  const server = createServer(app).listen(0, "127.0.0.1");
  after(() => server.close());
  await once(server, "listening");
  return `http://127.0.0.1:${server.address().port}`;
}

/** Express, and a fetch handler: both are asked with the same requests. */
const kinds = {
  Express: async (options, answer = () => "hello") => {
    const app = express();
    app.use(inExpress.rules(options));
    app.use(async (request, response) => response.send(await answer(inExpress.callerOf(request))));
    const url = await listen(app);
    return (path, { method = "GET", headers = {} } = {}) => fetch(url + path, { method, headers });
  },
  fetch: async (options, answer = () => "hello") => {
    const handler = inFetch.rules(options)(async (request) => new Response(await answer(inFetch.callerOf(request))));
    return (path, { method = "GET", headers = {} } = {}) => handler(new Request(`http://localhost${path}`, { method, headers }));
  },
};

async function wants(status, response) {
  const is = await response;
  assert.equal(is.status, status);
  return is;
}

for (const [kind, serve] of Object.entries(kinds)) {
  test(`${kind}: a denial is a problem, and each response says what is left`, async () => {
    const { daemon, client } = await newClient();
    const limiter = client.limiter("shop", "2/min", { name: "daily", rate: "100/day", strategy: "sliding_window_counter" });
    const ask = await serve({ rules: [{ by: header("X-User"), steps: [{ limiter }] }] });
    await daemon.advance("10s");
    const allowed = await wants(200, ask("/"));
    assert.equal(allowed.headers.get("RateLimit-Policy"), '"fixed_window:2/min";q=2;w=60, "daily";q=100;w=86400');
    assert.equal(allowed.headers.get("RateLimit"), '"fixed_window:2/min";r=1;t=50, "daily";r=99;t=172790');
    assert.equal(allowed.headers.get("Retry-After"), null);
    assert.equal(await allowed.text(), "hello");
    await wants(200, ask("/"));
    const denied = await wants(429, ask("/"));
    assert.equal(denied.headers.get("Content-Type"), "application/problem+json");
    assert.equal(denied.headers.get("RateLimit"), '"fixed_window:2/min";r=0;t=50, "daily";r=98');
    assert.equal(denied.headers.get("Retry-After"), "50");
    assert.deepEqual(await denied.json(), { type: problem, title: "over the limit", status: 429, "violated-policies": ["fixed_window:2/min"] });
    await wants(200, ask("/", { headers: { "X-User": "bob" } }));
    await daemon.advance("50s");
    await wants(200, ask("/"));
  });

  test(`${kind}: rules by method and path`, async () => {
    const { client } = await newClient();
    let computed = 0;
    const by = (request) => {
      computed++;
      return apiKey("X-API-Key")(request);
    };
    const once = (name) => ({ limiter: client.limiter("shop", { rate: "1/h", name }) });
    const ask = await serve({
      rules: [
        { path: "/health", by: () => EXEMPT, steps: [once("health")] },
        { methods: ["POST"], path: "/orders/", by, steps: [once("orders"), once("posts")] },
        { path: "/orders", by, steps: [once("list")] },
      ],
    });
    for (let i = 0; i < 3; i++) {
      await wants(200, ask("/health"));
      await wants(200, ask("/free"));
    }
    await wants(200, ask("/orders?page=1"));
    await wants(429, ask("/orders")); // all without a key are one
    const before = computed;
    await wants(200, ask("/orders/7", { method: "POST", headers: { "X-API-Key": "one" } }));
    assert.equal(computed, before + 1, "how often the identifier of one request was computed");
    await wants(429, ask("/orders/7/items", { method: "POST", headers: { "X-API-Key": "one" } }));
    await wants(200, ask("/orders/", { method: "POST", headers: { "X-API-Key": "two" } }));
    await wants(200, ask("/orders/7", { method: "PUT", headers: { "X-API-Key": "one" } }));
    if (kind === "Express") for (const same of ["/ORDERS", "/orders/"]) await wants(429, ask(same)); // as its routes
    else for (const same of ["//orders", "/./orders", "/%6frders"]) await wants(429, ask(same));
  });

  test(`${kind}: several limiters, costs, and a hook`, async () => {
    const { client } = await newClient();
    const perUser = client.limiter("shop", { rate: "3/h", name: "user" });
    const perKey = client.limiter("shop", { rate: "10/h", name: "key" });
    let told = [];
    const ask = await serve({
      rules: [{ steps: [{ limiter: perUser, by: header("X-User") }, { limiter: perKey, by: firstOf(apiKey("X-API-Key"), bearerSubject()), cost: () => 5 }] }],
      onResult: (_, limiter, result) => told.push(`${limiter.limits[0].name} ${result.reason}`),
    });
    const headers = { "X-User": "alice", "X-API-Key": "one" };
    await wants(200, ask("/", { headers }));
    await wants(200, ask("/", { headers }));
    const denied = await wants(429, ask("/", { headers }));
    assert.equal(denied.headers.get("RateLimit"), '"user";r=0, "key";r=0;t=3600');
    told = [];
    await wants(429, ask("/", { headers: { ...headers, "X-API-Key": "two" } }));
    assert.deepEqual(told, ["user OVER_LIMIT"], "a denial must be the last to be asked");
  });

  test(`${kind}: shadow mode denies nobody`, async () => {
    const { client } = await newClient();
    let denials = 0;
    const ask = await serve({
      shadow: true,
      rules: [{ by: header("X-User"), steps: [{ limiter: client.limiter("shop", "1/h") }] }],
      onResult: (_, __, result) => (denials += result.allowed ? 0 : 1),
    });
    for (let i = 0; i < 3; i++) assert.equal((await wants(200, ask("/"))).headers.get("RateLimit"), null);
    assert.equal(denials, 2);
  });

  test(`${kind}: messages of one request`, async () => {
    const { client } = await newClient();
    const answer = async (caller) => {
      const messages = [];
      for (let i = 0; i < 3; i++) messages.push((await caller.allow()).allowed);
      return messages.join();
    };
    const ask = await serve({ rules: [{ by: header("X-User"), steps: [{ limiter: client.limiter("shop", "3/h") }] }] }, answer);
    assert.equal(await (await ask("/")).text(), "true,true,false");
  });

  test(`${kind}: an answer of one's own, and none of the daemon`, async () => {
    const { daemon, client } = await newClient();
    const limiter = client.limiter("shop", "0/h");
    const rules = [{ by: header("X-User"), steps: [{ limiter }] }];
    const denied = kind === "Express" ? (_, response, result) => response.status(418).send(result.reason) : (_, result) => new Response(result.reason, { status: 418 });
    const own = await wants(418, (await serve({ rules, denied }))("/"));
    assert.equal(await own.text(), "OVER_LIMIT");
    assert.equal(own.headers.get("RateLimit-Policy"), '"fixed_window:0/h";q=0;w=3600');
    const ask = await serve({ rules });
    assert.equal((await wants(429, ask("/"))).headers.get("Retry-After"), null, "a wait that never ends");
    const hasty = await serve({ rules: [{ by: header("X-User"), steps: [{ limiter: limiter.timeout(100) }] }] }); // nobody will answer
    await daemon.kill();
    assert.deepEqual(await (await wants(503, hasty("/"))).json(), { type: "about:blank", title: "Service Unavailable", status: 503 });
  });

  test(`${kind}: a leaky bucket holds requests`, async () => {
    const { client } = await newClient();
    const ask = await serve({ rules: [{ by: header("X-User"), steps: [{ limiter: client.limiter("shop", { rate: "10/s", strategy: "leaky_bucket" }) }] }] });
    const began = performance.now();
    for (let i = 0; i < 3; i++) await wants(200, ask("/")); // the clock stands: 0, 100 and 200 ms
    assert.ok(performance.now() - began >= 299);
  });
}

test("Express: the address of the client, and a fault in an identifier function", async () => {
  const { client } = await newClient();
  const app = express();
  app.use("/faulty", inExpress.limit(client.limiter("shop", "1/h"), () => { throw new Error("a fault"); }));
  app.use(inExpress.limit(client.limiter("shop", "1/h"), clientAddress({ trusted: ["127.0.0.0/8"] })));
  app.get("/", (_, response) => response.send("hello"));
  app.use((error, _, response, __) => response.status(500).send(error.message));
  const url = await listen(app);
  const from = (forwarded) => fetch(url, { headers: { "X-Forwarded-For": forwarded } });
  await wants(200, from("6.6.6.6, 192.0.2.1"));
  await wants(429, from("7.7.7.7, 192.0.2.1")); // what the client wrote does not help
  await wants(200, from("192.0.2.2"));
  assert.equal(await (await wants(500, fetch(`${url}/faulty`))).text(), "a fault");
});

test("fetch: a response whose headers cannot be changed, and what the platform gives beside the request", async () => {
  const { client } = await newClient();
  const limited = inFetch.limit(client.limiter("shop", "1/h"), inFetch.clientAddress());
  const handler = limited(async (_request, _info) => Response.redirect("http://localhost/elsewhere"));
  const from = (hostname) => handler(new Request("http://localhost/"), { remoteAddr: { hostname } });
  assert.ok((await wants(302, from("192.0.2.1"))).headers.get("RateLimit"));
  await wants(429, from("192.0.2.1"));
  await wants(302, from("192.0.2.2"));
});
