"""The messages of the API, from the descriptors in ratelimit.binpb, which `make generate` writes.

There is no generated code, for three reasons. Generated code asks for a protobuf that is as new as its compiler. The
descriptors are in a pool of their own, so that they meet nothing that a program has generated from the same files.
And the messages of google.rpc need no further package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_pool: Any = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString((Path(__file__).parent / "ratelimit.binpb").read_bytes()).file:
    _pool.AddSerializedFile(_file.SerializeToString())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


Limit = _message("ratelimit.v1.Limit")
ShouldAllowRequest = _message("ratelimit.v1.ShouldAllowRequest")
ShouldAllowBatchRequest = _message("ratelimit.v1.ShouldAllowBatchRequest")
Status = _message("google.rpc.Status")
RetryInfo = _message("google.rpc.RetryInfo")

CHARGE = 2
REFUND = 3

UNARY = ("ShouldAllow", "Reserve", "Commit", "Cancel", "Reset")
_SERVICE = "/ratelimit.v1.RateLimitService/"


def _types(name: str) -> tuple[Any, Any]:
    of = _pool.FindServiceByName("ratelimit.v1.RateLimitService").methods_by_name[name]
    return message_factory.GetMessageClass(of.input_type), message_factory.GetMessageClass(of.output_type)


def method(name: str) -> tuple[str, Any, Any]:
    """Returns the path of a method, what encodes its requests, and what decodes its responses."""
    request, response = _types(name)
    return _SERVICE + name, request.SerializeToString, response.FromString


def request(name: str, **fields: Any) -> Any:
    """Returns a request of the method with that name."""
    return _types(name)[0](**fields)
