import asyncio
import csv
import io
import math
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import orjson
import pyarrow.parquet as pq
import pytest

from agentcy_ray.audit.entry import AuditEntry, kept
from agentcy_ray.audit.export import export
from agentcy_ray.audit.filters import AuditFilter
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.audit.verify import Verification
from agentcy_ray.core.errors import NotFoundError, StoreUnavailableError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.stores.postgres import Database, open_database

WRITER = """
import asyncio, sys
from uuid import UUID
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.stores.postgres import open_database

async def main(url, org, count):
    db = await open_database(url, pool_max=4)
    log = AuditLog(db)
    entries = [AuditEntry(org_id=UUID(org), category="chat", action=f"other.{n}", decision="allow")
               for n in range(count)]
    await asyncio.gather(*(log.append(entry) for entry in entries))
    await db.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def entry(org: UUID, **fields) -> AuditEntry:
    usual = {"category": "policy", "action": "source.create", "decision": "allow"}
    return AuditEntry(**{"org_id": org, **usual, **fields})


async def as_owner(url: str, *statements: str) -> None:
    """Change rows as the owner of the tables, past every application role."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def filled(db: Database, org: UUID, count: int) -> AuditLog:
    log = AuditLog(db)
    await asyncio.gather(*(log.append(entry(org, action=f"step.{n}")) for n in range(count)))
    return log


@pytest.mark.requirement("AUD-03")
async def test_two_processes_with_a_hundred_writers_leave_neither_gap_nor_duplicate(
    db, database_url, org
):
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, database_url, str(org), "60"
    )
    log = AuditLog(db)
    await asyncio.gather(*(log.append(entry(org)) for _ in range(60)))
    assert await other.wait() == 0
    records = [record async for page in log.pages(org, size=50) for record in page]
    assert [record.seq for record in records] == list(range(1, 121))
    assert len({record.id for record in records}) == 120
    assert await log.verify(org) == Verification(ok=True, checked=120)


async def test_many_entries_share_a_commit(db, org):
    log = await filled(db, org, 50)
    async with db.tenant(org) as connection:
        commits = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM audit_log")
    assert commits < 50
    assert (await log.verify(org)).checked == 50


async def test_any_json_value_is_stored_and_still_verifies(db, org):
    log = AuditLog(db)
    values = [
        0, -0.0, 1.5, 1e-7, 1e300, 2**53 - 1, 2**70, -(2**64), math.inf, math.nan, "\x00", "\ud800",
        "é", {"": [None, True, {"b": 1, "a": 2}]}, new_id(), datetime.now(UTC), 1e17, 123456789.125,
    ]  # fmt: skip
    for value in values:
        await log.append(entry(org, input={"value": value}, reasons=(str(value),)))
    assert await log.verify(org) == Verification(ok=True, checked=len(values))


@pytest.mark.requirement("AUD-04")
@pytest.mark.parametrize("role", ["agentcy_app", "agentcy_system"])
@pytest.mark.parametrize("change", ["UPDATE audit_log SET rule = 'x'", "DELETE FROM audit_log"])
async def test_no_application_role_may_change_an_entry(db, org, role, change):
    await filled(db, org, 1)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant(org) if role == "agentcy_app" else db.system() as connection:
            await connection.execute(change)


SWAP = """
UPDATE audit_log a SET action = b.action, id = b.id FROM audit_log b
WHERE a.org_id = '{org}' AND b.org_id = '{org}' AND (a.seq, b.seq) IN ((2, 3), (3, 2))
"""
INSERTED = """
INSERT INTO audit_log (org_id, seq, id, ts, category, action, decision, resource, context,
                       prev_hash, hash)
SELECT org_id, 6, gen_random_uuid(), ts, category, action, decision, resource, context, hash, hash
FROM audit_log WHERE org_id = '{org}' AND seq = 5
"""


