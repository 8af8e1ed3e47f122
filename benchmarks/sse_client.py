"""A client of many SSE streams in a process of its own: raw sockets, next to nothing per stream.

The process takes one JSON command a line and answers each by a line: ``open`` a list of paths, each
a connection of its own, answered when every one has sent its first bytes; ``follow`` waits until
every stream has ended and answers what each brought.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

OPEN_AT_ONCE, PATIENCE_SECS = 64, 300.0
_ENDS = (b"event: message_end\n", b"event: error\n")


class SseError(Exception):
    """A stream did not open, or broke; the message says how."""


class SseClient:
    """The client process, seen from the benchmark."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def open(self, paths: Sequence[str]) -> None:
        """Open a stream for each path.

        Raises:
            SseError: a stream was refused.
        """
        await self._ask({"open": list(paths)})

    async def follow(self) -> list[list[tuple[int, int]]]:
        """For each stream in the order of opening: seq and time of receipt of each event.

        Times are of the wall clock in nanoseconds. Answers when all streams have ended.

        Raises:
            SseError: a stream broke before its end.
        """
        return await self._ask({"follow": True})

    async def _ask(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(command) + b"\n")
        async with asyncio.timeout(PATIENCE_SECS):
            line = await self._process.stdout.readline()
        if not line:
            raise SseError("the client process ended; its last words are above")
        answer = orjson.loads(line)
        if "error" in answer:
            raise SseError(answer["error"])
        return answer["answer"]


@asynccontextmanager
async def sse_client(url: str, headers: dict[str, str]) -> AsyncGenerator[SseClient]:
    """A client of the server at ``url``; its streams are closed on leaving."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.sse_client", url, orjson.dumps(headers).decode(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        limit=2**28, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    try:
        yield SseClient(process)
    finally:
        process.terminate()
        await process.wait()


# -- the client process ----------------------------------------------------------------------------


class _Stream(asyncio.Protocol):
    """One connection: reads chunks (RFC 9112, section 7.1), and events out of them."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.began: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.events: list[tuple[int, int]] = []
        self._request = request
        self._raw, self._text, self._headed = b"", b"", False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.began, self.ended):
            if not future.done():
                future.set_exception(SseError(f"the server closed a stream early: {exc}"))
                future.exception()  # whoever waits is told; nobody need wait

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        self._raw += data
        if not self._headed:
            head, found, rest = self._raw.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 200 " not in head[:16]:
                if not self.began.done():
                    self.began.set_exception(SseError(f"answered {head[:60]!r}"))
                return
            self._headed, self._raw = True, rest
        while self._chunk():
            pass
        while b"\n\n" in self._text:
            frame, _, self._text = self._text.partition(b"\n\n")
            self._frame(frame + b"\n", now)

    def _chunk(self) -> bool:
        """Take one whole chunk over, if there is one."""
        size, found, rest = self._raw.partition(b"\r\n")
        length = int(size, 16) if found else 0
        if not length or len(rest) < length + 2:
            return False
        self._text += rest[:length]
        self._raw = rest[length + 2 :]
        if not self.began.done():
            self.began.set_result(None)
        return True

    def _frame(self, frame: bytes, now: int) -> None:
        if frame.startswith(b"id: "):
            self.events.append((int(frame[4 : frame.index(b"\n")]), now))
        if any(end in frame for end in _ENDS) and not self.ended.done():
            self.ended.set_result(None)


async def _serve(url: str, headers: dict[str, str]) -> None:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    streams: list[_Stream] = []
    gate = asyncio.Semaphore(OPEN_AT_ONCE)

    async def opened(path: str) -> _Stream:
        request = f"GET {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{lines}\r\n".encode()
        async with gate:
            _, stream = await loop.create_connection(
                lambda: _Stream(request), parts.hostname or "", parts.port or 80
            )
            await stream.began
        return stream

    async def answer(command: dict[str, Any]) -> Any:
        if "open" in command:
            streams.extend(await asyncio.gather(*(opened(path) for path in command["open"])))
            return len(streams)
        await asyncio.gather(*(stream.ended for stream in streams))
        return [stream.events for stream in streams]

    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        try:
            said = {"answer": await answer(orjson.loads(line))}
        except (SseError, OSError) as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.buffer.write(orjson.dumps(said) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], orjson.loads(sys.argv[2])))
