"""Fetching a URL into a file, bounded in size, time and redirects."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2

from agentcy_ray.core.errors import EgressDeniedError, SourceConfigError, StorageFullError
from agentcy_ray.stores.egress import Guard
from agentcy_ray.stores.http_client import open_http

MAX_REDIRECTS = 5
_CHUNK = 256 * 1024
_OURS = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
    "expect", "accept-encoding", "proxy-authorization", "proxy-connection",
})  # fmt: skip
"""Headers that say where a request goes and where it ends: nobody else sets them."""
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")


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
    guard: Guard,
    headers: Mapping[str, str] | None = None,
    max_bytes: int,
    timeout_secs: float = 300,
) -> Fetched:
    """Download ``url`` into the file ``into``, which is replaced.

    Up to five redirects are followed, each checked like the first URL. ``headers`` go to the first
    origin only, and no more once a redirect has left it; from https none leads to http.

    Raises:
        SourceConfigError: kind ``unreachable``, ``credentials`` (401), ``scope`` (403),
            ``rate_limited`` (429) or ``config`` (a URL or a header that may not be sent).
        EgressDeniedError: the guard forbids the URL or a redirect.
        TooLargeError: the body, decompressed, is larger than ``max_bytes``.
        StorageFullError: no space for the file.
    """
    shown, own = _shown(url), _own_headers(headers or {})
    first = target = check_url(url)
    client = open_http(guard, total_secs=timeout_secs, max_bytes=max_bytes, connections=1)
    try:
        async with asyncio.timeout(timeout_secs), client:
            for _ in range(MAX_REDIRECTS + 1):
                request = client.build_request("GET", target, headers=own)
                response = await client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        _check_status(response, shown)
                        return await _spool(response, into)
                finally:
                    await response.aclose()
                target = _next(request.url, response.next_request.url)
                own = own if _same_origin(first, target) else {}
            raise _fault("unreachable", f"{shown} redirects more than {MAX_REDIRECTS} times")
    except (TimeoutError, httpx2.ReadTimeout) as error:
        raise _fault("unreachable", f"{shown} took longer than {timeout_secs:g} s") from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise _fault("unreachable", f"{shown} cannot be reached: {reason}") from error


def _own_headers(headers: Mapping[str, str]) -> dict[str, str]:
    taken = sorted(name for name in headers if name.strip().lower() in _OURS)
    if taken:
        raise _fault("config", f"the header {taken[0]} cannot be set; leave it out", "headers")
    sent = {name: value.strip(" \t\r\n") for name, value in headers.items()}
    for name, value in sent.items():
        # Told here, since libraries quote the value, which is a secret.
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _fault(
                "config",
                f"the header {name[:60]!a} cannot be sent: names are letters, digits and"
                " dashes, values one line of ASCII; correct it",
                "headers",
            )
    return sent


def _next(here: httpx2.URL, there: httpx2.URL) -> httpx2.URL:
    """Where a redirect leads."""
    check_url(str(there))
    if here.scheme == "https" and there.scheme != "https":
        raise EgressDeniedError(
            f"{_shown(str(here))} redirects from https to http, which anybody on the way can read;"
            " name the place that it leads to",
            host=there.host,
        )
    return there


async def _spool(response: httpx2.Response, into: Path) -> Fetched:
    digest, size = hashlib.sha256(), 0
    with await asyncio.to_thread(into.open, "wb") as file:
        async for chunk in response.aiter_bytes(_CHUNK):
            size += len(chunk)
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


def _fault(kind: str, message: str, loc: str = "url") -> SourceConfigError:
    return SourceConfigError(message, kind=kind, errors=[{"loc": loc, "message": message}])