@pytest.mark.requirement("AUD-04")
@pytest.mark.parametrize(
    ("change", "bad"),
    [
        ("UPDATE audit_log SET decision = 'deny' WHERE org_id = '{org}' AND seq = 3", 3),
        ("UPDATE audit_log SET ts = ts + interval '1 us' WHERE org_id = '{org}' AND seq = 1", 1),
        ("UPDATE audit_log SET context = '{{\"a\": 1}}' WHERE org_id = '{org}' AND seq = 5", 5),
        ("DELETE FROM audit_log WHERE org_id = '{org}' AND seq = 2", 2),
        ("DELETE FROM audit_log WHERE org_id = '{org}' AND seq = 1", 1),
        ("DELETE FROM audit_log WHERE org_id = '{org}' AND seq >= 4", 4),
        ("UPDATE audit_log SET id = gen_random_uuid() WHERE org_id = '{org}' AND seq = 4", 4),
        (SWAP.replace("id = b.id", "ts = b.ts"), 2),
        (INSERTED, 6),
    ],
)
async def test_verify_names_the_first_bad_entry_after_a_change_behind_its_back(
    db, database_url, org, change, bad
):
    log = await filled(db, org, 5)
    assert (await log.verify(org)).ok
    await as_owner(
        database_url,
        "ALTER TABLE audit_log NO FORCE ROW LEVEL SECURITY",
        change.format(org=org),
        "ALTER TABLE audit_log FORCE ROW LEVEL SECURITY",
    )
    found = await log.verify(org)
    assert (found.ok, found.first_bad_seq) == (False, bad)


async def test_a_stretch_is_verified_against_the_entry_before_it(db, org):
    log = await filled(db, org, 6)
    assert await log.verify(org, 3, 5) == Verification(ok=True, checked=3)
    assert await log.verify(org, 6) == Verification(ok=True, checked=1)
    assert await log.verify(org, 7) == Verification(ok=True, checked=0)


@pytest.mark.requirement("AUD-01")
async def test_the_entries_of_one_day_are_listed_by_since_and_until(db, org):
    log = AuditLog(db)
    day = datetime(2026, 4, 24, tzinfo=UTC)
    for hours in (-1, 0, 12, 23, 24):
        await log.append(entry(org, ts=day + timedelta(hours=hours), action=f"h.{hours}"))
    where = AuditFilter(since=day, until=day + timedelta(days=1))
    assert [r.action for r in await log.list(org, where)] == ["h.23", "h.12", "h.0"]


async def test_filters_choose_by_every_field_and_pages_follow_each_other(db, org):
    log, user, run = AuditLog(db), new_id(), new_id()
    await log.append(entry(org))
    await log.append(
        entry(
            org,
            category="chat",
            decision="deny",
            action="chat.tool.execute",
            user_id=user,
            resource={"connector": "git", "tool": "git.log"},
            context={"run_id": encode("run", run)},
        )
    )
    await log.append(entry(org))
    for where in (
        AuditFilter(decision="deny"),
        AuditFilter(category="chat"),
        AuditFilter(action="chat.tool.execute"),
        AuditFilter(connector="git"),
        AuditFilter(tool="git.log"),
        AuditFilter(user_id=user),
        AuditFilter(run_id=run),
    ):
        assert [record.seq for record in await log.list(org, where)] == [2]
    first = await log.list(org, limit=2)
    rest = await log.list(org, limit=2, before_seq=first[-1].seq)
    assert [record.seq for record in (*first, *rest)] == [3, 2, 1]


async def test_an_entry_of_another_organisation_is_not_found(db, org):
    log = await filled(db, org, 1)
    stored = (await log.list(org))[0]
    assert (await log.get(org, stored.id)).seq == 1
    with pytest.raises(NotFoundError):
        await log.get(new_id(), stored.id)


async def exported(log: AuditLog, org: UUID, form) -> bytes:
    return b"".join([block async for block in export(log, org, form)])


