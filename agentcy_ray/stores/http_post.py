"""JSON by POST to a server that an operator named, bounded in size and time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import orjson

from agentcy_ray.core.errors import (
    ConfigError,
    EgressDeniedError,
    SourceConfigError,
    StoreUnavailableError,
    TooLargeError,
)
from agentcy_ray.stores.egress import Guard
from agentcy_ray.stores.http import check_url
from agentcy_ray.stores.http_client import open_http

_ERROR_BYTES = 64 * 1024


@dataclass(frozen=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    body: bytes
    retry_after_secs: float | None
    """How long the server asks to wait; None when it does not say."""


class JsonPoster:
    """Posts to the paths of one server over kept connections. Redirects are not followed."""

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        *,
        guard: Guard,
        timeout_secs: float,
        max_bytes: int,
        connections: int,
    ) -> None:
        """Nothing is connected yet.

        Args:
            base_url: http or https, with a host and without a user part.
            headers: sent with each request; secrets belong here.
            guard: judges the server.
            timeout_secs: without a byte.
            max_bytes: of an answer.
            connections: most at once.

        Raises:
            ConfigError: the URL may not be asked.
        """
        try:
            self._base = check_url(base_url.rstrip("/") + "/")
            guard.check_url(self._base)
        except (SourceConfigError, EgressDeniedError) as error:
            raise ConfigError(f"{error.message}; correct the base URL") from error
        self._max_bytes = max_bytes
        self._client = open_http(
            guard,
            headers={**headers, "content-type": "application/json"},
            idle_secs=timeout_secs,
            max_bytes=max_bytes,
            connections=connections,
        )

    async def post(self, path: str, body: Any) -> Answer:
        """Send ``body`` as JSON to a path below the base URL.

        Raises:
            StoreUnavailableError: no connection, no answer in time, or one that is too large.
        """
        url, sent = self._base.join(path), orjson.dumps(body)
        try:
            async with self._client.stream("POST", url, content=sent) as response:
                read = await self._read(response)
                wait = _retry_after(response.headers.get("retry-after"))
                return Answer(response.status_code, read, wait)
        except TooLargeError as error:
            raise StoreUnavailableError(f"{error.message}; ask for less at once") from error
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise StoreUnavailableError(
                f"{self._base.host} did not answer: {reason}; check the base URL and the network"
            ) from error

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _read(self, response: httpx2.Response) -> bytes:
        limit = self._max_bytes if response.status_code < 300 else _ERROR_BYTES
        parts, size = list[bytes](), 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > limit:
                raise StoreUnavailableError(
                    f"{self._base.host} sent more than {limit} bytes; ask for less at once"
                )
            parts.append(part)
        return b"".join(parts)


def _retry_after(text: str | None) -> float | None:
    """Seconds of a ``Retry-After``, which is a number or a date."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
