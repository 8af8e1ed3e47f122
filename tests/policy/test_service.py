import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agentcy_ray.core.errors import ConflictError, PolicyInvalidError, StoreUnavailableError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import Effect
from agentcy_ray.policy.input import PolicyInput
from agentcy_ray.policy.service import PolicyService
from agentcy_ray.policy.shipped import starters
from agentcy_ray.policy.store import install_starters
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import open_database
from agentcy_ray.stores.redis import open_redis

STOP = 'package agentcy.mine\nimport rego.v1\ndeny contains "stopped" if input.action == "task.run"'
QUESTION = PolicyInput(
    subject={"user_id": "usr_1", "role": "member"},
    action="task.run",
    resource={},
    context={"request_id": "req_1"},
    env={"now": "2026-04-24T12:00:00.000Z"},
)


@pytest.fixture
async def service(db, bell):
    service = PolicyService(db, bell, Settings.load({}))
    yield service
    await service.close()


@pytest.mark.requirement("POL-02")
async def test_policies_are_on_with_the_four_starters(service, org):
    names = [policy.name for policy in await service.store.list(org)]
    assert names == ["agentcy.rego", "api.rego", "connectors.rego", "tools.rego"]
    assert sorted(starters()) == names
    anonymous = replace(QUESTION, subject={})
    decision = await service.decide(org, anonymous.document())
    assert decision.rule == "data.agentcy.deny"
    assert decision.policy_id.startswith("pol_")


async def test_starters_are_installed_once(db, org):
    async with db.tenant(org) as connection:
        assert await install_starters(connection, org) == 0


@pytest.mark.requirement("POL-03")
async def test_switched_off_nothing_is_evaluated(db, bell, org):
    settings = Settings.load({"AGENTCY_FEATURES_POLICIES": "false"})
    service = PolicyService(db, bell, settings)
    assert not service.enabled
    decision = await service.decide(org, replace(QUESTION, subject={}))
    assert (decision.decision, decision.rule) == ("allow", "policies_off")


@asynccontextmanager
async def replica(database_url: str, redis_url: str, prefix: str):
    """A policy service of another process: connections of its own."""
    db, redis = await open_database(database_url, pool_max=2), await open_redis(redis_url, prefix)
    bell = Bell(redis)
    service = PolicyService(db, bell, Settings.load({}))
    yield service
    await service.close()
    await bell.aclose()
    await redis.aclose()
    await db.close()


@pytest.mark.requirement("POL-11")
async def test_a_change_decides_in_every_replica_as_soon_as_it_is_rung(
    database_url, redis_url, org, monkeypatch
):
    now = time.monotonic()  # and it stays: nothing grows old, so only a ring shows a change
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("agentcy_ray.core.org_cache.time", clock)
    async with (
        replica(database_url, redis_url, "reload") as one,
        replica(database_url, redis_url, "reload") as other,
    ):
        assert (await other.decide(org, QUESTION)).allowed
        policy = await one.store.create(org, None, "mine.rego", STOP)
        await until(other, org, allowed=False)
        await one.store.update(org, None, policy.id, STOP.replace("task.run", "task.cancel"))
        await until(other, org, allowed=True)
        await one.store.update(org, None, policy.id, STOP)
        await until(other, org, allowed=False)
        await one.store.set_enabled(org, policy.id, False)
        await until(other, org, allowed=True)
        await one.store.set_enabled(org, policy.id, True)
        await until(other, org, allowed=False)
        await one.store.delete(org, policy.id)
        await until(other, org, allowed=True)


async def until(service: PolicyService, org, *, allowed: bool) -> None:
    """Wait for the ring."""
    async with asyncio.timeout(60), service.bell.listen(f"ch:policy:{org.hex}") as ear:
        while (await service.decide(org, QUESTION)).allowed is not allowed:
            await ear.next(0.01)  # the service may hear the ring a moment after this ear


@pytest.mark.requirement("POL-11")
async def test_a_change_is_seen_within_five_seconds_while_nobody_rings(
    database_url, redis_url, org, monkeypatch
):
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("agentcy_ray.core.org_cache.time", clock)
    async with (
        replica(database_url, redis_url, "here") as one,
        replica(database_url, redis_url, "elsewhere") as deaf,
    ):
        assert (await deaf.decide(org, QUESTION)).allowed
        assert (await deaf.decide(org, QUESTION)).cached
        before = await deaf.version(org)
        await one.store.create(org, None, "mine.rego", STOP)
        now += 5.0
        assert not (await deaf.decide(org, QUESTION)).allowed
        assert await deaf.version(org) != before


@pytest.mark.requirement("POL-09")
async def test_text_that_does_not_compile_is_refused_and_changes_nothing(service, org):
    policy = await service.store.create(org, None, "mine.rego", STOP)
    before = await service.version(org)
    with pytest.raises(PolicyInvalidError) as caught:
        await service.store.update(org, None, policy.id, "package agentcy\ndeny contains if")
    assert caught.value.details["line"] == 2
    with pytest.raises(PolicyInvalidError):
        await service.store.create(org, None, "other.rego", "package elsewhere")
    kept = await service.store.get(org, policy.id)
    assert (kept.version, kept.rego) == (1, STOP)
    assert await service.version(org) == before


async def test_every_save_is_a_new_version_and_names_are_unique(service, org):
    author = new_id()
    policy = await service.store.create(org, author, "mine.rego", STOP)
    assert (await service.store.update(org, author, policy.id, STOP + "\n")).version == 2
    with pytest.raises(ConflictError):
        await service.store.create(org, author, "mine.rego", STOP)


async def test_the_organisations_settings_reach_rules_and_policies(service, db, org):
    assert (await service.rules(org)).default_of(Effect.WRITE) == "approve"
    settings = {
        "approval_defaults": {"write": "allow", "read": "deny"},
        "approval_second_person": True,
        "policy_settings": {"dangerous_tools": ["a.b"]},
        "llm": {"model": "x:y"},
    }
    async with db.tenant(org) as connection:
        await connection.execute(
            "UPDATE organizations SET settings = $2 WHERE id = $1", org, settings
        )
    service._active.expire(org)
    rules = await service.rules(org)
    assert [rules.default_of(effect) for effect in Effect] == ["deny", "allow", "approve"]
    assert rules.approval_second_person
    viewer = replace(
        QUESTION,
        subject={"user_id": "u", "role": "viewer"},
        resource={"type": "tool", "tool": "a.b", "tool_effect": "read"},
    )
    assert not (await service.decide(org, viewer)).allowed


async def test_a_gate_that_cannot_read_its_policies_stays_shut(database_url, bell, org):
    database = await open_database(database_url, pool_max=2)
    service = PolicyService(database, bell, Settings.load({}))
    assert (await service.decide(org, QUESTION)).allowed
    await database.close()
    service._active.expire(org)
    with pytest.raises(StoreUnavailableError):
        await service.decide(org, QUESTION)
    await service.close()
