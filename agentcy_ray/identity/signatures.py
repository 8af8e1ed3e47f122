"""Signed requests of other systems: HMAC over the body, fresh, and each taken once.

``X-Agentcy-Signature: sha256=<hex HMAC-SHA-256>`` signs the raw body. With ``X-Agentcy-Timestamp``
it signs ``<timestamp>.<body>``; then the time may lie 300 s from ours, and a signature that was
used is refused while its time would still do. A body that is signed without a time can be sent
again by whoever saw it: systems that cannot sign a time have no more to offer.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256

import structlog

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import StoreUnavailableError, UnauthenticatedError
from agentcy_ray.stores.redis import RedisStore

WINDOW_SECS = 300
"""How far the time of a signed request may lie from ours."""
SCHEME = "sha256="
_REMEMBERED = 100_000
_DIGITS = 12

log = structlog.get_logger(__name__)


def sign(secret: bytes, body: bytes, timestamp: str | None = None) -> str:
    """The value of ``X-Agentcy-Signature``."""
    signed = body if timestamp is None else timestamp.encode() + b"." + body
    return SCHEME + hmac.new(secret, signed, sha256).hexdigest()


class Signatures:
    """Verifies signatures, and remembers those that were used."""

    def __init__(self, redis: RedisStore, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._here: OrderedDict[str, float] = OrderedDict()

    def verify(self, secret: bytes, body: bytes, signature: str, timestamp: str | None) -> None:
        """Return when the signature is that of the body; in a time that tells nothing.

        Raises:
            UnauthenticatedError: ``signature_invalid``: it is another one, or its time is past.
        """
        if timestamp is not None:
            if not (timestamp.isascii() and timestamp.isdecimal()) or len(timestamp) > _DIGITS:
                raise unsigned("X-Agentcy-Timestamp must be seconds since 1970")
            if abs(self._clock.now().timestamp() - int(timestamp)) > WINDOW_SECS:
                raise unsigned(f"the timestamp is more than {WINDOW_SECS} s away; sign anew")
        expected = sign(secret, body, timestamp)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise unsigned("the signature does not fit the body; check secret and encoding")

    @asynccontextmanager
    async def once(
        self, owner: str, signature: str | None, timestamp: str | None
    ) -> AsyncGenerator[None]:
        """Do what a verified request asks for, if its signature was not used before.

        One that fails may be sent again as it is. Without a signature and a time nothing is
        remembered.

        Args:
            owner: whose secret it is; others may use the same signature.
            signature: as it was sent.
            timestamp: as it was sent.

        Raises:
            UnauthenticatedError: ``signature_invalid``: it was used.
        """
        if signature is None or timestamp is None:
            yield
            return
        name = f"{owner}:{sha256(signature.encode()).hexdigest()[:32]}"
        if not await self._claim(name):
            raise unsigned("this signature was used already; sign each request anew")
        try:
            yield
        except BaseException:
            await self._free(name)
            raise

    async def _claim(self, name: str) -> bool:
        """Whether the name was free; it stays taken while its time would be believed."""
        now = self._clock.now().timestamp()
        secs = 2 * WINDOW_SECS
        taken_here = self._here.get(name, 0.0) > now
        if taken_here:
            return False
        try:
            async with self._redis.commands() as client:
                free = await client.set(self._redis.key("sig", name), "1", nx=True, ex=secs)
        except StoreUnavailableError as error:
            log.warning("used signatures are remembered by each process", problem=error.message)
            free = True
        if free:
            self._here[name] = now + secs
            if len(self._here) > _REMEMBERED:
                self._here.popitem(last=False)
        return bool(free)

    async def _free(self, name: str) -> None:
        self._here.pop(name, None)
        try:
            async with self._redis.commands() as client:
                await client.delete(self._redis.key("sig", name))
        except StoreUnavailableError:
            log.warning("a signature whose request failed stays taken", secs=2 * WINDOW_SECS)


def unsigned(message: str) -> UnauthenticatedError:
    """The refusal of a request whose signature is missing or wrong."""
    return UnauthenticatedError(message, code="signature_invalid")
