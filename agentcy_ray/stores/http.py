"""The one way out over HTTP: fetch a URL into a file, bounded in size, time and redirects."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2

from agentcy_ray.core.errors import SourceConfigError, StorageFullError, TooLargeError

MAX_REDIRECTS = 5
_CONNECT_SECS = 10.0
_IDLE_SECS = 30.0
_CHUNK = 256 * 1024


@dataclass(frozen=True)
class Fetched:
    """What came back. ``sha256`` is hexadecimal; ``url`` is where the redirects ended."""

    url: str
    bytes: int
    sha256: str
    media_type: str


def check_url(url: str) -> httpx2.URL:
    """``url`` when it may be fetched at all: http or https, with a host, without a user part.

    Raises:
        SourceConfigError: kind ``config``.
    """
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise _refused(f"not a URL: {error}") from error
    if parsed.scheme not in {"http", "https"}:
        raise _refused(f"only http and https URLs are fetched, not {parsed.scheme or 'this'!r}")
    if not parsed.host:
        raise _refused("the URL names no host")
    if parsed.userinfo:
        raise _refused("a URL must not carry a user name or password; use the header field")
    return parsed


async def fetch(
    url: str,
    into: Path,
    *,
    headers: Mapping[str, str] | None = None,
    max_bytes: int,
    timeout_secs: float = 300,
) -> Fetched:
    """Download ``url`` into the file ``into``, which is replaced.

    ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` are honoured. Up to five redirects are
    followed, each checked like the first URL; ``headers`` go to the first origin only.

    Raises:
        SourceConfigError: kind ``unreachable``, ``credentials`` (401), ``scope`` (403),
            ``rate_limited`` (429) or ``config`` (a URL that may not be fetched).
        TooLargeError: the body is larger than ``max_bytes``.
        StorageFullError: no space for the file.
    """
    shown = _shown(url)
    target = check_url(url)
    limits = httpx2.Timeout(_IDLE_SECS, connect=_CONNECT_SECS)
    try:
        async with (
            asyncio.timeout(timeout_secs),
            httpx2.AsyncClient(timeout=limits, follow_redirects=False) as client,
        ):
            request = client.build_request("GET", target, headers=dict(headers or {}))
            for _ in range(MAX_REDIRECTS + 1):
                response = await client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        _check_status(response, shown)
                        return await _spool(response, into, max_bytes)
                finally:
                    await response.aclose()
                check_url(str(response.next_request.url))
                request = response.next_request
                if not _same_origin(target, request.url):
                    for name in headers or ():
                        request.headers.pop(name, None)
            raise _fault("unreachable", f"{shown} redirects more than {MAX_REDIRECTS} times")
    except TimeoutError as error:
        raise _fault("unreachable", f"{shown} took longer than {timeout_secs:g} s") from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise _fault("unreachable", f"{shown} cannot be reached: {reason}") from error


async def _spool(response: httpx2.Response, into: Path, max_bytes: int) -> Fetched:
    digest, size = hashlib.sha256(), 0
    with await asyncio.to_thread(into.open, "wb") as file:
        async for chunk in response.aiter_bytes(_CHUNK):
            size += len(chunk)
            if size > max_bytes:
                raise TooLargeError(
                    f"{_shown(str(response.url))} is larger than {max_bytes} bytes;"
                    " split it or put it into the object store",
                    limit=max_bytes,
                )
            digest.update(chunk)
            await asyncio.to_thread(_write, file, chunk)
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    return Fetched(_shown(str(response.url)), size, digest.hexdigest(), media_type)


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageFullError(
                "no space is left in the state folder for a download; free some, then repeat"
            ) from error
        raise


def _check_status(response: httpx2.Response, shown: str) -> None:
    status = response.status_code
    if status < 300:
        return
    answer = f"{shown} answered {status} {response.reason_phrase}".rstrip()
    if status == 401:
        raise _fault("credentials", f"{answer}; check the credentials of this source")
    if status == 403:
        raise _fault("scope", f"{answer}; the credentials lack the right to read it")
    if status == 429:
        raise _fault("rate_limited", f"{answer}; try again later")
    raise _fault("unreachable", f"{answer}; check the URL")


def _same_origin(one: httpx2.URL, other: httpx2.URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _shown(url: str) -> str:
    """A URL for people: without query and user part, where secrets hide."""
    try:
        return str(httpx2.URL(url).copy_with(query=None, fragment=None, userinfo=b""))
    except (httpx2.InvalidURL, ValueError):
        return "the URL"


def _refused(message: str) -> SourceConfigError:
    return _fault("config", f"the URL is refused: {message}")


def _fault(kind: str, message: str) -> SourceConfigError:
    return SourceConfigError(message, kind=kind, errors=[{"loc": "url", "message": message}])
