// The package as users get it: packed, and imported and required from another folder.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { Daemon, repository } from "./daemon.mjs";

const home = fileURLToPath(new URL("..", import.meta.url));
const readme = readFileSync(join(home, "README.md"), "utf8");

const dir = mkdtempSync(join(tmpdir(), "ratelimitd-package-"));
after(() => rmSync(dir, { recursive: true, force: true }));
execFileSync("npm", ["pack", "--ignore-scripts", "--silent", "--pack-destination", dir], { cwd: home });
const tarball = readdirSync(dir).find((name) => name.endsWith(".tgz"));
const modules = join(dir, "node_modules");
mkdirSync(join(modules, "ratelimitd"), { recursive: true });
execFileSync("tar", ["-xzf", join(dir, tarball), "-C", join(modules, "ratelimitd"), "--strip-components=1"]);
// What else a user has: the dependencies, and what the programs here use.
for (const name of readdirSync(join(home, "node_modules"))) {
  if (!name.startsWith(".")) symlinkSync(join(home, "node_modules", name), join(modules, name));
}
writeFileSync(join(dir, "package.json"), '{ "type": "module" }');

function compile(...flags) {
  try {
    execFileSync(process.execPath, [join(home, "node_modules/typescript/bin/tsc"), "--strict", "--target", "es2022", "--types", "node", ...flags], { cwd: dir, encoding: "utf8" });
  } catch (error) {
    assert.fail(error.stdout);
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Runs a program until the tests end, and returns once its port answers. */
async function serve(file, port, env = {}) {
  const child = spawn(process.execPath, [file], { cwd: dir, env: { ...process.env, ...env }, stdio: ["ignore", "inherit", "inherit"] });
  after(() => child.kill());
  const url = `http://127.0.0.1:${port}`;
  for (const end = performance.now() + 60_000; performance.now() < end; await sleep(5)) {
    if (await fetch(url).then(() => true, () => false)) return url;
    if (child.exitCode !== null) break;
  }
  throw new Error(`${file} does not serve`);
}

test("import and require, and the package is small", async () => {
  writeFileSync(join(dir, "try.mjs"), 'import * as a from "ratelimitd"; import * as b from "ratelimitd/express"; import * as c from "ratelimitd/fetch"; console.log(Object.keys(a) + ";" + Object.keys(b) + ";" + Object.keys(c));');
  writeFileSync(join(dir, "try.cjs"), 'const all = ["ratelimitd", "ratelimitd/express", "ratelimitd/fetch"].map((name) => Object.keys(require(name)).sort()); console.log(all.join(";"));');
  const [esm, cjs] = ["try.mjs", "try.cjs"].map((file) => execFileSync(process.execPath, [file], { cwd: dir, encoding: "utf8" }));
  assert.equal(cjs, esm);
  assert.match(esm, /^CallError,Client,EXEMPT,Instant,Limiter,Reservation;/);
  const daemon = await Daemon.start();
  writeFileSync(join(dir, "call.cjs"), `const { Client } = require("ratelimitd"); new Client(${JSON.stringify(daemon.options())}).limiter("shop", "1/h").allow("alice").then((r) => console.log(r.reason));`);
  assert.equal(execFileSync(process.execPath, ["call.cjs"], { cwd: dir, encoding: "utf8" }), "WITHIN_LIMIT\n");
  assert.ok(statSync(join(dir, tarball)).size < 60_000, "the package");
});

test("the types, as the page of the client uses them", () => {
  const blocks = [...readme.matchAll(/```ts\n(.*?)```/gs)].map(([, text]) => text);
  assert.equal(blocks.length, 4);
  const imports = `import express from "express";\nimport { Client } from "ratelimitd";\nimport type { Limiter } from "ratelimitd";\n`;
  const given = `const limits = new Client(); declare const limiter: Limiter, perSecond: Limiter, perDay: Limiter; const app = express();\n`;
  blocks.forEach((text, i) => {
    const source = i === 0 ? imports + given.replace("limiter: Limiter, ", "") + text : imports + given + text;
    writeFileSync(join(dir, `block-${i}.mts`), source);
  });
  const cts = `import { Client } from "ratelimitd";\nimport { clientAddress, limit } from "ratelimitd/express";\nlimit(new Client().limiter("shop", "1/h"), clientAddress());\n`;
  writeFileSync(join(dir, "required.cts"), cts);
  compile("--noEmit", "--module", "nodenext", "required.cts", ...blocks.map((_, i) => `block-${i}.mts`));
});

test("the program with which the page of the client begins", async () => {
  const [, program] = /```js\n(.*?)```/s.exec(readme);
  const [daemon, port] = [await Daemon.start(), await freePort()];
  writeFileSync(join(dir, "hello.mjs"), program.replace('"localhost:8081"]', `"${daemon.grpc}"], timeout: 60_000`).replace("listen(8000)", `listen(${port}, "127.0.0.1")`));
  const url = await serve("hello.mjs", port); // which asked once
  for (let i = 1; i < 100; i++) assert.equal((await fetch(url)).status, 200);
  const denied = await fetch(url);
  assert.equal(denied.status, 429);
  assert.match(await denied.text(), /quota-exceeded/);
  await daemon.advance("1m");
  await sleep(1100); // as long as the client remembers the denial
  assert.equal((await fetch(url)).status, 200);
});

test("the example", async () => {
  for (const file of ["shop.ts", "tsconfig.json"]) copyFileSync(join(repository, "examples/typescript", file), join(dir, file));
  compile("-p", ".");
  const [daemon, port] = [await Daemon.start(), await freePort()];
  const url = await serve("dist/shop.js", port, { RATELIMITD_ADDR: daemon.grpc, RATELIMITD_TIMEOUT: "60000", SHOP_PORT: String(port) });
  const ask = async (status, path, method = "GET", key = "one") => {
    const response = await fetch(url + path, { method, headers: { "X-API-Key": key } });
    assert.equal(response.status, status, `${method} ${path}`);
    return response;
  };
  for (let i = 0; i < 5; i++) {
    await ask(200, "/healthz");
    await ask(200, "/products");
  }
  for (let i = 0; i < 3; i++) await ask(201, "/orders", "POST");
  assert.ok((await ask(429, "/orders", "POST")).headers.get("Retry-After"));
  await ask(201, "/orders", "POST", "two");
  for (let i = 0; i < 6; i++) await ask(200, "/report?words=250"); // each reserves 250 words, and takes 150 of 1,000
  await ask(429, "/report?words=250");
  await daemon.advance("24h");
  await ask(200, "/report?words=250");
});
