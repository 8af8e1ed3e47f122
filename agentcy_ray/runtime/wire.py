"""What travels between dispatchers and session hosts: one pickle of plain tuples per exchange.

Ray serialises objects through cloudpickle, which costs tens of microseconds before the first item;
bytes it takes as they are. Both ends are ours and inside the cluster, and what they send is made of
tuples, JSON values and bytes. Arguments and results of tenants are among them, so the reader takes
nothing else: a pickle that names a class or a function is refused before it is looked up.
"""

from __future__ import annotations

import pickle
from io import BytesIO
from typing import Any

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
    """What a caller sent.

    Raises:
        pickle.UnpicklingError: something else than plain values is in there.
    """
    return _Plain(BytesIO(data)).load()


def unpack_reply(data: bytes) -> Reply:
    """What a host answered; raises as ``unpack_exchange``."""
    return _Plain(BytesIO(data)).load()


class _Plain(pickle.Unpickler):
    """Reads builtin containers and scalars only: anything else has to be found by name."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in an exchange")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("no reference has a place in an exchange")
