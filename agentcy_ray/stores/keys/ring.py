"""The key sources of an install: one that wraps, and all that still unwrap."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from agentcy_ray.core.errors import SealBrokenError
from agentcy_ray.stores.keys.source import KEY_BYTES, KeySource, WrappedKey, checked

REMEMBER_SECS = 300.0
"""How long a data key that a service unwrapped stays in memory."""
REMEMBERED = 4096
"""And how many at most: 32 bytes each, beside their names."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key in the clear, beside what is stored of it."""

    plain: bytes = field(repr=False)
    wrapped: WrappedKey


class KeyRing:
    """Makes data keys with the current source, unwraps those of any.

    What a service has unwrapped is remembered for minutes, so that a secret that is read often
    does not cost a request each time. Keys of the install itself are unwrapped anew every time.
    """

    def __init__(
        self,
        current: KeySource,
        former: Sequence[KeySource] = (),
        *,
        remember_secs: float = REMEMBER_SECS,
        remembered: int = REMEMBERED,
    ) -> None:
        self.current = current
        self._sources = (current, *former)
        self._remember_secs = remember_secs
        self._remembered = remembered
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._asking: dict[bytes, asyncio.Future[bytes]] = {}
        self._forgetting: asyncio.TimerHandle | None = None

    @property
    def names(self) -> list[str]:
        """The sources for people, the current one first."""
        return [source.name for source in self._sources]

    @property
    def known(self) -> int:
        """How many unwrapped keys are remembered now."""
        return len(self._known)

    def is_for(self, key_id: str) -> bool:
        """Whether a source would unwrap what is under this key; it may lack the key itself."""
        return any(source.owns(key_id) for source in self._sources)

    async def new_key(self) -> DataKey:
        """A fresh data key, wrapped by the current source.

        Raises:
            StoreUnavailableError: the key service does not answer.
        """
        return await self.wrap(secrets.token_bytes(KEY_BYTES))

    async def wrap(self, plain: bytes) -> DataKey:
        """A data key wrapped by the current source.

        Raises:
            StoreUnavailableError: the key service does not answer.
        """
        wrapped = await self.current.wrap(plain)
        if self.current.remote:
            self._remember(_name(wrapped), plain)
        return DataKey(plain, wrapped)

    async def current_id(self) -> str:
        """Id of the key that wraps now; a service is asked, since it may have a newer version.

        Raises:
            StoreUnavailableError: the key service does not answer.
        """
        return (await self.current.wrap(secrets.token_bytes(KEY_BYTES))).key_id

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        """The data key; many who ask for one at a time cost one request.

        Raises:
            SealBrokenError: no source knows the key, or the data key was changed.
            StoreUnavailableError: the key service does not answer.
        """
        source = next((each for each in self._sources if each.owns(wrapped.key_id)), None)
        if source is None:
            raise SealBrokenError(
                f"a stored secret was sealed with key {wrapped.key_id}, and this install has "
                f"{' and '.join(self.names)}; set KMS_KEY_URI_PREVIOUS to the earlier key service",
                key_id=wrapped.key_id,
            )
        if not source.remote:
            return checked(await source.unwrap(wrapped))
        name = _name(wrapped)
        if (plain := self._known.get(name)) is not None:
            return plain
        asked = self._asking.get(name)
        if asked is None:
            asked = asyncio.ensure_future(source.unwrap(wrapped))
            self._asking[name] = asked
            asked.add_done_callback(lambda done: self._answered(name, done))
        # Shielded: one who gives up does not take the answer from the others.
        plain = checked(await asyncio.shield(asked))
        self._remember(name, plain)
        return plain

    def forget(self) -> None:
        """Drop every remembered data key."""
        self._known.clear()
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None

    async def aclose(self) -> None:
        """Forget, and close the sources."""
        self.forget()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        for source in self._sources:
            await source.aclose()

    def _answered(self, name: bytes, done: asyncio.Future[bytes]) -> None:
        del self._asking[name]
        if not done.cancelled():
            done.exception()  # heard, even when everybody who asked has left

    def _remember(self, name: bytes, plain: bytes) -> None:
        self._known[name] = plain
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        if self._forgetting is None:
            # All at once, and so none stays longer; the next reader of each asks once more.
            self._forgetting = asyncio.get_running_loop().call_later(
                self._remember_secs, self.forget
            )


def _name(wrapped: WrappedKey) -> bytes:
    return sha256(wrapped.key_id.encode() + b"\0" + wrapped.blob).digest()
