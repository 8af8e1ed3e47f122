"""The whole platform in one process: real stores, the API on a real port, an executor, a worker."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2 as httpx
import orjson
import uvicorn
from fastapi import FastAPI

from agentcy_ray.api.app import create_app
from agentcy_ray.api.bootstrap import first_boot
from agentcy_ray.api.services import Services, open_services
from agentcy_ray.connectors.local_dispatch import LocalDispatcher
from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.ids import decode, new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.passwords import Passwords
from agentcy_ray.ingest.service import open_ingest
from agentcy_ray.jobs.opening import open_queue
from agentcy_ray.jobs.worker import JobWorker
from agentcy_ray.policy.service import PolicyService
from agentcy_ray.policy.store import install_starters
from agentcy_ray.retrieval.one_embedder import AnyEmbedders, OneEmbedder
from agentcy_ray.runtime.policy_replay import Replayer, tally_of
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.secrets import resolve_secrets

PASSWORD = "correct horse battery"
ROLES = ("owner", "admin", "member", "viewer")
API = "/api/v1"
OPEN_JOB = ("queued", "running", "retry_wait")


@dataclass
class Event:
    """One server-sent event."""

    id: int | None
    type: str
    data: dict[str, Any]


@dataclass
class Platform:
    """What the tests speak to.

    People are ``owner admin member colleague viewer leaver`` and ``other``.

    ``other`` owns a second organisation.
    """

    settings: Settings
    endpoints: Endpoints
    app: FastAPI
    url: str
    roots: Path
    org_id: UUID
    other_org: UUID
    users: dict[str, UUID]
    clients: dict[str, httpx.AsyncClient] = field(default_factory=dict)

    @property
    def services(self) -> Services:
        return self.app.state.services

    def client(self, **how: Any) -> httpx.AsyncClient:
        """A client without a login."""
        return httpx.AsyncClient(base_url=self.url + API, timeout=60, **how)

    async def as_(self, who: str) -> httpx.AsyncClient:
        """The client of a person, logged in."""
        if who not in self.clients:
            client = self.client()
            answer = await client.post("/auth/login", json=credentials(who))
            assert answer.status_code == 200, answer.text
            client.headers["authorization"] = f"Bearer {answer.json()['token']}"
            self.clients[who] = client
        return self.clients[who]

    async def conversation(self, who: str = "owner", **fields: Any) -> str:
        answer = await (await self.as_(who)).post("/chat/conversations", json=fields)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def sync(self, source_id: str, who: str = "owner") -> dict[str, Any]:
        """Sync a source and wait for the end; returns the sync run."""
        client = await self.as_(who)
        answer = await client.post(f"/sources/{source_id}/sync", json={})
        assert answer.status_code == 202, answer.text
        return await self.sync_ended(answer.json()["sync_run_id"], who)

    async def sync_ended(self, run_id: str, who: str = "owner") -> dict[str, Any]:
        """Wait for the end of a sync or revert, which the worker rings."""
        client = await self.as_(who)
        channel = f"ch:jobs:{self.org_id.hex}"
        async with asyncio.timeout(60), self.services.bell.listen(channel) as ear:
            while not (run := (await client.get(f"/sync-runs/{run_id}")).json())["ended_at"]:
                await ear.next(5)
        return run

    async def job_ended(self, job_id: str, who: str = "owner") -> dict[str, Any]:
        """Wait for the end of a job, which the worker rings."""
        client = await self.as_(who)
        channel = f"ch:jobs:{self.org_id.hex}"
        async with asyncio.timeout(60), self.services.bell.listen(channel) as ear:
            while (job := (await client.get(f"/jobs/{job_id}")).json())["status"] in OPEN_JOB:
                await ear.next(5)
        return job

    async def source(self, who: str = "owner", **body: Any) -> dict[str, Any]:
        answer = await (await self.as_(who)).post("/sources", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def run_ended(self, run_id: str, who: str = "owner") -> dict[str, Any]:
        client = await self.as_(who)
        async with asyncio.timeout(60):
            async for _ in events(client, "GET", f"/runs/{run_id}/events"):
                pass
        return (await client.get(f"/runs/{run_id}")).json()

    async def sql(self, statement: str, *args: Any) -> Any:
        async with self.services.db.system() as connection:
            return await connection.fetch(statement, *args)


def credentials(who: str) -> dict[str, str]:
    return {"email": f"{who}@acme.test", "password": PASSWORD}


async def events(
    client: httpx.AsyncClient, method: str, path: str, **how: Any
) -> AsyncIterator[Event]:
    """The events of a stream; asserts that it is one."""
    async with client.stream(method, path, **how) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for event in read_events(answer):
            yield event


async def read_events(answer: httpx.Response) -> AsyncIterator[Event]:
    """Parse ``text/event-stream`` by its blank lines."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            seq = int(fields["id"]) if "id" in fields else None
            yield Event(seq, fields["event"], orjson.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


async def ask(platform: Platform, conversation: str, text: str, **body: Any) -> list[Event]:
    """Ask as the owner and read the stream to its end."""
    client = await platform.as_("owner")
    path = f"/chat/conversations/{conversation}/messages"
    return [e async for e in events(client, "POST", path, json={"content": text, **body})]


@asynccontextmanager
async def open_platform(
    endpoints: Endpoints,
    state_dir: Path,
    embedder: Any,
    embedders: AnyEmbedders | None = None,
    **more: Any,
) -> AsyncGenerator[Platform]:
    """Start everything over a fresh database; ``more`` are further settings."""
    embedders = embedders or OneEmbedder(embedder)
    roots = state_dir / "roots"
    roots.mkdir(parents=True)
    settings = Settings.load(
        {},
        agentcy_state_dir=state_dir,
        redis_prefix=f"api-{secrets.token_hex(4)}",
        source_file_roots=(str(roots),),
        approval_poll_secs=0.5,
        admin_email="owner@acme.test",
        admin_password=PASSWORD,
        **more,
    )
    org_id, other_org, users = await prepare(endpoints, settings)
    async with AsyncExitStack() as stack:
        dispatcher, check_source = await stack.enter_async_context(tools(settings, endpoints))

        async def opener() -> Services:
            return await open_services(
                settings, endpoints, dispatcher=dispatcher, embedder=embedder,
                embedders=embedders, check_source=check_source,
            )  # fmt: skip

        app = create_app(settings, opener)
        url = await stack.enter_async_context(serve(app))
        services: Services = app.state.services
        stop = asyncio.Event()
        workers = await stack.enter_async_context(job_workers(settings, endpoints, embedders))
        work = [
            asyncio.create_task(services.executor(8).run(stop)),
            asyncio.create_task(services.gates.direct.tend(stop)),
            *(asyncio.create_task(worker.run(stop)) for worker in workers),
        ]
        platform = Platform(settings, endpoints, app, url, roots, org_id, other_org, users)
        try:
            yield platform
        finally:
            stop.set()
            await asyncio.gather(*work)
            for client in platform.clients.values():
                await client.aclose()


async def prepare(endpoints: Endpoints, settings: Settings) -> tuple[UUID, UUID, dict[str, UUID]]:
    """Schema, first boot, people of every role, and a second organisation."""
    await migrate(endpoints.database_url)
    db = await open_database(endpoints.database_url, pool_max=2)
    try:
        password = resolve_secrets(settings).admin_password
        org_id = (await first_boot(db, settings, password)).org_id
        users = await _people(db, org_id)
        other = await second_org(db)
        return org_id, other[0], {**users, "other": other[1]}
    finally:
        await db.close()


async def _people(db: Database, org_id: UUID) -> dict[str, UUID]:
    async with db.system() as connection:
        hashed = await connection.fetchval("SELECT password_hash FROM users")
        users = {"owner": await connection.fetchval("SELECT id FROM users")}
        for name in ("admin", "member", "colleague", "viewer", "leaver"):
            users[name] = new_id()
            role = "member" if name in ("colleague", "leaver") else name
            await connection.execute(
                "INSERT INTO users (id, org_id, email, roles, password_hash)"
                " VALUES ($1, $2, $3, $4, $5)",
                users[name], org_id, f"{name}@acme.test", [role], hashed,
            )  # fmt: skip
    return users


async def second_org(db: Database) -> tuple[UUID, UUID]:
    """Another tenant with an owner; its id and the owner's."""
    org_id, user_id = new_id(), new_id()
    hashed = await Passwords().hash(PASSWORD)
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, 'other', 'Other')",
            org_id,
        )
        await connection.execute(
            "INSERT INTO users (id, org_id, email, roles, password_hash)"
            " VALUES ($1, $2, 'other@acme.test', '{owner}', $3)",
            user_id, org_id, hashed,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO realms (org_id, name, built_in) SELECT $1, name, true FROM realms",
            org_id,
        )
        await connection.execute(
            "INSERT INTO agents (id, org_id, name) VALUES ($1, $2, 'default')", new_id(), org_id
        )
        await install_starters(connection, org_id)
    return org_id, user_id


