"""What the ingress refuses by itself, and its TLS: through the real HAProxy, by sockets."""

from __future__ import annotations

import asyncio
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.routing import Route

from agentcy_ray.api.origin import Origin
from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.runtime import haproxy, listener
from agentcy_ray.runtime.cluster_config import ClusterConfig, load_cluster_config
from agentcy_ray.stores.embedded.ports import choose
from tests.api.platform import serve
from tests.runtime.test_haproxy import binds, ingress, running, whoami


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate for ``name`` that is its own issuer, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509
        .CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private


async def exchange(port: int, sent: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """All that is answered to ``sent`` until the ingress closes."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost" if context else None
        )
        writer.write(sent)
        await writer.drain()
        answer = await reader.read()
        writer.close()
    return answer


@pytest.mark.attack
@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 40_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_reaches_no_replica(
    tmp_path: Path, sent: bytes
) -> None:
    async with serve(_never, lifespan="off") as url:
        made = ingress(tmp_path, replica=int(url.rpartition(":")[2]))
        async with running(made) as client:
            assert (await client.get("/-/healthz")).status_code in (200, 503)
            # HAProxy's own words: it has none of ours for what it cannot read as a request.
            answer = await exchange(made.port, sent)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"haproxy" not in answer.lower()
            assert b"\r\nserver:" not in answer.lower()


@pytest.mark.requirement("API-03")
async def test_without_a_replica_the_answer_is_unavailable_and_says_when_to_come_back(
    tmp_path: Path,
) -> None:
    made = ingress(tmp_path, replica=choose([]))
    async with running(made) as client:
        answer = await client.get("/api/v1/auth/me")
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "request_id", "details"}
    assert (error["code"], error["request_id"]) == ("unavailable", answer.headers["x-request-id"])
    assert answer.headers["retry-after"] == "1"


def test_the_head_of_a_request_has_a_time_to_arrive_in(tmp_path: Path) -> None:
    lines = [line.strip() for line in ingress(tmp_path).edited().splitlines()]
    assert lines.count(f"timeout http-request {haproxy.HEAD_SECS}s") == 1


@pytest.mark.parametrize(
    ("listen", "bound"), [("0.0.0.0", "0.0.0.0"), ("::", "[::]"), ("127.0.0.1", "127.0.0.1")]
)
def test_haproxy_alone_goes_to_the_public_address(tmp_path: Path, listen: str, bound: str) -> None:
    made = ingress(tmp_path)  # Serve is told loopback, and so are its replicas
    real = haproxy.binary()
    assert real is not None
    haproxy.install(made.home, real, listen=listen)
    once = made.edited()
    assert binds(once) == {"prometheus": "127.0.0.1", "stats": "127.0.0.1", "http_frontend": bound}
    assert made.edited() == once


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize(
    ("ha_proxy", "joined", "host"),
    [(True, None, "127.0.0.1"), (False, None, "0.0.0.0"), (True, "10.0.0.5:6379", "0.0.0.0")],
)
def test_serves_own_listeners_stay_on_loopback_behind_haproxy(
    ha_proxy: bool, joined: str | None, host: str
) -> None:
    settings = Settings.load(
        {}, agentcy_host="0.0.0.0", agentcy_behind_tls_proxy=True, ray_address=joined
    )
    assert listener.serve_host(settings, ha_proxy=ha_proxy) == host


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ({}, False),
        ({"AGENTCY_BEHIND_TLS_PROXY": "false"}, False),
        ({"AGENTCY_PUBLIC_URL": "http://a.example.com"}, False),
        ({"AGENTCY_BEHIND_TLS_PROXY": "true"}, True),
        ({"AGENTCY_PUBLIC_URL": "https://a.example.com"}, True),
    ],
)
def test_a_cluster_config_that_listens_beyond_a_machine_says_who_has_the_tls(
    tmp_path: Path, said: dict[str, str], good: bool
) -> None:
    config = {"serve": {"host": "0.0.0.0"}, "environment": said}
    if good:
        assert ClusterConfig.model_validate(config).serve.host == "0.0.0.0"
    else:
        path = tmp_path / "agentcy.yaml"
        path.write_bytes(orjson.dumps(config))  # JSON is YAML
        with pytest.raises(ConfigError, match="AGENTCY_BEHIND_TLS_PROXY"):
            load_cluster_config(str(path))


@pytest.mark.requirement("SEC-01")
async def test_the_admin_socket_and_the_key_are_the_owners_alone(tmp_path: Path) -> None:
    made = ingress(tmp_path)
    async with running(made) as client:
        await client.get("/-/healthz")
        assert stat.S_IMODE((made.home / "admin.sock").stat().st_mode) == 0o600
    cert, key = certificate(tmp_path)
    settings = Settings.load({}, agentcy_tls_cert=str(cert), agentcy_tls_key=str(key))
    pem = listener.certificate(settings, made.home)
    assert pem is not None
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600


@pytest.mark.requirement("SEC-01")
async def test_with_a_certificate_the_listener_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    settings = Settings.load({}, agentcy_tls_cert=str(cert), agentcy_tls_key=str(key))
    listener.require_guarded(settings)
    app = Origin(Starlette(routes=[Route("/{rest:path}", whoami)]), (), haproxy.PEER_HEADER)
    async with serve(app) as url:
        made = ingress(tmp_path, replica=int(url.rpartition(":")[2]))
        real = haproxy.binary()
        assert real is not None
        haproxy.install(made.home, real, listener.certificate(settings, made.home))
        once = made.edited()
        assert made.edited() == once
        ask = b"GET /x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        trusting = ssl.create_default_context(cafile=str(cert))
        async with running(made):
            answer = await _once_up(made.port, ask, trusting)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b'"client":"127.0.0.1"' in answer
            # In clear text there is no answer, nor with TLS of another age, nor to who trusts none.
            assert not (await exchange(made.port, ask)).startswith(b"HTTP/1.1 200")
            old = ssl.create_default_context(cafile=str(cert))
            old.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await exchange(made.port, ask, old)
            with pytest.raises(ssl.SSLCertVerificationError):
                await exchange(made.port, ask, ssl.create_default_context())


async def _never(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the ingress let it through")


async def _once_up(port: int, ask: bytes, context: ssl.SSLContext) -> bytes:
    """The first answer of a listener that may just be starting; bounded."""
    async with asyncio.timeout(60):
        while True:
            try:
                answer = await exchange(port, ask, context)
            except ConnectionRefusedError:
                await asyncio.sleep(0)
                continue
            if b" 503 " not in answer[:20]:
                return answer


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "192.168.1.5", "api.example.com"])
def test_a_bind_beyond_loopback_is_refused_without_tls_or_a_statement(host: str) -> None:
    with pytest.raises(ConfigError) as refused:
        listener.require_guarded(Settings.load({}, agentcy_host=host))
    for way in ("AGENTCY_TLS_CERT", "AGENTCY_BEHIND_TLS_PROXY=true", "127.0.0.1"):
        assert way in refused.value.message
    # An address for links is no statement about who reaches the port.
    with pytest.raises(ConfigError):
        listener.require_guarded(
            Settings.load({}, agentcy_host=host, agentcy_public_url="https://a.example.com")
        )
    listener.require_guarded(Settings.load({}, agentcy_host=host, agentcy_behind_tls_proxy=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.0.1"])
def test_a_bind_on_loopback_needs_neither(host: str) -> None:
    listener.require_guarded(Settings.load({}, agentcy_host=host))


def test_tls_files_that_cannot_be_used_are_a_fault_of_the_settings(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, key = certificate(other)
    given: dict[str, Any]
    for given in (
        {"agentcy_tls_cert": "/nowhere.pem"},
        {"agentcy_tls_cert": str(cert), "agentcy_tls_key": str(key)},
        {"agentcy_tls_key": str(key)},
    ):
        with pytest.raises(ConfigError, match="AGENTCY_TLS"):
            listener.require_guarded(Settings.load({}, **given))