async def test_export_gives_every_entry_oldest_first_and_defuses_formulas(db, org):
    log = AuditLog(db)
    await log.append(entry(org, rule="=HYPERLINK(1)", reasons=("a", "b"), input={"n": 1}))
    await log.append(entry(org))
    rows = list(csv.DictReader(io.StringIO((await exported(log, org, "csv")).decode())))
    assert [row["seq"] for row in rows] == ["1", "2"]
    assert rows[0]["rule"] == "'=HYPERLINK(1)"
    lines = (await exported(log, org, "ndjson")).splitlines()
    assert [orjson.loads(line)["seq"] for line in lines] == [1, 2]
    table = pq.read_table(io.BytesIO(await exported(log, org, "parquet"))).to_pylist()
    stored = await log.list(org)
    assert [(row["seq"], row["ts"], row["hash"]) for row in table] == [
        (record.seq, record.ts, record.hash) for record in reversed(stored)
    ]
    assert table[0]["reasons"] == ["a", "b"]
    assert orjson.loads(table[0]["input"]) == {"n": 1}


async def test_an_empty_log_exports_as_a_file_that_opens(db, org):
    log = AuditLog(db)
    assert pq.read_table(io.BytesIO(await exported(log, org, "parquet"))).num_rows == 0
    assert len((await exported(log, org, "csv")).splitlines()) == 1


async def test_an_export_ends_where_the_log_ended_when_it_began(db, org):
    log = await filled(db, org, 3)
    pages = log.pages(org, size=2)
    seqs = [record.seq for record in await anext(pages)]
    await log.append(entry(org))
    seqs += [record.seq async for page in pages for record in page]
    assert seqs == [1, 2, 3]


async def test_a_tail_gives_the_backlog_and_then_what_another_process_writes(db, org, bells):
    here, there = (AuditLog(db, bell) for bell in bells)
    await asyncio.gather(*(there.append(entry(org, action=f"step.{n}")) for n in range(2)))
    tail = here.tail(org, 1, ping_secs=30)
    async with asyncio.timeout(60):
        assert (await anext(tail)).seq == 2
        coming = asyncio.ensure_future(anext(tail))
        await there.append(entry(org, action="news"))
        assert (await coming).action == "news"
    await tail.aclose()
    await there.close()


async def test_a_quiet_tail_says_so_and_does_not_repeat_what_it_left_out(db, org):
    log = await filled(db, org, 2)
    tail = log.tail(org, 0, AuditFilter(action="step.none"), ping_secs=0.01)
    assert await anext(tail) is None
    await log.append(entry(org, action="step.none"))
    while (record := await anext(tail)) is None:
        pass
    assert record.seq == 3
    await tail.aclose()


async def test_an_append_raises_when_its_commit_fails_and_writes_nothing(database_url, db, org):
    doomed = await open_database(database_url, pool_max=2)
    log = AuditLog(doomed, patience_secs=0)
    await log.append(entry(org))
    await doomed.close()
    with pytest.raises(StoreUnavailableError):
        await log.append(entry(org))
    assert (await AuditLog(db).verify(org)) == Verification(ok=True, checked=1)


async def test_an_entry_that_cannot_be_stored_fails_alone(db, org):
    log, twin = AuditLog(db), entry(org)
    await log.append(twin)
    outcomes = await asyncio.gather(
        *(log.append(e) for e in (entry(org), twin, entry(org))), return_exceptions=True
    )
    assert [type(o) for o in outcomes] == [UUID, asyncpg.UniqueViolationError, UUID]
    assert await log.verify(org) == Verification(ok=True, checked=3)


@pytest.mark.requirement("AUD-02")
@pytest.mark.parametrize(
    ("action", "decision", "written"),
    [
        ("source.read", "allow", False),
        ("graph.query", "allow", False),
        ("rag.search", "allow", False),
        ("memory.read", "allow", False),
        ("activity.write", "allow", False),
        ("graph.read", "deny", True),
        ("rag.search", "deny", True),
        ("source.create", "allow", True),
        ("chat.tool.execute", "allow", True),
        ("memory.write", "allow", True),
    ],
)
def test_every_deny_and_every_allow_but_plain_reads_is_kept(action, decision, written):
    assert kept(action, decision) is written
