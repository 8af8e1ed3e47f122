"""What travels between dispatchers and session hosts: one pickle of plain tuples per exchange.

Ray serialises objects through cloudpickle, which costs tens of microseconds before the first item;
bytes it takes as they are. Both ends are ours and inside the cluster, and nothing but tuples,
JSON values and bytes is in there, so reading a pickle is safe.
"""

from __future__ import annotations

import pickle

from agentcy_ray.connectors.calls import Answer, Wire

Exchange = tuple[str, int, bool, list[Wire], list[int]]
"""Caller, version of the host set that it knows, whether to park when nothing is ready, calls, and
numbers of calls that it gives up."""

Reply = tuple[int, tuple[str, ...] | None, list[int], list[Answer]]
"""Version of the host set, its names when the caller's version is older, numbers of calls that this
host refused unsent because another one owns their source, and the answers that are ready."""


def pack(message: Exchange | Reply) -> bytes:
    """As it travels."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def unpack_exchange(data: bytes) -> Exchange:
    """What a caller sent."""
    return pickle.loads(data)  # noqa: S301 - see the module


def unpack_reply(data: bytes) -> Reply:
    """What a host answered."""
    return pickle.loads(data)  # noqa: S301 - see the module
