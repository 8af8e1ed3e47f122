"""The whole way: a source of a shipped connector, a job, a worker, engine and vectors."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pygit2
import pytest

from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.source_records import NewSource, Source
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.engine import Query, Scope
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.ingest.service import Ingest, open_ingest
from agentcy_ray.ingest.syncs import SyncRun, SyncRuns
from agentcy_ray.jobs.opening import open_queue
from agentcy_ray.jobs.worker import JobWorker
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.redis import open_redis
from tests.ingest.harness import WordEmbedder


@dataclass
class Platform:
    """A worker at work, and what a caller uses."""

    ingest: Ingest
    embedder: WordEmbedder
    sources: SourceStore
    syncs: SyncRuns
    principal: Principal
    bell: Bell

    async def sync(self, source: Source, **how) -> SyncRun:
        return await self.ended(await self.syncs.request(self.principal, source.id, **how))

    async def ended(self, run: SyncRun) -> SyncRun:
        """The run once it has ended, which the worker rings."""
        async with (
            asyncio.timeout(60),
            self.ingest.bell.listen(f"ch:jobs:{run.org_id.hex}") as ear,
        ):
            while (run := await self.syncs.get(run.org_id, run.id)).ended_at is None:
                await ear.next(5)
        return run

    async def query(self, text: str) -> list[tuple]:
        scope = Scope(org_id=self.principal.org_id)
        result = await self.ingest.runner._stores.engine.query(scope, Query(text=text))
        return list(result.rows)


@pytest.fixture
async def platform(
    database_url: str, endpoints: Endpoints, settings: Settings, tmp_path: Path
) -> AsyncIterator[Platform]:
    mine = settings.model_copy(
        update={
            "agentcy_state_dir": tmp_path / "state",
            "redis_prefix": f"test-{secrets.token_hex(4)}",
            "source_file_roots": (str(tmp_path),),
        }
    )
    embedder = WordEmbedder()
    ingest = await open_ingest(
        mine, replace(endpoints, database_url=database_url), OneEmbedder(embedder)
    )
    redis = await open_redis(endpoints.redis_url, mine.redis_prefix)
    queue, bell = open_queue(mine, ingest.db, redis), Bell(redis)
    store = SourceStore(ingest.db, open_vault(mine), builtin_registry(mine))
    org_id = new_id()
    async with ingest.db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
            org_id,
            f"org-{org_id.hex}",
        )
        await connection.execute(
            "INSERT INTO realms (org_id, name) VALUES ($1, 'development'), ($1, 'data')", org_id
        )
    stop = asyncio.Event()
    worker = asyncio.create_task(
        JobWorker(queue, ingest.handlers(), "w", mine, bell=ingest.bell).run(stop)
    )
    owner = Principal(user_id=new_id(), org_id=org_id, role=Role.OWNER)
    yield Platform(ingest, embedder, store, SyncRuns(ingest.db, queue), owner, bell)
    stop.set()
    await worker
    await bell.aclose()
    await queue.close()
    await redis.aclose()
    await ingest.close()


def commit(repository: pygit2.Repository, files: dict[str, str | None], message: str) -> None:
    root = Path(repository.workdir)
    for name, text in files.items():
        if text is None:
            repository.index.remove(name)
        else:
            (root / name).write_text(text)
            repository.index.add(name)
    tree = repository.index.write_tree()
    repository.index.write()
    author = pygit2.Signature("A. Writer", "writer@example.org", 1_700_000_000, 0)
    parents = [] if repository.head_is_unborn else [repository.head.target]
    repository.create_commit("HEAD", author, author, message, tree, parents)


@pytest.mark.requirement("OBJ-03")
async def test_a_repository_is_synced_and_followed(platform: Platform, tmp_path: Path):
    repository = pygit2.init_repository(tmp_path / "repo", initial_head="main")
    commit(repository, {"README.md": "# Walrus\n\nAll about walruses."}, "Begin")
    commit(repository, {"tusk.py": "def tusk():\n    return 'ivory'\n"}, "Add tusks")
    new = NewSource(name="repo", connector="git", config={"url": str(tmp_path / "repo")})
    source = await platform.sources.create(platform.principal, new)
    async with platform.bell.listen(f"ch:graph:{source.org_id.hex}") as ear:
        run = await platform.sync(source)
        news = await ear.next(30)
    assert (run.status, run.error) == ("synced", None)
    assert news is not None
    assert news["event"] == "source.synced"
    count = "MATCH (n:GitCommit) RETURN count(n) AS n"
    assert await platform.query(count) == [(2,)]
    files = "MATCH (:GitCommit)-[:TOUCHES]->(f:GitFile) RETURN DISTINCT f.path AS p ORDER BY p"
    assert await platform.query(files) == [("README.md",), ("tusk.py",)]
    assert any("ivory" in text for text in platform.embedder.texts)

    texts = len(platform.embedder.texts)
    again = await platform.sync(source)
    assert (again.mode, again.counts["embedded"]) == ("incremental", 0)
    assert len(platform.embedder.texts) == texts

    commit(repository, {"tusk.py": "def tusk():\n    return 'bone'\n"}, "Change tusks")
    third = await platform.sync(source)
    assert third.mode == "incremental"
    assert third.counts["nodes"]["added"] >= 1
    assert await platform.query(count) == [(3,)]
    assert any("bone" in text for text in platform.embedder.texts[texts:])
    back = await platform.syncs.request_revert(platform.principal, source.id, run.package_id)
    await platform.ended(back)
    assert await platform.query(count) == [(2,)]


async def test_a_source_that_is_away_fails_its_run_with_the_reason(
    platform: Platform, tmp_path: Path
):
    path = tmp_path / "items.csv"
    path.write_text("id,name\n1,one\n")
    config = {"file_path": str(path), "node_label": "Row", "id_column": "id"}
    new = NewSource(name="rows", connector="csv", config=config, realm="data")
    source = await platform.sources.create(platform.principal, new)
    assert (await platform.sync(source)).status == "synced"
    path.unlink()
    run = await platform.sync(source, mode="full")
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["code"] == "source_config_invalid"
    kept = await platform.sources.get(source.org_id, source.id)
    assert (kept.status, kept.last_error) == ("failed", run.error)
    assert await platform.query("MATCH (n:Row) RETURN n.name AS n") == [("one",)]
