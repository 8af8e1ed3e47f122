"""Health: what is said while a part is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, urlsplit

import httpx2 as httpx
import pytest

from agentcy_ray.api.app import create_app
from agentcy_ray.api.services import Services, open_services
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.endpoints import Endpoints
from tests.api.away import Cable, cable
from tests.api.platform import (
    PASSWORD,
    Platform,
    credentials,
    events,
    prepare,
    serve,
    tools,
    with_database,
)
from tests.conftest import MakeDatabase


@dataclass
class Fragile:
    """A platform each of whose stores hangs on a cable."""

    url: str
    cables: dict[str, Cable]

    async def health(self) -> tuple[int, dict[str, object]]:
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.get(f"{self.url}/health")
            return answer.status_code, answer.json()


@pytest.fixture(scope="module")
async def fragile(
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: LocalEmbedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Fragile]:
    settings = Settings.load(
        {},
        agentcy_state_dir=tmp_path_factory.mktemp("fragile"),
        redis_prefix="fragile",
        admin_email="owner@acme.test",
        admin_password=PASSWORD,
    )
    direct = with_database(endpoints, await make_database())
    await prepare(direct, settings)
    async with AsyncExitStack() as stack:
        database, redis, graph = (
            urlsplit(direct.database_url), urlsplit(direct.redis_url), urlsplit(direct.neo4j_uri)
        )  # fmt: skip
        where = {name: values[0] for name, values in parse_qs(database.query).items()}
        socket = f"{where['host']}/.s.PGSQL.{where['port']}"
        cables = {
            "database": await stack.enter_async_context(
                cable(lambda: asyncio.open_unix_connection(socket))
            ),
            "redis": await stack.enter_async_context(
                cable(lambda: asyncio.open_connection(redis.hostname, redis.port))
            ),
            "context_engine": await stack.enter_async_context(
                cable(lambda: asyncio.open_connection(graph.hostname, graph.port))
            ),
        }
        ports = {name: one.port for name, one in cables.items()}
        who = database.netloc.partition("@")[0]
        own = replace(
            direct,
            database_url=f"postgresql://{who}@127.0.0.1:{ports['database']}{database.path}",
            redis_url=f"redis://:{redis.password}@127.0.0.1:{ports['redis']}{redis.path}",
            neo4j_uri=f"bolt://127.0.0.1:{ports['context_engine']}",
        )
        dispatcher, check = await stack.enter_async_context(tools(settings, direct))

        async def opener() -> Services:
            return await open_services(
                settings, own, dispatcher=dispatcher, embedder=embedder, check_source=check
            )

        url = await stack.enter_async_context(serve(create_app(settings, opener)))
        yield Fragile(url, cables)


async def test_a_whole_platform_is_ok(fragile: Fragile) -> None:
    status, body = await fragile.health()
    assert (status, body["status"]) == (200, "ok")
    assert set(body["checks"].values()) == {"ok"}
    assert body["checks"].keys() >= {"database", "redis", "object_store", "model"}
    assert body["engine"] == "basic"
    assert body["default_model"] == "offline:extractive"
    async with httpx.AsyncClient(base_url=fragile.url, timeout=60) as client:
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200


@pytest.mark.requirement("OBS-04")
@pytest.mark.parametrize("part", ["redis", "context_engine"])
async def test_without_another_part_it_is_degraded_and_names_it(
    fragile: Fragile, part: str
) -> None:
    fragile.cables[part].pull()
    try:
        status, body = await fragile.health()
        assert (status, body["status"]) == (200, "degraded")
        away = [name for name, state in body["checks"].items() if state != "ok"]
        assert away == [part]
        async with httpx.AsyncClient(base_url=fragile.url, timeout=30) as client:
            assert (await client.get("/health/ready")).status_code == 200
            login = await client.post("/api/v1/auth/login", json=credentials("viewer"))
            assert login.status_code == 200
    finally:
        await fragile.cables[part].plug()
    assert (await fragile.health())[0] == 200


@pytest.mark.requirement("OBS-04")
async def test_without_postgres_it_is_503_until_postgres_is_back(fragile: Fragile) -> None:
    fragile.cables["database"].pull()
    try:
        status, body = await fragile.health()
        assert (status, body["status"]) == (503, "degraded")
        assert body["checks"]["database"] != "ok"
        async with httpx.AsyncClient(base_url=fragile.url, timeout=30) as client:
            assert (await client.get("/health/live")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 503
            login = await client.post("/api/v1/auth/login", json=credentials("viewer"))
            assert (login.status_code, login.json()["error"]["code"]) == (503, "unavailable")
            assert login.headers["retry-after"]
    finally:
        await fragile.cables["database"].plug()
    status, body = await fragile.health()
    assert (status, body["status"]) == (200, "ok")


async def test_before_the_services_are_open_it_is_starting() -> None:
    app = create_app(Settings.load({}), _never)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        for path, status in (("/health", 503), ("/health/ready", 503), ("/health/live", 200)):
            assert (await client.get(path)).status_code == status, path


async def test_requests_and_open_streams_are_counted(platform: Platform) -> None:
    owner = await platform.as_("owner")

    async def count(line: str) -> float:
        async with httpx.AsyncClient(base_url=platform.url, timeout=60) as client:
            text = (await client.get("/metrics")).text
        values = [one.rpartition(" ")[2] for one in text.splitlines() if one.startswith(line)]
        return float(values[0]) if values else 0.0

    ping = 'agentcy_http_requests_total{method="GET",route="/api/v1/auth/ping",status="200"}'
    before = await count(ping)
    for _ in range(3):
        await owner.get("/auth/ping")
    assert await count(ping) == before + 3
    secret = "src_00000000000000000000000000"
    await owner.get(f"/sources/{secret}")
    async with httpx.AsyncClient(base_url=platform.url, timeout=60) as client:
        text = (await client.get("/metrics")).text
    assert secret not in text
    assert 'route="/api/v1/sources/{source_id}"' in text

    async with asyncio.timeout(60):
        while await count("agentcy_sse_streams"):
            pass  # one that another test left is still being ended
    path = f"/chat/conversations/{await platform.conversation()}/messages"
    model = "scripted:tokens=4000,itl=25"  # it is still talking when the figures have been read
    body = {"content": "Talk", "model": model, "on_disconnect": "cancel"}
    async for event in events(owner, "POST", path, json=body):
        if event.type == "content_delta":
            assert await count("agentcy_sse_streams") == 1
            break
    await platform.run_ended(event.data["run_id"])


async def _never() -> Services:
    raise AssertionError("the lifespan does not run here")
