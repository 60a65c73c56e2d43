// The daemon that the tests run: the real one, a process of its own.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const repository = fileURLToPath(new URL("../../..", import.meta.url));
export const testdata = join(repository, "clients/testdata");

execFileSync(join(testdata, "make-certificates.sh"));

let built;

/** Returns where the program is: where RATELIMITD_BIN says, or built from this repository. */
function program() {
  if (process.env.RATELIMITD_BIN) return process.env.RATELIMITD_BIN;
  if (built === undefined) {
    const dir = mkdtempSync(join(tmpdir(), "ratelimitd-"));
    process.on("exit", () => rmSync(dir, { recursive: true, force: true }));
    built = join(dir, "ratelimitd");
    execFileSync("go", ["build", "-o", built, "./cmd/ratelimitd"], { cwd: repository, stdio: "inherit" });
  }
  return built;
}

export class Daemon {
  grpc = "127.0.0.1:0";
  http = "127.0.0.1:0";
  admin = "127.0.0.1:0";
  resp = ""; // with --resp-addr
  #flags;
  #process;

  constructor(flags) {
    this.#flags = flags;
  }

  /** Runs a daemon until the tests of this file end. Its clock stands, unless it is to be the real one. */
  static async start({ flags = [], realClock = false } = {}) {
    const daemon = new Daemon(realClock ? flags : ["--test-clock", ...flags]);
    after(() => daemon.kill());
    await daemon.restart();
    return daemon;
  }

  get pid() {
    return this.#process.pid;
  }

  /** Starts it again, where it served before. It must have ended. */
  async restart() {
    const flags = [`--grpc-addr=${this.grpc}`, `--http-addr=${this.http}`, `--admin-addr=${this.admin}`, "--log-format=json", ...this.#flags];
    const child = spawn(program(), ["serve", ...flags], { cwd: testdata, stdio: ["ignore", "ignore", "pipe"] });
    this.#process = child;
    let log = "";
    const lines = createInterface(child.stderr);
    for await (const line of lines) {
      log += `${line}\n`;
      const said = JSON.parse(line);
      if (said.msg === "serving") {
        ({ grpc: this.grpc, http: this.http, admin: this.admin, resp: this.resp } = said);
        child.stderr.resume();
        return;
      }
    }
    throw new Error(`ratelimitd serve does not serve:\n${log}`);
  }

  async advance(by) {
    const response = await fetch(`http://${this.admin}/test-clock?advance=${by}`, { method: "POST" });
    if (!response.ok) throw new Error(`turning the clock: ${await response.text()}`);
  }

  signal(name) {
    this.#process.kill(name);
  }

  /** Stops it where it is. The system does that a little later, so wait until each of its threads has stopped. */
  async pause() {
    this.signal("SIGSTOP");
    const tasks = `/proc/${this.pid}/task`;
    const runs = (task) => !/\) [Tt] /.test(readFileSync(`${tasks}/${task}/stat`, "utf8"));
    while (existsSync(tasks) && readdirSync(tasks).some(runs)) await sleep(1);
  }

  stop() {
    return this.#end("SIGTERM");
  }

  kill() {
    return this.#end("SIGKILL");
  }

  async #end(signal) {
    const child = this.#process;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  }

  /** The options of a client: with time for an answer on a busy machine, and without a memory, which no clock of ours turns. */
  options(more = {}) {
    return { addresses: [this.grpc], timeout: 60_000, onFailure: "deny", maxDenials: 0, logger: { warn() {} }, ...more };
  }
}
