"""What survives: acknowledged rows always, others never; and files that nobody reads any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import orjson
import pytest

from agentcy_ray.devkyma.config import Config, S3Options
from agentcy_ray.devkyma.engine import Engine, IngestRequest
from agentcy_ray.devkyma.server import serve
from agentcy_ray.devkyma.upkeep import Upkeep
from tests.devkyma.conftest import Talk
from tests.kyma_server import KymaServer, engine_process

BATCH = 50


def body(batch: int) -> bytes:
    return b"\n".join(orjson.dumps({"batch": str(batch)}) for _ in range(BATCH))


async def post(client: httpx2.AsyncClient, batch: int) -> httpx2.Response:
    headers = {"x-database": "kyma", "x-table": "t", "x-idempotency-key": f"batch-{batch}"}
    return await client.post("/v1/ingest", content=body(batch), headers=headers)


async def test_what_was_acknowledged_before_a_kill_is_there_once_and_whole(tmp_path: Path):
    acknowledged: set[int] = set()
    halfway = asyncio.Event()

    async with engine_process(tmp_path) as server, server.client() as client:

        async def stream(first: int) -> None:
            for batch in range(first, 400, 4):
                assert (await post(client, batch)).status_code == 200
                acknowledged.add(batch)
                if len(acknowledged) >= 40:
                    halfway.set()

        streams = [asyncio.create_task(stream(first)) for first in range(4)]
        await asyncio.wait_for(halfway.wait(), 60)
        await server.kill()
        await asyncio.gather(*streams, return_exceptions=True)

    async with engine_process(tmp_path) as server, server.client() as client:
        talk = Talk(server, client, "kyma")
        counted = "SELECT batch, count(*) AS n FROM t GROUP BY 1"
        counts = {int(r["batch"]): r["n"] for r in await talk.rows(counted, x_database="kyma")}
        assert acknowledged <= set(counts)
        assert set(counts.values()) == {BATCH}
        assert (await post(client, min(acknowledged))).json()["replayed"] is True
        for batch in sorted(set(range(400)) - acknowledged)[:8]:
            await post(client, batch)
        most = f"SELECT max(n) AS n FROM ({counted})"
        assert await talk.rows(most, x_database="kyma") == [{"n": BATCH}]


def test_an_extent_without_its_commit_is_never_seen_and_swept(tmp_path: Path):
    engine = Engine(Config(str(tmp_path)))
    engine.ingest(IngestRequest("kyma", "t", body(1)))
    table = engine.catalog.tables("kyma")["t"]
    folder = tmp_path / "tables" / table.id
    (only,) = folder.iterdir()
    lost = folder / "__extent=7"
    lost.mkdir()
    (lost / "rows.parquet").write_bytes((only / "rows.parquet").read_bytes())
    plan = engine.sessions.plan("kyma", "SELECT count(*) AS n FROM t")
    assert plan.to_pylist() == [{"n": BATCH}]
    engine.close()
    again = Engine(Config(str(tmp_path)))
    assert list(folder.iterdir()) == [only]
    again.close()


def test_a_lost_catalog_takes_no_data_with_it(tmp_path: Path):
    engine = Engine(Config(str(tmp_path / "data"), catalog=tmp_path / "catalog"))
    engine.ingest(IngestRequest("kyma", "t", body(1)))
    engine.close()
    again = Engine(Config(str(tmp_path / "data"), catalog=tmp_path / "new"))
    assert len(list((tmp_path / "data").glob("tables/*/*/rows.parquet"))) == 1
    again.close()


async def test_storage_that_fails_is_500_and_the_same_key_works_later(tmp_path: Path):
    async with serve(Config(str(tmp_path))) as running:
        server = KymaServer(running.http_url, running.flight_url, {})
        staging = tmp_path / ".staging"
        async with server.client() as client:
            staging.rmdir()
            staging.touch()
            failed = await post(client, 1)
            assert (failed.status_code, failed.json()["error"]["code"]) == (500, "ingest_failed")
            staging.unlink()
            staging.mkdir()
            assert (await post(client, 1)).json()["replayed"] is False
            assert (await post(client, 1)).json()["replayed"] is True


async def test_data_and_ports_have_one_owner(tmp_path: Path):
    async with serve(Config(str(tmp_path))) as running:
        port = int(running.flight_url.rpartition(":")[2])
        with pytest.raises(RuntimeError, match="another engine owns"):
            Engine(Config(str(tmp_path)))
        with pytest.raises(OSError, match="the Flight port"):
            async with serve(Config(str(tmp_path / "other"), flight_port=port)):
                pass
    Engine(Config(str(tmp_path / "other"))).close()  # nothing of the failed start is left


async def test_small_extents_are_merged_while_queries_read_them(tmp_path: Path):
    async with serve(Config(str(tmp_path), compact_at=1000)) as running:
        engine = running.engine
        for batch in range(10):
            await asyncio.to_thread(engine.ingest, IngestRequest("kyma", "t", body(batch)))
        server = KymaServer(running.http_url, running.flight_url, {})
        with engine.sessions.reading():
            before = engine.sessions.plan("kyma", "SELECT count(DISTINCT batch) AS n FROM t")
            async with server.client() as client:
                done = (await client.post("/v1/admin/compact", json={"max_merge": 4})).json()
            assert (done["live_extents_before"], done["live_extents_after"]) == (10, 3)
            assert before.to_pylist() == [{"n": 10}]
        table = engine.catalog.tables("kyma")["t"]
        assert sum(e.rows for e in table.extents) == 10 * BATCH
        assert len(list((tmp_path / "tables" / table.id).iterdir())) == 3


def test_enough_small_extents_are_merged_without_being_asked(tmp_path: Path):
    engine = Engine(Config(str(tmp_path), compact_at=4))
    upkeep = Upkeep(engine)
    for batch in range(4):
        engine.ingest(IngestRequest("kyma", "t", body(batch)))
    upkeep.settled()
    (merged,) = engine.catalog.tables("kyma")["t"].extents
    assert merged.rows == 4 * BATCH
    upkeep.close()
    engine.close()


async def test_cleanup_leaves_live_extents_however_old_they_are(talk: Talk):
    for day in (1, 2, 3):
        await talk.ingest({"at": f"2026-06-0{day}T10:00:00Z", "label": str(day)})
    path = f"/v1/database/{talk.database}/table/{{}}/cleanup"
    later = {"before": "2030-01-01T00:00:00Z"}
    missing = await talk.client.post(path.format("u"), params=later)
    assert (missing.status_code, missing.json()) == (404, {"error": "table not found: u"})
    assert (await talk.client.post(path.format("t"), params={"before": "June"})).status_code == 400
    assert (await talk.client.post("/v1/admin/compact", json={})).status_code == 200
    done = await talk.client.post(path.format("t"), params=later)
    assert done.json() == {"extents_deleted": 0, "rows_freed": 0, "bytes_freed": 0}
    assert await talk.rows("SELECT count(*) AS n FROM t") == [{"n": 3}]


async def test_extents_lie_in_a_bucket_when_the_data_do(s3_endpoint: str, tmp_path: Path):
    options = S3Options(s3_endpoint, "us-east-1", "key", "secret")
    config = Config("s3://kyma/some/prefix", catalog=tmp_path, s3=options, compact_at=1000)
    for _ in range(2):  # the second time over what the first one left
        async with serve(config) as running:
            server = KymaServer(running.http_url, running.flight_url, {})
            async with server.client() as client:
                for batch in range(3):
                    assert (await post(client, batch)).status_code == 200
                await client.post("/v1/admin/compact", json={})
            table = await asyncio.to_thread(
                server.do_get, database="kyma", query="SELECT batch FROM t"
            )
            assert table.num_rows == 3 * BATCH
