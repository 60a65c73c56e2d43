"""The daemon over the protocol of Redis, with redis-py."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from ratelimitd.testing import Daemon


def _allowed(reply: Any) -> bool:
    return reply["allowed"] if isinstance(reply, dict) else reply[0] == 1


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py(protocol: int) -> None:
    with Daemon("--resp-addr=127.0.0.1:0") as daemon:
        host, port = daemon.resp.split(":")
        with redis.Redis(host, int(port), protocol=protocol, client_name="tests", decode_responses=True) as asker:
            assert asker.ping()
            assert [_allowed(asker.execute_command("RL.ALLOW", "checkout", "user:42", "2/min")) for _ in range(3)] == [True, True, False]
            assert asker.execute_command("CL.THROTTLE", "user:42", 15, 30, 60) == [0, 16, 15, -1, 2]

            with asker.pipeline(transaction=False) as pipe:
                for _ in range(100):
                    pipe.execute_command("RL.ALLOW", "checkout", "user:43", "60/h")
                assert sum(map(_allowed, pipe.execute())) == 60

            with pytest.raises(redis.ResponseError, match='unknown unit "fortnight"'):
                asker.execute_command("RL.ALLOW", "checkout", "user:42", "2/fortnight")
