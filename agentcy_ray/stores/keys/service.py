"""Requests to a key service: bounded in size and time, and tried again where that helps."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
import orjson

from agentcy_ray.core.errors import EgressDeniedError, StoreUnavailableError, TooLargeError
from agentcy_ray.stores.egress import Guard
from agentcy_ray.stores.http_client import open_http
from agentcy_ray.stores.keys.source import away

TRY_SECS = 5.0
"""How long one try may take; a data key is awaited by somebody's request."""
PAUSES_SECS = (0.1, 0.5)
"""Between tries."""
MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, whatever its status. The body may hold a data key."""

    status: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON object of a good reply."""

    name: str
    fields: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, name: str, reply: Reply, *path: str) -> Answer:
        """The object, or the one that ``path`` leads to.

        Raises:
            StoreUnavailableError: the body is none.
        """
        try:
            value: Any = orjson.loads(reply.body)
            for step in path:
                value = value[step]
        except (ValueError, KeyError, TypeError):
            value = None
        if not isinstance(value, dict):
            raise _strange(name)
        return cls(name, cast("dict[str, Any]", value))

    def text(self, key: str) -> str:
        """A text.

        Raises:
            StoreUnavailableError: it is not there.
        """
        value = self.fields.get(key)
        if not isinstance(value, str):
            raise _strange(self.name)
        return value

    def binary(self, key: str) -> bytes:
        """Bytes, sent in base64.

        Raises:
            StoreUnavailableError: they are not there.
        """
        try:
            return base64.b64decode(self.text(key), validate=True)
        except binascii.Error:
            raise _strange(self.name) from None


def is_final(reply: Reply) -> bool:
    """Whether asking again would not give another reply."""
    return reply.status < 500 and reply.status != 429


class KeyService:
    """Posts to a key service that the operator named."""

    def __init__(self, guard: Guard) -> None:
        self._client = open_http(guard, max_bytes=MAX_BYTES, connect_secs=2.0, connections=10)

    async def post(
        self,
        name: str,
        url: str,
        body: bytes,
        headers: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        final: Callable[[Reply], bool] = is_final,
    ) -> Reply:
        """Post ``body``; wrapping and unwrapping may be repeated at will.

        Args:
            name: of the key, for messages.
            url: where to.
            body: what to send.
            headers: asked before each try.
            final: whether a reply is the answer, or worth another try.

        Raises:
            StoreUnavailableError: no connection, or no answer in time.
            ConfigError: there are no credentials to sign with.
        """
        why = ""
        for pause in (*PAUSES_SECS, None):
            try:
                async with asyncio.timeout(TRY_SECS):
                    reply = await self._once(url, body, await headers())
                if final(reply) or pause is None:
                    return reply
            except EgressDeniedError as error:
                raise away(name, f"lies where we may not connect to: {error.message}") from error
            except (httpx2.HTTPError, TimeoutError, StoreUnavailableError) as error:
                why = type(error).__name__
            except TooLargeError as error:
                raise away(name, "sends too much") from error
            if pause is not None:
                await asyncio.sleep(pause)
        raise away(name, f"does not answer ({why})")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _once(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        response = await self._client.post(url, content=body, headers=headers)
        return Reply(response.status_code, response.content)


def _strange(name: str) -> StoreUnavailableError:
    return away(name, "sent an answer that is not its own; check its address")
