"""Builds the daemon that the tests run, unless the environment says which one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratelimitd.testing import Daemon

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session", autouse=True)
def _certificates() -> None:
    subprocess.run([ROOT / "clients/testdata/make-certificates.sh"], check=True)


@pytest.fixture(scope="session", autouse=True)
def _program(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not os.environ.get("RATELIMITD_BIN"):
        program = tmp_path_factory.mktemp("bin") / "ratelimitd"
        subprocess.run(["go", "build", "-o", program, "./cmd/ratelimitd"], cwd=ROOT, check=True)
        os.environ["RATELIMITD_BIN"] = str(program)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with Daemon() as d:
        yield d
