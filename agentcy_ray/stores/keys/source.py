"""The seam of key sources: whoever can wrap a data key and unwrap it again.

A secret is encrypted under a data key of its own; a source only ever sees data keys. Two sources
may be in force at a time, the current one and those that came before it, so that the former
can be left row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from agentcy_ray.core.errors import SealBrokenError, StoreUnavailableError

KEY_BYTES = 32
"""Length of a data key, and of the install's key."""

PURPOSE = "agentcy-ray/data-key"
"""Bound to every data key that a service wraps: what it wrapped for another purpose opens none."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data key under a key of a source."""

    key_id: str
    """Names the key that wrapped it, version included where the source tells one."""
    blob: bytes = field(repr=False)


class KeySource(Protocol):
    """Wraps and unwraps data keys of ``KEY_BYTES`` bytes."""

    @property
    def name(self) -> str:
        """For people: what holds the key."""
        ...

    @property
    def remote(self) -> bool:
        """Whether unwrapping asks a service; then unwrapped keys are worth remembering."""
        ...

    def owns(self, key_id: str) -> bool:
        """Whether a data key with this key id is for this source to unwrap."""
        ...

    async def wrap(self, data_key: bytes) -> WrappedKey:
        """Wrap with the newest key.

        Raises:
            StoreUnavailableError: the service does not answer, or refuses us.
        """
        ...

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """The data key.

        Raises:
            SealBrokenError: it was changed, or wrapped by another key.
            StoreUnavailableError: the service does not answer, or refuses us.
        """
        ...

    async def aclose(self) -> None:
        """Give up connections."""
        ...


def changed() -> SealBrokenError:
    """The error for a wrapped data key that its source does not open."""
    return SealBrokenError("the data key of a stored secret was changed; enter the secret again")


def away(name: str, why: str) -> StoreUnavailableError:
    """The error for a key service that cannot be used now."""
    return StoreUnavailableError(
        f"the key service {name} {why}; secrets can be neither stored nor opened until it does",
        store="keys",
    )


def checked(data_key: bytes) -> bytes:
    """``data_key`` when it has the length of one.

    Raises:
        SealBrokenError: something else was wrapped.
    """
    if len(data_key) != KEY_BYTES:
        raise changed()
    return data_key
