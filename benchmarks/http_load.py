"""A small closed-loop HTTP/1.1 load: keep-alive connections, one request in flight on each."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from urllib.parse import urlsplit


def requests_per_second(
    url: str, headers: dict[str, str], secs: float, connections: int, body: bytes | None = None
) -> float:
    """Answered requests a second, measured from a process of its own.

    With ``body``, JSON, the requests are POSTs.

    Raises:
        RuntimeError: an answer was not 200.
    """
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[float | str] = context.Queue()
    process = context.Process(target=_client, args=(queue, url, headers, secs, connections, body))
    process.start()
    answer = queue.get(timeout=secs + 60)
    process.join()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _client(
    queue: object, url: str, headers: dict[str, str], secs: float, count: int, body: bytes | None
) -> None:
    try:
        result: float | str = asyncio.run(_load(url, headers, secs, count, body))
    except Exception as error:  # noqa: BLE001 - told to the parent process
        result = f"{type(error).__name__}: {error}"
    queue.put(result)  # type: ignore[attr-defined]


async def _load(
    url: str, headers: dict[str, str], secs: float, count: int, body: bytes | None
) -> float:
    parts = urlsplit(url)
    method = "GET" if body is None else "POST"
    if body is not None:
        length = str(len(body))
        headers = {**headers, "content-type": "application/json", "content-length": length}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{method} {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}\r\n"
    request = head.encode() + (body or b"")
    await _many(parts.hostname or "", parts.port or 80, request, 1.0, count)  # warm-up
    began = time.perf_counter()
    done = await _many(parts.hostname or "", parts.port or 80, request, secs, count)
    return done / (time.perf_counter() - began)


async def _many(host: str, port: int, request: bytes, secs: float, count: int) -> int:
    until = time.perf_counter() + secs
    return sum(await asyncio.gather(*(_one(host, port, request, until) for _ in range(count))))


async def _one(host: str, port: int, request: bytes, until: float) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    done = 0
    try:
        while time.perf_counter() < until:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:20]:
                raise RuntimeError(f"answered {head[:60]!r}")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            done += 1
    finally:
        writer.close()
    return done
