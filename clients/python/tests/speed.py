"""Measures decisions per second, and per second of processor time of client and daemon together, of calls that share a stream
against calls that go alone: python tests/speed.py [seconds of a run]. It is no test. It prints a table. Linux alone, for /proc."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sys
import threading
import time
from statistics import median
from typing import Callable, NamedTuple

from ratelimitd import AsyncClient, Client
from ratelimitd.testing import Daemon

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
RUNS = 5
# The p99 of a lone caller is what else the machine does. So its runs are short and many: what follows is as disturbed.
LONE_SECONDS = 0.2
LONE_RUNS = 40


class Figures(NamedTuple):
    """What a run has measured. Times are in microseconds."""

    per_second: float
    per_cpu_second: float
    p50: float
    p99: float


def cpu(pid: int) -> float:
    """Returns the processor time of this process and the daemon's, in seconds."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(") ")[2].split()
    return own.ru_utime + own.ru_stime + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(d: Daemon, unary: bool, callers: int, length: float) -> list[float]:
    took: list[float] = []
    with Client(d.grpc, timeout=5, unary=unary) as client:
        limiter = client.limiter("speed", "1_000_000_000/h")
        limiter.allow("alice").raise_for_error()
        end = time.perf_counter() + length

        def call() -> None:
            while (began := time.perf_counter()) < end:
                limiter.allow("alice").raise_for_error()
                took.append(time.perf_counter() - began)

        all_callers = [threading.Thread(target=call) for _ in range(callers)]
        for caller in all_callers:
            caller.start()
        for caller in all_callers:
            caller.join()
    return took


def tasks(d: Daemon, unary: bool, callers: int, length: float) -> list[float]:
    took: list[float] = []

    async def run() -> None:
        async with AsyncClient(d.grpc, timeout=5, unary=unary) as client:
            limiter = client.limiter("speed", "1_000_000_000/h")
            (await limiter.allow("alice")).raise_for_error()
            end = time.perf_counter() + length

            async def call() -> None:
                while (began := time.perf_counter()) < end:
                    (await limiter.allow("alice")).raise_for_error()
                    took.append(time.perf_counter() - began)

            await asyncio.gather(*(call() for _ in range(callers)))

    asyncio.run(run())
    return took


def measure(d: Daemon, kind: Callable[[Daemon, bool, int, float], list[float]], unary: bool, callers: int) -> Figures:
    used, began = cpu(d.process.pid), time.perf_counter()
    took = sorted(kind(d, unary, callers, LONE_SECONDS if callers == 1 else SECONDS))
    used, seconds = cpu(d.process.pid) - used, time.perf_counter() - began
    p50, p99 = (took[len(took) * p // 100] * 1e6 for p in (50, 99))
    return Figures(len(took) / seconds, len(took) / used, p50, p99)


def main() -> None:
    print(f"{os.cpu_count()} processors; Python {platform.python_version()}; median of {RUNS} runs of {SECONDS:g} s each, and for a lone caller of {LONE_RUNS} runs of {LONE_SECONDS:g} s\n")
    print("| client | callers | alone: decisions/s | client: decisions/s | alone: per CPU second | client: per CPU second | ratio ", end="")
    print("| alone: p50, p99 | client: p50, p99 | ratio of p50, p99 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with Daemon() as d:
        for kind in (threads, tasks):
            for callers in (1, 16, 256):
                # They take turns, each first every other time, and a ratio is of two runs that followed each other: a busy
                # machine changes both.
                pairs = []
                for i in range(LONE_RUNS if callers == 1 else RUNS):
                    pair = {unary: measure(d, kind, unary, callers) for unary in ((True, False) if i % 2 else (False, True))}
                    pairs.append((pair[True], pair[False]))
                alone, client = (Figures(*map(median, zip(*runs))) for runs in zip(*pairs))
                ratio = Figures(*map(median, zip(*([c / a for a, c in zip(*pair)] for pair in pairs))))
                row = f"| {kind.__name__} | {callers} | {alone.per_second:,.0f} | {client.per_second:,.0f} | {alone.per_cpu_second:,.0f} "
                row += f"| {client.per_cpu_second:,.0f} | **{ratio.per_cpu_second:.2f}** | {alone.p50:,.0f} µs, {alone.p99:,.0f} µs "
                print(row + f"| {client.p50:,.0f} µs, {client.p99:,.0f} µs | {ratio.p50:.2f}, {ratio.p99:.2f} |", flush=True)
        with Client(d.grpc, timeout=5) as client:
            limiter = client.limiter("speed", "0/h")
            began, n = time.process_time(), 100_000
            calls = sum(not limiter.allow("alice").remembered for _ in range(n))
            print(f"\nA remembered denial takes {(time.process_time() - began) / n * 1e6:.1f} µs of CPU time; {calls} of {n} were calls")


main()
