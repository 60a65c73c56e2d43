"""Finds who makes a request, in what a transport knows of it."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Union


@dataclass
class Request:
    """What the middleware knows of a request, for functions that find its identifier or its cost."""

    method: str
    """"POST"; "" of a call of gRPC."""
    path: str
    """"/orders", or "/package.Service/Method" of a call of gRPC."""
    headers: Mapping[str, Sequence[str]]
    """Their values, by their names in lower case. Of gRPC, the metadata."""
    peer: str
    """The address that has sent it, with or without a port."""
    raw: Any
    """The scope of ASGI, the environ of WSGI, or the HandlerCallDetails of gRPC."""
    message: Any = None
    """Of a call of gRPC: the message that the cost is asked of. None for a stream as a whole."""

    def header(self, name: str) -> str:
        """Returns the first value of a header, or ""."""
        values = self.headers.get(name.lower())
        return values[0] if values else ""


Identify = Callable[[Request], str]
"""Finds who makes a request. EXEMPT is somebody who has no limit. All for whom it is "" share one identifier."""

ANONYMOUS = "anonymous"
"""The identifier of all requests that have none, so that leaving it out frees nobody from a limit."""

_IP = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


def header(name: str) -> Identify:
    """Identifies callers by the value of a header. Use it for one that a proxy of yours sets: a caller could send what he
    likes."""
    return lambda r: r.header(name)


def api_key(name: str = "X-API-Key") -> Identify:
    """Identifies callers by the key in a header. The daemon is told a hash of it."""
    return lambda r: _hashed("key:", r.header(name))


def bearer_subject() -> Identify:
    """Identifies callers by the subject of the JWT in the Authorization header, or by the hash of a token that is not a JWT. It
    does not verify the token: put it behind what does."""

    def identify(r: Request) -> str:
        kind, _, token = r.header("authorization").partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token:
            return ""
        parts = token.split(".")
        if len(parts) == 3:
            try:
                padded = parts[1] + "=" * (-len(parts[1]) % 4)
                claims = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
                subject = claims.get("sub") if isinstance(claims, dict) else None
            except (ValueError, RecursionError):
                subject = None
            if isinstance(subject, str) and subject:
                return subject
        return _hashed("token:", token)

    return identify


def client_address(*trusted: str) -> Identify:
    """Identifies callers by their IP address, and with IPv6 by its network of 64 bits. Behind proxies, name their networks,
    such as "10.0.0.0/8": then the address is the last in X-Forwarded-For that is not one of theirs."""
    networks = [_network(name) for name in trusted]

    def is_proxy(address: _IP) -> bool:
        return any(address in network for network in networks)

    def identify(r: Request) -> str:
        client = _address(r.peer)
        if client is None:
            return ""
        # Each proxy has added the address that it was asked from on the right. What a client itself writes is on the left.
        for hop in reversed(",".join(r.headers.get("x-forwarded-for", ())).split(",")):
            if not is_proxy(client):
                break
            before = _address(hop.strip())
            if before is None:
                break
            client = before
        if client.version == 4:
            return str(client)
        return str(ipaddress.ip_network((int(client) >> 64 << 64, 64)))

    return identify


def first_of(*identify: Identify) -> Identify:
    """Identifies callers by the first of all that finds something."""

    def first(r: Request) -> str:
        for by in identify:
            found = by(r)
            if found:
                return found
        return ""

    return first


def _hashed(prefix: str, secret: str) -> str:
    return prefix + hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()[:32] if secret else ""


def _network(name: str) -> _Network:
    try:
        network = ipaddress.ip_network(name, strict=False)
    except ValueError:
        raise ValueError(f"ratelimitd: trusted proxy {name[:80]!r}: write a network or an address, such as 10.0.0.0/8") from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((int(network.network_address.ipv4_mapped), network.prefixlen - 96))
    return network


def _address(text: str) -> _IP | None:
    """Returns the address that the text is, with or without a port: one form for all the ways to write it."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