@asynccontextmanager
async def tools(settings: Settings, endpoints: Endpoints) -> AsyncGenerator[tuple[Any, Any]]:
    """A dispatcher over sessions of this process, and the check of a source."""
    db = await open_database(endpoints.database_url, pool_max=2)
    vault = open_vault(settings)
    pool = SessionPool(SourceStore(db, vault, builtin_registry(settings)))

    async def check_source(org_id: UUID, source_id: UUID) -> None:
        async with pool.session(org_id, source_id) as session:
            await session.check()

    try:
        yield LocalDispatcher(pool), check_source
    finally:
        await db.close()


@asynccontextmanager
async def job_workers(
    settings: Settings, endpoints: Endpoints, embedders: AnyEmbedders
) -> AsyncGenerator[list[JobWorker]]:
    """A worker that carries syncs out, and one for what goes on beside them."""
    engine = open_engine(settings, endpoints)
    await engine.prepare()
    await engine.close()
    ingest = await open_ingest(settings, endpoints, embedders)
    redis = await open_redis(endpoints.redis_url, settings.redis_prefix)
    queue = open_queue(settings, ingest.db, redis)
    policy = PolicyService(ingest.db, ingest.bell, settings)
    replayer = Replayer(ingest.db, policy, partial(tally_of, ingest.db), slice_size=2)
    handlers = {**ingest.handlers(), **ingest.long_handlers(), **replayer.handlers()}
    beside = {**ingest.embed_handlers(), **ingest.waiting_handlers()}
    try:
        yield [
            JobWorker(queue, handlers, "test", settings, bell=ingest.bell),
            JobWorker(queue, beside, "beside", settings, bell=ingest.bell, concurrency=2),
        ]
    finally:
        await queue.close()
        await ingest.close()
        await redis.aclose()


class _Server(uvicorn.Server):
    """Leaves the signals to pytest, and says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serves = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.serves.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve(app: Any, **how: Any) -> AsyncGenerator[str]:
    """The application on a port of the loopback; yields its URL once it has started.

    ``how`` are further settings of uvicorn.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=1, **how
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        serves = asyncio.create_task(server.serves.wait())
        await asyncio.wait({task, serves}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert server.started, "the application did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def with_database(endpoints: Endpoints, url: str) -> Endpoints:
    return replace(endpoints, database_url=url)


def uid(text: str) -> UUID:
    """The id behind a public text, whatever its prefix."""
    return decode(text.partition("_")[0], text)
