"""The Basic engine as a client of a Bolt server: faults, privileges, writers, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from neo4j import AsyncManagedTransaction

from agentcy_ray.context.basic import BasicEngine
from agentcy_ray.context.basic.bolt import Bolt, TooBigError
from agentcy_ray.context.basic.writes import _in_parts  # pyright: ignore[reportPrivateUsage]
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.errors import ConfigError, EngineError, InvalidError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.resolve import resolve_endpoints
from tests.conformance.graphs import LATER, SEEN, Graph, write

_T = TypeVar("_T")


@pytest.fixture
async def bolt(endpoints: Endpoints) -> AsyncIterator[Bolt]:
    opened = Bolt.open(endpoints)
    yield opened
    await opened.close()


async def test_a_server_that_is_away_is_unavailable_at_once(endpoints: Endpoints) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"bolt://127.0.0.1:{unused.getsockname()[1]}"
    engine = BasicEngine(Bolt.open(replace(endpoints, neo4j_uri=uri)), embedded=True, batch_rows=9)

    with pytest.raises(StoreUnavailableError, match="agentcy doctor"):
        await engine.ping()
    await engine.close()


async def test_wrong_credentials_name_the_settings(endpoints: Endpoints) -> None:
    bolt = Bolt.open(replace(endpoints, neo4j_reader_password="wrong"))

    with pytest.raises(ConfigError, match="NEO4J_PASSWORD"):
        await bolt.ping()
    await bolt.close()


def test_a_malformed_address_is_refused_when_opened(endpoints: Endpoints) -> None:
    with pytest.raises(ConfigError, match="NEO4J_URI"):
        Bolt.open(replace(endpoints, neo4j_uri="http://127.0.0.1:7474"))


@pytest.mark.requirement("CTX-14")
async def test_the_user_of_queries_cannot_write_even_past_the_gate(bolt: Bolt) -> None:
    for text in (
        "CREATE (n:Entity {id: 'x'})",
        "MATCH (n:Entity) SET n.name = 'x'",
        "MATCH (n:Entity) DETACH DELETE n",
        "CREATE INDEX sneaky IF NOT EXISTS FOR (n:Entity) ON (n.sneaky)",
    ):
        await bolt.execute("MERGE (n:Entity {id: 'victim'}) SET n.name = 'y'")
        with pytest.raises(EngineError) as caught:
            await bolt.read(text)
        assert "Security.Forbidden" in caught.value.details["engine_code"]


async def test_several_processes_may_prepare_and_write_at_once(
    settings: Settings, endpoints: Endpoints
) -> None:
    engines = [open_engine(settings, endpoints) for _ in range(4)]
    graph = Graph(uuid4())
    for key in "abcdef":
        graph.node(key)
    graph.edge("a", f"RACE_{graph.org.hex[:8].upper()}", "b")

    await asyncio.gather(*(engine.prepare() for engine in engines))
    await asyncio.gather(*(write(engine, graph) for engine in engines))

    counts = await engines[0].stats(graph.scope)
    assert (counts.nodes, counts.edges) == (6, 1)
    for engine in engines:
        await engine.close()


class _Watched(Bolt):
    """Counts how many writes are under way together."""

    def watch(self) -> None:
        self.now = self.most = 0

    async def write(self, work: Callable[[AsyncManagedTransaction], Awaitable[_T]]) -> _T:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super().write(work)
        finally:
            self.now -= 1


@pytest.mark.requirement("CTX-12")
async def test_writes_of_one_engine_go_one_after_another(endpoints: Endpoints) -> None:
    bolt = _Watched.open(endpoints)
    assert isinstance(bolt, _Watched)
    bolt.watch()
    engine = BasicEngine(bolt, embedded=True, batch_rows=2)
    graph = Graph(uuid4())
    for key in "abcdef":
        graph.node(key)

    await asyncio.gather(
        *(engine.upsert_nodes(graph.org, graph.node_batch(), SEEN) for _ in range(3)),
        engine.archive(graph.org, "node", [graph.id("a")], SEEN),
        engine.prune(graph.org, graph.source, SEEN),
    )

    assert bolt.most == 1
    await engine.close()


async def test_a_part_that_is_too_big_for_the_server_is_halved(bolt: Bolt) -> None:
    done: list[int] = []

    async def unit(transaction: AsyncManagedTransaction, part: Any) -> int:
        if len(part) > 3:
            raise TooBigError
        done.extend(part)
        return len(part)

    assert await _in_parts(bolt, list(range(10)), 8, unit) == 10
    assert done == list(range(10))

    async def never(transaction: AsyncManagedTransaction, part: Any) -> int:
        raise TooBigError

    with pytest.raises(EngineError, match="too little memory"):
        await _in_parts(bolt, [1, 2], 2, never)


async def test_a_batch_beyond_the_message_limit_of_the_server_is_written_in_parts(
    settings: Settings, endpoints: Endpoints
) -> None:
    engine = open_engine(settings, endpoints)
    graph = Graph(uuid4())
    for number in range(24):
        graph.node(f"n{number}", body="\u732b" * 300_000)

    await write(engine, graph)

    assert (await engine.stats(graph.scope)).nodes == 24
    await engine.archive(graph.org, "node", [graph.id(key) for key in graph.nodes], SEEN)
    assert await engine.prune(graph.org, graph.source, LATER) == 24  # spare the other tests' scans
    graph.nodes.clear()
    giant = graph.node("giant", body="x" * 20_000_000)
    with pytest.raises(InvalidError, match=giant):
        await write(engine, graph)
    await engine.close()


@pytest.mark.requirement("CTX-11")
@pytest.mark.parametrize("tls", [True, False])
async def test_the_server_of_neo4j_uri_takes_the_place_of_the_embedded_one(
    settings: Settings, endpoints: Endpoints, tmp_path: Path, tls: bool
) -> None:
    """The embedded server, reached as somebody's own through a relay that may end TLS."""
    async with _Relay(endpoints.neo4j_uri, _certificate(tmp_path) if tls else None) as port:
        own = Settings.load(
            {
                "NEO4J_URI": f"bolt{'+ssc' if tls else ''}://127.0.0.1:{port}",
                "NEO4J_USER": endpoints.neo4j_user,
                "NEO4J_PASSWORD": endpoints.neo4j_password,
                "NEO4J_DATABASE": endpoints.neo4j_database,
                "DATABASE_URL": endpoints.database_url,
                "REDIS_URL": endpoints.redis_url,
                "JWT_SECRET": "x" * 32,
                "ENCRYPTION_KEY": "x" * 44,
            },
            agentcy_state_dir=settings.state_dir,
        )
        engine = open_engine(own, await resolve_endpoints(own))
        graph = Graph(uuid4())
        graph.node("a")
        await write(engine, graph)

        assert (await engine.stats(graph.scope)).nodes == 1
        assert engine.capabilities.backing == "Bolt server of NEO4J_URI"
        await engine.close()


class _Relay:
    """Pass bytes between a port of our own, with or without TLS, and a Bolt server."""

    def __init__(self, uri: str, tls: ssl.SSLContext | None) -> None:
        target = urlsplit(uri)
        self._target = (target.hostname, target.port)
        self._tls = tls

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # either side may hang up first
    finally:
        writer.close()


def _certificate(folder: Path) -> ssl.SSLContext:
    """A server's context with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509
        .CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.requirement("CTX-13")
async def test_the_capabilities_are_those_of_the_matrix(
    settings: Settings, endpoints: Endpoints
) -> None:
    engine = open_engine(settings, endpoints)

    told = engine.capabilities.model_dump()

    assert told.pop("backing") == "embedded Bolt server"
    assert told == {
        "engine": "basic", "cypher": True, "kql": False, "sql": False, "promql": False,
        "time_series": False, "schema_evolution": False, "arrow_native": False,
        "ingest": ("bolt",), "writers": "one", "vectors": "pgvector", "byo_bucket": False,
        "typed_columns": False, "graph_registered": False,
    }  # fmt: skip
    await engine.close()
