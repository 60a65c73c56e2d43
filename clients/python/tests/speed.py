"""Measures the client against a daemon of its own: python tests/speed.py. It is no test; README.md has the figures."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time

from ratelimitd import AsyncClient, Client
from ratelimitd.testing import Daemon

SECONDS = 3.0


def cpu(pid: int) -> float:
    """Returns the processor time of this process and the daemon's, in seconds."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(") ")[2].split()
    return own.ru_utime + own.ru_stime + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(d: Daemon, unary: bool, callers: int) -> list[float]:
    took: list[float] = []
    with Client(d.grpc, timeout=5, unary=unary) as client:
        limiter = client.limiter("speed", "1_000_000_000/h")
        limiter.allow("alice").raise_for_error()
        end = time.perf_counter() + SECONDS

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


def tasks(d: Daemon, unary: bool, callers: int) -> list[float]:
    took: list[float] = []

    async def run() -> None:
        async with AsyncClient(d.grpc, timeout=5, unary=unary) as client:
            limiter = client.limiter("speed", "1_000_000_000/h")
            (await limiter.allow("alice")).raise_for_error()
            end = time.perf_counter() + SECONDS

            async def call() -> None:
                while (began := time.perf_counter()) < end:
                    (await limiter.allow("alice")).raise_for_error()
                    took.append(time.perf_counter() - began)

            await asyncio.gather(*(call() for _ in range(callers)))

    asyncio.run(run())
    return took


def main() -> None:
    print("| client | callers | calls | decisions/s | per CPU second | p50 µs | p99 µs |")
    print("|---|---|---|---|---|---|---|")
    with Daemon() as d:
        for kind in (threads, tasks):
            for callers in (1, 16, 256):
                for unary in (True, False):
                    used, began = cpu(d.process.pid), time.perf_counter()
                    took = sorted(kind(d, unary, callers))
                    used, seconds = cpu(d.process.pid) - used, time.perf_counter() - began
                    p50, p99 = (took[len(took) * p // 100] * 1e6 for p in (50, 99))
                    row = f"| {kind.__name__} | {callers} | {'alone' if unary else 'together'} "
                    print(row + f"| {len(took) / seconds:,.0f} | {len(took) / used:,.0f} | {p50:,.0f} | {p99:,.0f} |")
        with Client(d.grpc, timeout=5) as client:
            limiter = client.limiter("speed", "0/h")
            began, n = time.perf_counter(), 100_000
            calls = sum(not limiter.allow("alice").remembered for _ in range(n))
            print(f"\nA remembered denial takes {(time.perf_counter() - began) / n * 1e6:.1f} µs; {calls} of {n} were calls")


main()
