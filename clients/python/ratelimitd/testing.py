"""Runs a daemon for the tests of a service. It is the real one, with a clock that stands still until the test turns it.

    with Daemon() as daemon:
        limits = Client(daemon.grpc, timeout=5, max_denials=0)
        daemon.advance("1m")

The program ratelimitd must be on the PATH, or where the environment variable RATELIMITD_BIN says. A client remembers
denials by its own clock, which does not stand still: max_denials=0 turns that off.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import urllib.parse
import urllib.request
from typing import IO, Any

_PATIENCE = 30.0
"""How many seconds a daemon has to serve, or to stop."""


class Daemon:
    """A process of ratelimitd, on free ports of loopback. They stay the same when it starts again."""

    def __init__(self, *flags: str, cwd: str | None = None, real_clock: bool = False) -> None:
        """Starts "ratelimitd serve" with flags, in the folder cwd. Its clock stands at the beginning of the year 2000, UTC,
        and advance alone turns it, unless it is the real one."""
        self.grpc = self.http = self.admin = "127.0.0.1:0"
        self.resp = ""  # where it serves the protocol of Redis, with the flag --resp-addr
        self._flags = [*flags] if real_clock else ["--test-clock", *flags]
        self._cwd = cwd
        self.start()

    def start(self) -> None:
        """Starts it again, where it served before. It must have ended."""
        program = os.environ.get("RATELIMITD_BIN", "ratelimitd")
        where = [f"--grpc-addr={self.grpc}", f"--http-addr={self.http}", f"--admin-addr={self.admin}", "--log-format=json"]
        self.process = subprocess.Popen([program, "serve", *where, *self._flags], cwd=self._cwd, stderr=subprocess.PIPE)  # noqa: S603
        log: Any = self.process.stderr
        slow = threading.Timer(_PATIENCE, self.process.kill)
        slow.start()
        printed = self._await_serving(log)
        slow.cancel()
        if printed is not None:
            self.kill()
            raise RuntimeError("ratelimitd serve does not serve:\n" + printed)
        threading.Thread(target=_drain, args=(log,), daemon=True).start()

    def _await_serving(self, log: IO[bytes]) -> str | None:
        printed = ""
        for text in log:
            printed += text.decode("utf-8", "replace")
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line.get("msg") == "serving":
                self.grpc, self.http, self.admin, self.resp = line["grpc"], line["http"], line["admin"], line["resp"]
                return None
        return printed

    def advance(self, by: str) -> None:
        """Turns the clock on, by such as "1m" or "1h30m"."""
        url = f"http://{self.admin}/test-clock?advance={urllib.parse.quote(by)}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=_PATIENCE) as response:
            response.read()

    def stop(self) -> None:
        """Has it end what is under way, and waits until it has ended."""
        self.process.send_signal(signal.SIGTERM)
        self._wait()

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self._wait()

    def pause(self) -> None:
        """Stops it where it is, and waits until all of its threads have stopped: then it answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Has it go on."""
        self.process.send_signal(signal.SIGCONT)

    def _wait(self) -> None:
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _drain(log: IO[bytes]) -> None:
    with log:
        for _ in log:
            pass
