"""A forward proxy as a process of its own: CONNECT, and plain requests with an absolute URL.

Usage: ``python forward_proxy.py LOG [USER:PASSWORD]``; prints its port. All names mean 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
        writer.write_eof()


async def take(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: str, login: str
) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, _, rest = head.decode("latin-1").partition("\r\n")
        with Path(log).open("a") as file:
            file.write(first + "\n")
        expected = "proxy-authorization: basic " + base64.b64encode(login.encode()).decode().lower()
        if login and expected not in rest.lower():
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
                b"Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return
        method, target, _ = first.split(" ")
        if method == "CONNECT":
            there = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            url = urlsplit(target)
            there = await asyncio.open_connection("127.0.0.1", url.port or 80)
            path = url._replace(scheme="", netloc="").geturl()
            there[1].write(f"{method} {path} HTTP/1.1\r\n{rest}".encode("latin-1"))
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
    except (OSError, ValueError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main(log: str, login: str = "") -> None:
    server = await asyncio.start_server(lambda r, w: take(r, w, log, login), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
