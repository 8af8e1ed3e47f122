"""Servers of a test's own: HTTP as bytes, a resolver that lies, certificates, a forward proxy."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = bytes | Callable[[bytes], bytes]
"""What a server sends for a path; a callable is given the head of the request."""


def reply(body: bytes = b"ok", *headers: str, status: str = "200 OK") -> bytes:
    """An answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(to: str, *headers: str) -> bytes:
    return reply(b"", f"Location: {to}", *headers, status="302 Found")


@dataclass
class Wire:
    """A running server. ``heads`` are the requests it saw; unknown paths are answered with ok."""

    host: str
    port: int
    answers: dict[str, Answer] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = "/", *, host: str | None = None, scheme: str = "http") -> str:
        return f"{scheme}://{host or self.host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head)
                answer = self.answers.get(head.split(b" ")[1].decode(), reply())
                writer.write(answer(head) if callable(answer) else answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def wire(
    host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[Wire]:
    """A server on a loopback address; all of 127.0.0.0/8 is this machine."""
    running = Wire(host, port)
    server = await asyncio.start_server(running.serve, host, port, ssl=tls)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()


class DnsServer(asyncio.DatagramProtocol):
    """A name server on loopback. ``names`` hold lists of addresses, one list per look-up.

    The last list stays; a name that isn't known does not exist. ``asked`` are the names, in order.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[Sequence[str]]] = {}
        self.asked: list[str] = []
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _read_name(data, 12)
        (kind,) = struct.unpack_from("!H", data, end)
        answers = self._answers(name, kind)
        head = data[:2] + struct.pack(
            "!HHHHH", 0x8180 if answers is not None else 0x8183, 1, len(answers or ()), 0, 0
        )
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(raw)) + raw for raw in answers or ()
        )
        assert self._transport is not None
        self._transport.sendto(head + data[12 : end + 4] + records, addr)

    def _answers(self, name: str, kind: int) -> list[bytes] | None:
        lists = self.names.get(name)
        if lists is None:
            return None
        if kind == 1:  # A is asked first
            self.asked.append(name)
        version = 4 if kind == 1 else 6
        found = [ip_address(text) for text in lists[0]]
        if kind == 28 and len(lists) > 1:
            lists.pop(0)
        return [address.packed for address in found if address.version == version]


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    while size := data[at]:
        labels.append(data[at + 1 : at + 1 + size].decode())
        at += size + 1
    return ".".join(labels).lower(), at + 1


class DnsResolver:
    """Asks one name server, and nothing else: a ``Resolver`` for guards."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return [*await self._ask(host, 1), *await self._ask(host, 28)]

    async def _ask(self, host: str, kind: int) -> list[str]:
        loop = asyncio.get_running_loop()
        labels = host.removesuffix(".").encode().split(b".")
        name = b"".join(bytes([len(label)]) + label for label in labels)
        query = (
            struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack("!BHH", 0, kind, 1)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.setblocking(False)
            asker.connect(("127.0.0.1", self._port))
            await loop.sock_sendall(asker, query)
            data = await loop.sock_recv(asker, 4096)
        if data[3] & 0x0F:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        (count,) = struct.unpack_from("!H", data, 6)
        at, found = len(query), list[str]()
        for _ in range(count):
            (size,) = struct.unpack_from("!H", data, at + 10)
            found.append(str(ip_address(data[at + 12 : at + 12 + size])))
            at += 12 + size
        return found


@asynccontextmanager
async def dns_server(**names: Sequence[str]) -> AsyncGenerator[DnsServer]:
    """A running name server; more names go into its ``names``."""
    server = DnsServer()
    server.names.update({name: [addresses] for name, addresses in names.items()})
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, ("127.0.0.1", 0))
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        transport.close()


@dataclass(frozen=True)
class Certificates:
    """An authority of the test's own, and a server with a certificate of it."""

    authority: Path
    server: ssl.SSLContext
    sha256: str


def certificates(folder: Path, *names: str) -> Certificates:
    """Make an authority, and a certificate for names and addresses."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    own = ec.generate_private_key(ec.SECP256R1())

    def made(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        builder = builder.public_key(public).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1))
        return builder.not_valid_after(now + timedelta(hours=1))

    ca = made(issuer, key.public_key()).add_extension(x509.BasicConstraints(True, 0), True)
    authority = ca.sign(key, hashes.SHA256())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives = [_alternative(name) for name in names]
    leaf = made(subject, own.public_key()).add_extension(
        x509.SubjectAlternativeName(alternatives), False
    )
    certificate = leaf.sign(key, hashes.SHA256())
    pem, encoding = folder / "server.pem", serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = own.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    pem.write_bytes(private + certificate.public_bytes(encoding))
    (folder / "authority.pem").write_bytes(authority.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    digest = certificate.fingerprint(hashes.SHA256()).hex()
    return Certificates(folder / "authority.pem", context, digest)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class ForwardProxy:
    """A proxy process. Every name means loopback to it, as names that only it knows do."""

    url: str
    log: Path

    def lines(self) -> list[str]:
        """First lines of the requests it took."""
        return self.log.read_text().splitlines()


@asynccontextmanager
async def forward_proxy(folder: Path, login: str = "") -> AsyncGenerator[ForwardProxy]:
    """Run ``tests/forward_proxy.py``; ``login`` (``user:password``) is asked for when given."""
    log = folder / "proxy.log"
    log.touch()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("forward_proxy.py")), str(log), login,
        stdout=asyncio.subprocess.PIPE, env={},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), 60))
        at = f"{login}@" if login else ""
        yield ForwardProxy(f"http://{at}127.0.0.1:{port}", log)
    finally:
        process.terminate()
        await process.wait()


def names_of(heads: Sequence[bytes], name: str) -> list[str | None]:
    """The value of one header in each request head."""
    found: list[str | None] = []
    for head in heads:
        fields: Mapping[str, str] = {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
        }
        found.append(fields.get(name.lower()))
    return found
