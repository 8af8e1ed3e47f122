"""Rows that nobody needs any more go; long clean-ups are asked for once a day."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

from agentcy_ray.api.upkeep import Upkeep
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.retention import KIND as AUDIT_KIND
from agentcy_ray.core.ids import decode, new_id
from agentcy_ray.ingest.retention import PRUNE_KIND
from tests.api.platform import OPEN_JOB, Platform, ask, credentials


@dataclass
class At:
    """A clock that stands."""

    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    def now(self) -> datetime:
        return self.moment


def upkeep(platform: Platform, ahead: timedelta = timedelta()) -> Upkeep:
    services, clock = platform.services, At()
    clock.moment += ahead
    return Upkeep(services.db, services.queue, services.settings, clock)


async def test_idempotency_keys_go_when_they_have_expired(platform: Platform) -> None:
    owner = await platform.as_("owner")
    key = {"idempotency-key": "upkeep-1"}
    assert (
        await owner.post("/chat/conversations", json={"title": "u"}, headers=key)
    ).status_code == 201
    count = "SELECT count(*) FROM idempotency_keys WHERE key = 'upkeep-1'"
    await upkeep(platform, timedelta(hours=23)).once()
    assert (await platform.sql(count))[0][0] == 1
    done = await upkeep(platform, timedelta(hours=25)).once()
    assert done.keys >= 1
    assert (await platform.sql(count))[0][0] == 0


async def test_the_log_of_a_run_goes_with_the_promise_to_keep_it(platform: Platform) -> None:
    conversation = await platform.conversation(model="scripted:tokens=3")
    run_id = (await ask(platform, conversation, "hello"))[0].data["run_id"]
    count, run = "SELECT count(*) FROM run_events WHERE run_id = $1", decode("run", run_id)
    await upkeep(platform, timedelta(days=29)).once()
    assert (await platform.sql(count, run))[0][0] >= 2
    # The clock of the route cannot be set, so the run is made old instead.
    await platform.sql(
        "UPDATE runs SET ended_at = ended_at - interval '31 days' WHERE id = $1", run
    )
    await platform.sql("UPDATE run_events SET at = at - interval '31 days' WHERE run_id = $1", run)
    done = await upkeep(platform).once()
    assert done.events >= 2
    assert (await platform.sql(count, run))[0][0] == 0
    gone = await (await platform.as_("owner")).get(f"/runs/{run_id}/events")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "event_log_gone")


async def test_pruning_is_asked_for_once_a_day_for_those_who_have_sources(
    platform: Platform,
) -> None:
    await platform.source(name="upkeep", connector="demo")
    first = await upkeep(platform, timedelta(days=2)).once()
    having = await platform.sql("SELECT DISTINCT org_id FROM sources")
    assert platform.org_id in first.asked
    assert sorted(first.asked) == sorted(row[0] for row in having)
    again = await upkeep(platform).once()
    assert again.asked == ()
    # One, or the one of an earlier round that still waits: a job like it is queued once.
    assert await platform.services.queue.store.list(platform.org_id, kind=PRUNE_KIND)


async def test_an_audit_log_is_shortened_once_a_day_when_it_holds_something_old(
    platform: Platform,
) -> None:
    services, org, now = platform.services, new_id(), datetime.now(UTC)
    await platform.sql(
        "INSERT INTO organizations (id, name, display_name) VALUES ($1, 'old', 'Old')", org
    )
    log = services.gates.audit
    await log.append(logged(org, now - timedelta(days=100)))
    await log.append(logged(org, now))
    async with services.bell.listen(f"ch:jobs:{org.hex}") as ear, asyncio.timeout(60):
        assert org in (await upkeep(platform).once()).shortened
        assert org not in (await upkeep(platform).once()).shortened
        while (await services.queue.store.list(org, kind=AUDIT_KIND))[0].status in OPEN_JOB:
            await ear.next(1)
    assert [entry.seq for entry in await log.list(org)] == [3, 2]
    assert (await log.verify(org)).ok


def logged(org: UUID, ts: datetime) -> AuditEntry:
    return AuditEntry(org_id=org, category="admin", action="source.create", decision="allow", ts=ts)


async def test_refresh_tokens_go_when_neither_they_nor_their_login_can_be_used(
    platform: Platform,
) -> None:
    client, settings = platform.client(), platform.services.settings
    login = (await client.post("/auth/login", json=credentials("colleague"))).json()
    await client.post("/auth/refresh", json={"refresh_token": login["refresh_token"]})
    count = "SELECT count(*) FROM login_sessions WHERE user_id = $1"
    who = platform.users["colleague"]
    before = (await platform.sql(count, who))[0][0]
    over = timedelta(seconds=settings.jwt_refresh_expiry_secs + settings.jwt_expiry_secs)
    await upkeep(platform, over).once()
    assert (await platform.sql(count, who))[0][0] == before >= 2
    await platform.sql(
        "UPDATE login_sessions SET expires_at = expires_at - $2::interval WHERE user_id = $1",
        who, over + timedelta(days=2),
    )  # fmt: skip
    done = await upkeep(platform).once()
    assert done.sessions >= 2
    assert (await platform.sql(count, who))[0][0] == 0
    if (stale := platform.clients.pop("colleague", None)) is not None:
        await stale.aclose()
