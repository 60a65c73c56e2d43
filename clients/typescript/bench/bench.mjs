// Measures decisions per second, and per second of processor time of client and daemon together, of calls that share
// a stream against calls that go alone: npm run bench [seconds of a run]. It prints a table. Linux alone, for /proc.
import { readFileSync } from "node:fs";
import { cpus } from "node:os";

import { Client } from "ratelimitd";

import { Daemon } from "../test/daemon.mjs";

const seconds = Number(process.argv[2] ?? 2);
const ticks = 100; // a second, in /proc/PID/stat

function processorTime(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /s, "").split(" ");
  const own = process.cpuUsage();
  return (Number(fields[11]) + Number(fields[12])) / ticks + (own.user + own.system) / 1e6;
}

async function measure(daemon, unary, callers) {
  const client = new Client({ addresses: [daemon.grpc], timeout: 5000, maxDenials: 0, unary });
  const limiter = client.limiter("bench", "1_000_000_000/h");
  const run = async (ms) => {
    const took = [];
    const end = performance.now() + ms;
    const calls = Array.from({ length: callers }, async (_, i) => {
      for (let began = performance.now(); began < end; ) {
        const { error } = await limiter.allow(`user:${i}`);
        if (error) throw error;
        const now = performance.now();
        took.push(now - began);
        began = now;
      }
    });
    await Promise.all(calls);
    return took;
  };
  await run(500);
  const [began, cpu] = [performance.now(), processorTime(daemon.pid)];
  const took = (await run(seconds * 1000)).sort((a, b) => a - b);
  const used = processorTime(daemon.pid) - cpu;
  const elapsed = (performance.now() - began) / 1000;
  client.close();
  const at = (share) => took[Math.floor(took.length * share)] * 1000;
  return { rate: took.length / elapsed, perCPU: took.length / used, p50: at(0.5), p99: at(0.99) };
}

const median = (all) => all.sort((a, b) => a - b)[Math.floor(all.length / 2)];

const daemon = new Daemon([]); // with the real clock
await daemon.restart();
const n = (x) => x.toFixed(0);
console.log(`${cpus().length} processors, ${cpus()[0].model}; Node ${process.version}; median of 3 runs of ${seconds} s each\n`);
console.log("| callers | alone: decisions/s | client: decisions/s | alone: per CPU second | client: per CPU second | ratio | alone: p50, p99 | client: p50, p99 |");
console.log("|---|---|---|---|---|---|---|---|");
for (const callers of [1, 16, 256]) {
  const runs = { alone: [], client: [] };
  for (let i = 0; i < 3; i++) {
    runs.alone.push(await measure(daemon, true, callers));
    runs.client.push(await measure(daemon, false, callers));
  }
  const of = (kind, field) => median(runs[kind].map((r) => r[field]));
  const ratio = median(runs.client.map((r, i) => r.perCPU / runs.alone[i].perCPU));
  const latency = (kind) => `${n(of(kind, "p50"))} µs, ${n(of(kind, "p99"))} µs`;
  console.log(`| ${callers} | ${n(of("alone", "rate"))} | ${n(of("client", "rate"))} | ${n(of("alone", "perCPU"))} | ${n(of("client", "perCPU"))} | **${ratio.toFixed(2)}** | ${latency("alone")} | ${latency("client")} |`);
}
await daemon.kill();
