"""The demo company is the same each time, holds together, and writes down what was done to it."""

from __future__ import annotations

import asyncio

import pytest

from agentcy_ray.connectors.base import BATCH_ROWS
from agentcy_ray.connectors.demo import DemoConnector
from agentcy_ray.connectors.demo.company import KINDS, Company
from agentcy_ray.connectors.demo.ledger import FILE
from agentcy_ray.core.errors import ConnectorError
from agentcy_ray.core.tenancy import BUILT_IN_REALMS
from agentcy_ray.core.tools import Fate, Probe
from tests.connectors.extracts import context, extract, session_on


async def test_the_company_spans_every_built_in_realm(tmp_path):
    found = await extract(DemoConnector(), {"entities": 80}, context(tmp_path))
    assert {row["realm"] for row in found.rows("nodes")} == set(BUILT_IN_REALMS)
    assert len(found.state("nodes")) == 80


async def test_a_seed_makes_the_same_company_and_another_seed_another(tmp_path):
    one, same, other = [
        await extract(DemoConnector(), {"seed": seed, "entities": 40}, context(tmp_path))
        for seed in (1, 1, 2)
    ]
    assert one.state("nodes") == same.state("nodes") != other.state("nodes")
    assert one.state("edges") == same.state("edges") != other.state("edges")


@pytest.mark.parametrize("entities", [1, 2, 3, 9, 100])
async def test_a_company_of_any_size_has_no_dangling_edge_and_no_cycle(tmp_path, entities):
    company = Company(seed=3, entities=entities)
    for entity in company.all():
        assert company.find(entity.external_id) == entity
        for edge, target in company.links(entity):
            assert target.number < entities
            assert edge != "DEPENDS_ON" or target.number < entity.number


@pytest.mark.parametrize(
    "external_id",
    ["", "service", "service-", "service-99", "Service-0", "service--1", "service-00", "service-²"],
)
def test_an_unknown_id_is_no_entity(external_id):
    assert Company(seed=1, entities=16).find(external_id) is None


async def test_a_large_company_is_read_in_bounded_batches(tmp_path):
    entities = BATCH_ROWS + len(KINDS)
    found = await extract(DemoConnector(), {"entities": entities}, context(tmp_path))
    assert max(batch.rows.num_rows for batch in found.batches) == BATCH_ROWS
    assert len(found.state("nodes")) == entities


async def test_an_effect_happens_once_per_key_also_after_a_restart(tmp_path):
    here = context(tmp_path)
    session = await session_on(DemoConnector(), {}, here)
    args = {"service": "service-1"}
    answers = await asyncio.gather(
        *(session.call("restart_service", args, idempotency_key="k1") for _ in range(5))
    )
    assert answers == [{"id": "service-1", "done": "restart_service", "restarts": 1}] * 5
    again = await session_on(DemoConnector(), {}, here)
    assert await again.call("restart_service", args, idempotency_key="k1") == answers[0]
    assert (await again.call("restart_service", args, idempotency_key="k2"))["restarts"] == 2
    assert (await again.call("lookup", {"id": "service-1"}))["restarts"] == 2
    assert len((here.work_dir / FILE).read_bytes().splitlines()) == 2


async def test_a_probe_tells_what_any_session_did_under_a_key(tmp_path):
    here = context(tmp_path)
    one, other = [await session_on(DemoConnector(), {}, here) for _ in range(2)]
    args = {"service": "service-1"}
    before = await other.probe("restart_service", args, idempotency_key="k1")
    assert before == Probe(fate=Fate.NOT_DONE)
    answer = await one.call("restart_service", args, idempotency_key="k1")
    after = await other.probe("restart_service", args, idempotency_key="k1")
    assert after == Probe(fate=Fate.DONE, result=answer)
    assert await other.call("restart_service", args, idempotency_key="k1") == answer
    assert len((here.work_dir / FILE).read_bytes().splitlines()) == 1


async def test_a_half_written_effect_did_not_happen(tmp_path):
    here = context(tmp_path)
    session = await session_on(DemoConnector(), {}, here)
    await session.call("restart_service", {"service": "service-1"}, idempotency_key="k1")
    ledger = here.work_dir / FILE
    ledger.write_bytes(ledger.read_bytes() * 2)
    ledger.write_bytes(ledger.read_bytes()[:-20])
    session = await session_on(DemoConnector(), {}, here)
    answer = await session.call("restart_service", {"service": "service-1"}, idempotency_key="k9")
    assert answer["restarts"] == 2
    session = await session_on(DemoConnector(), {}, here)
    assert (await session.call("lookup", {"id": "service-1"}))["restarts"] == 2


async def test_a_deleted_record_is_gone_from_look_ups_links_and_the_next_sync(tmp_path):
    here = context(tmp_path)
    before = await extract(DemoConnector(), {}, here)
    session = await session_on(DemoConnector(), {}, here)
    await session.call("delete_record", {"id": "team-0"}, idempotency_key="k")
    with pytest.raises(ConnectorError, match="team-0"):
        await session.call("lookup", {"id": "team-0"})
    after = await extract(DemoConnector(), {}, here, before.cursors)
    assert after.mode.full
    assert len(after.state("nodes")) == len(before.state("nodes")) - 1
    nodes = {row["external_id"] for row in after.rows("nodes")}
    assert {row["dst_external_id"] for row in after.rows("edges")} <= nodes


async def test_only_services_are_restarted(tmp_path):
    session = await session_on(DemoConnector(), {}, context(tmp_path))
    with pytest.raises(ConnectorError, match="service-0"):
        await session.call("restart_service", {"service": "team-0"})


async def test_runbooks_have_bodies_that_name_a_service(tmp_path):
    found = await extract(DemoConnector(), {"entities": 64}, context(tmp_path))
    names = {r["name"] for r in found.rows("nodes") if r["labels"] == ["Service"]}
    texts = [row["text"] for row in found.rows("documents")]
    assert len(texts) == 8
    assert all(any(name in text for name in names) for text in texts)
