"""The oldest entries go by whole days; what is left still verifies, and nobody may take more."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.filters import AuditFilter
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.audit.retention import AuditMonths, AuditRetention, Pruned
from agentcy_ray.audit.verify import Verification
from agentcy_ray.core.errors import CancelledByRequestError
from agentcy_ray.stores.postgres import Database
from tests.audit.test_audit_log import as_owner


def today() -> datetime:
    """The last midnight."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def aged(db: Database, org: UUID, *days: float) -> AuditLog:
    """A log whose entries are so many days older than this midnight."""
    log, midnight = AuditLog(db), today()
    for number, age in enumerate(days, start=1):
        await log.append(
            AuditEntry(
                org_id=org, category="admin", action=f"step.{number}", decision="allow",
                ts=midnight - timedelta(days=age),
            )
        )  # fmt: skip
    return log


async def seqs(log: AuditLog, org: UUID) -> list[int]:
    return [record.seq for record in reversed(await log.list(org))]


async def keep_days(db: Database, org: UUID, days: int) -> None:
    async with db.tenant(org) as connection:
        await connection.execute(
            "UPDATE organizations SET settings = $2 WHERE id = $1",
            org,
            {"audit_retention_days": days},
        )


@pytest.mark.requirement("AUD-06")
async def test_after_old_entries_are_gone_the_rest_still_verifies(db, org):
    log = await aged(db, org, 120, 100, 90.5, 90, 89, 0)
    retention = AuditRetention(db, log, default_days=90)
    assert await retention.prune(org, rows=2) == Pruned(entries=3, upto_seq=3)
    assert await seqs(log, org) == [4, 5, 6, 7]
    assert await log.verify(org) == Verification(ok=True, checked=4)
    assert await log.verify(org, 2, 5) == Verification(ok=True, checked=2)
    assert await log.verify(org, 6) == Verification(ok=True, checked=2)
    witness = (await log.list(org, AuditFilter(action="audit.prune")))[0]
    assert witness.context == {"removed": 3, "upto_seq": 3}
    assert await retention.prune(org) == Pruned(entries=0, upto_seq=None)
    assert await seqs(log, org) == [4, 5, 6, 7]


async def test_a_young_entry_keeps_the_older_ones_behind_it(db, org):
    log = await aged(db, org, 100, 1, 100)
    await AuditRetention(db, log, default_days=90).prune(org)
    assert await seqs(log, org) == [2, 3, 4]
    assert (await log.verify(org)).ok


async def test_an_organisation_may_keep_its_log_for_a_time_of_its_own(db, org):
    log = await aged(db, org, 20, 5)
    await keep_days(db, org, 10)
    assert (await AuditRetention(db, log, default_days=90).prune(org)).entries == 1


async def test_even_a_log_that_was_emptied_goes_on_where_it_ended(db, org):
    log = await aged(db, org, 100, 99)
    await AuditRetention(db, log, default_days=90).prune(org)
    assert await seqs(log, org) == [3]
    assert await log.verify(org) == Verification(ok=True, checked=1)


async def test_the_last_whole_day_stays_whatever_is_asked_for(db, org):
    log = await aged(db, org, 3, 0.5, 0)
    async with db.system() as connection:
        removed = await connection.fetch(
            "SELECT * FROM prune_audit($1, now() + interval '1 year', 100)", org
        )
    assert [tuple(row) for row in removed] == [(1, 1)]
    assert await seqs(log, org) == [2, 3]


async def test_a_round_that_is_stopped_has_witnessed_what_it_removed(db, org):
    log = await aged(db, org, 100, 99, 98)

    def stop(gone: int) -> None:
        raise CancelledByRequestError("stopped")

    with pytest.raises(CancelledByRequestError):
        await AuditRetention(db, log, default_days=90).prune(org, stop, rows=1)
    assert await seqs(log, org) == [2, 3, 4]
    assert (await log.list(org))[0].context == {"removed": 1, "upto_seq": 1}
    assert (await log.verify(org)).ok


@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ("DELETE FROM audit_log WHERE org_id = '{org}' AND seq = 3", 3),
        ("DELETE FROM audit_anchors WHERE org_id = '{org}'", 1),
        ("UPDATE audit_anchors SET hash = '\\x00' WHERE org_id = '{org}'", 3),
        (
            "INSERT INTO audit_log (org_id, seq, id, ts, category, action, decision, resource,"
            " context, prev_hash, hash) SELECT org_id, 1, gen_random_uuid(), ts, category, action,"
            " decision, resource, context, prev_hash, hash FROM audit_log WHERE org_id = '{org}'"
            " AND seq = 3",
            1,
        ),
    ],
)
async def test_verify_sees_a_change_at_the_cut(db, database_url, org, change, bad):
    log = await aged(db, org, 100, 99, 5, 4)
    await AuditRetention(db, log, default_days=90).prune(org)
    assert (await log.verify(org)).ok
    tables = ("audit_log", "audit_anchors")
    await as_owner(
        database_url,
        *(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY" for table in tables),
        change.format(org=org),
        *(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY" for table in tables),
    )
    found = await log.verify(org)
    assert (found.ok, found.first_bad_seq) == (False, bad)


async def test_requests_may_neither_prune_nor_forge_an_anchor(db, org):
    await aged(db, org, 100)
    for statement in (
        "SELECT prune_audit($1, now(), 1)",
        "INSERT INTO audit_anchors (org_id, upto_seq, hash) VALUES ($1, 1, 'x')",
        "DELETE FROM audit_anchors WHERE org_id = $1",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with db.tenant(org) as connection:
                await connection.execute(statement, org)


async def test_each_month_has_its_partition_which_goes_when_it_is_over_and_empty(
    db, database_url, org
):
    async def partitions() -> set[str]:
        async with db.system() as connection:
            rows = await connection.fetch(
                "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
                " WHERE inhparent = 'audit_log'::regclass"
            )
        return {row["name"] for row in rows}

    old = today() - timedelta(days=400)
    name = f"audit_log_{old:%Y_%m}"
    async with db.system() as connection:
        assert await connection.fetchval("SELECT make_audit_month($1)", old.date())
        assert not await connection.fetchval("SELECT make_audit_month($1)", old.date())
    log = await aged(db, org, 400, 0)
    retention = AuditRetention(db, log, default_days=90)
    await AuditMonths(db).tend()
    assert {name, f"audit_log_{today():%Y_%m}", "audit_log_rest"} <= await partitions()
    async with db.tenant(org) as connection:
        where = "SELECT tableoid::regclass::text FROM audit_log ORDER BY seq"
        assert await connection.fetchval(where) == name
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant(org) as connection:
            await connection.execute(f"SELECT 1 FROM {name}")
    await retention.prune(org)
    await AuditMonths(db).tend()
    assert name not in await partitions()
    assert (await log.verify(org)).ok


async def test_a_month_whose_entries_lie_elsewhere_is_left_as_it_is(db, org):
    stray = today() - timedelta(days=800)
    await aged(db, org, 800)
    async with db.system() as connection:
        assert not await connection.fetchval("SELECT make_audit_month($1)", stray.date())
