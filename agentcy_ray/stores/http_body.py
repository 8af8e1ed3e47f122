"""The body of an answer: decompressed here, so that its true size is bounded while it grows."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Protocol

import httpcore2
import httpx2

from agentcy_ray.core.errors import TooLargeError

ACCEPT_ENCODING = "gzip, deflate"
_PIECE = 256 * 1024
_HEADS = 64 * 1024
"""What a compressed body may have besides its data."""
_GZIP_BITS = zlib.MAX_WBITS | 16
CORE_ERRORS = (
    httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol, httpcore2.ProtocolError,
)  # fmt: skip
"""What the connections below a client raise."""


class Decoder(Protocol):
    """Undoes a content encoding, piece by piece."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` decompresses to, in pieces of ``_PIECE`` bytes at most."""
        ...

    def finish(self) -> None:
        """Raises ``httpx2.DecodingError`` when the data ended too early."""
        ...


def client_error(error: Exception) -> httpx2.HTTPError:
    """An error of a connection as the class of the same name that callers of a client expect."""
    for cls in type(error).__mro__:
        found = getattr(httpx2, cls.__name__, None)
        if isinstance(found, type) and issubclass(found, httpx2.HTTPError):
            return found(str(error))
    return httpx2.TransportError(str(error))


def decoder_of(encoding: str | None) -> Decoder | None:
    """The decoder of a ``Content-Encoding``; None when there is nothing to decode.

    Raises:
        httpx2.DecodingError: several encodings in layers, or one that was not asked for.
    """
    names = [name.strip().lower() for name in (encoding or "").split(",")]
    names = [name for name in names if name not in {"", "identity"}]
    if not names:
        return None
    if len(names) > 1 or names[0] not in {"gzip", "x-gzip", "deflate"}:
        raise httpx2.DecodingError(
            f"the answer is encoded as {', '.join(names)[:80]}; only gzip or deflate was asked for"
        )
    return _Inflater(gzip=names[0] != "deflate")


class _Inflater:
    """Decodes gzip of one or more members, zlib, and the bare deflate that some servers send."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._object = zlib.decompressobj(_GZIP_BITS if gzip else zlib.MAX_WBITS)
        self._fed = False
        self._head = b""
        """Input held back until the two bytes are there that tell zlib from bare deflate."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        data = self._head + data
        if not self._fed and len(data) < 2:
            self._head = data
            return
        first, self._fed, self._head = not self._fed, True, b""
        while data:
            if self._object.eof:
                if not self._gzip:
                    return
                self._object = zlib.decompressobj(_GZIP_BITS)
            try:
                piece = self._object.decompress(data, _PIECE)
            except zlib.error as error:
                if self._gzip or not first:
                    raise httpx2.DecodingError(
                        f"the answer does not decompress: {error}"
                    ) from error
                self._object, first = zlib.decompressobj(-zlib.MAX_WBITS), False
                continue
            first = False
            while piece:
                yield piece
                # All input may be taken in while output still waits inside.
                full = len(piece) == _PIECE and not self._object.unconsumed_tail
                piece = self._object.decompress(b"", _PIECE) if full else b""
            # At its end an object keeps what it did not take in both places.
            ended = self._object.eof
            data = self._object.unused_data if ended else self._object.unconsumed_tail

    def finish(self) -> None:
        if self._head or (self._fed and not self._object.eof):
            raise httpx2.DecodingError("the compressed answer ended too early")


class Body(httpx2.AsyncByteStream):
    """A body that ends with an error when it is too large or takes too long."""

    def __init__(
        self,
        stream: AsyncIterable[bytes],
        decoder: Decoder | None,
        host: str,
        max_bytes: int,
        ends: float | None,
    ) -> None:
        """Wrap what a connection sends.

        Args:
            stream: bytes as they come; closed by ``aclose``.
            decoder: None = they are what they are.
            host: for error messages.
            max_bytes: of the body, decompressed, and about as many as they come: much can
                decompress to nothing.
            ends: time of the loop's clock at which reading ends; None = never.
        """
        self._stream = stream
        self._decoder = decoder
        self._host = host
        self._max_bytes = max_bytes
        self._ends = ends

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The decompressed pieces.

        Raises:
            TooLargeError: more than ``max_bytes`` came.
            httpx2.HTTPError: the connection failed, or the data does not decompress.
        """
        size, came, parts = 0, 0, aiter(self._stream)
        while True:
            try:
                async with asyncio.timeout_at(self._ends):
                    part = await anext(parts, None)
            except TimeoutError as error:
                raise httpx2.ReadTimeout("the answer took too long") from error
            except CORE_ERRORS as error:
                raise client_error(error) from error
            if part is None:
                break
            came += len(part)
            if came > self._max_bytes + self._max_bytes // 100 + _HEADS:
                raise self._too_large()
            for piece in (part,) if self._decoder is None else self._decoder.feed(part):
                size += len(piece)
                if size > self._max_bytes:
                    raise self._too_large()
                yield piece
        if self._decoder is not None:
            self._decoder.finish()

    async def aclose(self) -> None:
        """Give the connection back, or end it when something is left unread."""
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"{self._host} sent more than {self._max_bytes} bytes; split it or put it into the"
            " object store",
            limit=self._max_bytes,
        )
