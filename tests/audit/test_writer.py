"""What the writer does when a commit's answer is lost, or another process is faster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.audit import writer
from agentcy_ray.audit.canonical import seal
from agentcy_ray.audit.entry import GENESIS, AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.audit.verify import Verification
from agentcy_ray.core.errors import NotFoundError, StoreUnavailableError
from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.postgres import Database


class Unreliable:
    """A database whose connection is lost as the test says: before or after a commit."""

    def __init__(self, db: Database, *losses: str) -> None:
        self._db = db
        self._losses = list(losses)

    @asynccontextmanager
    async def tenant(self, org_id: UUID) -> AsyncIterator[Any]:
        loss = self._losses.pop(0) if self._losses else None
        async with self._db.tenant(org_id) as connection:
            yield connection
            if loss == "before":
                raise StoreUnavailableError("the connection is lost, nothing is committed")
        if loss == "after":
            raise StoreUnavailableError("the connection is lost, all is committed")


def entry(org: UUID, number: int = 0) -> AuditEntry:
    return AuditEntry(org_id=org, category="chat", action=f"step.{number}", decision="allow")


def log_over(db: Database, *losses: str) -> AuditLog:
    unreliable: Any = Unreliable(db, *losses)
    return AuditLog(unreliable)


@pytest.mark.parametrize(
    "losses", [("before",), ("after",), ("after", "before"), ("before", "after", "after")]
)
async def test_an_entry_whose_commit_was_lost_is_written_exactly_once(
    db: Database, org: UUID, losses: tuple[str, ...]
) -> None:
    log = log_over(db, *losses)
    await asyncio.gather(*(log.append(entry(org, number)) for number in range(10)))
    await log.append(entry(org, 10))
    assert await AuditLog(db).verify(org) == Verification(ok=True, checked=11)


async def test_who_waits_is_told_when_patience_ends(db: Database, org: UUID) -> None:
    unreliable: Any = Unreliable(db, "before")
    log = AuditLog(unreliable, patience_secs=0)
    with pytest.raises(StoreUnavailableError):
        await log.append(entry(org))
    await log.append(entry(org))
    assert await AuditLog(db).verify(org) == Verification(ok=True, checked=1)


async def test_two_writers_that_take_turns_go_on_from_each_others_head(
    db: Database, org: UUID
) -> None:
    one, two = AuditLog(db), AuditLog(db)
    for log in (one, one, one, two, one, two, two, two, one):
        await log.append(entry(org))
    assert await one.verify(org) == Verification(ok=True, checked=9)


async def test_a_cancelled_caller_leaves_its_entry_to_be_written(db: Database, org: UUID) -> None:
    log = AuditLog(db)
    callers = [asyncio.create_task(log.append(entry(org, number))) for number in range(3)]
    await asyncio.sleep(0)
    callers[1].cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await log.settle()
    assert await log.verify(org) == Verification(ok=True, checked=3)


async def test_a_large_burst_is_split_by_bytes(
    db: Database, org: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentcy_ray.audit.writer.BATCH_BYTES", 10_000)
    log = AuditLog(db)
    large = {"text": "x" * 6_000}
    await asyncio.gather(*(log.append(replace(entry(org, n), input=large)) for n in range(9)))
    async with db.tenant(org) as connection:
        commits = await connection.fetchval("SELECT count(DISTINCT xmin::text) FROM audit_log")
    assert commits >= 5
    assert (await log.verify(org)).ok


async def test_an_unknown_organisation_has_no_log(db: Database) -> None:
    log = AuditLog(db)
    with pytest.raises(NotFoundError):
        await log.append(entry(new_id()))


async def test_a_writer_that_stops_in_a_commit_holds_the_chain_for_a_moment_only(
    db: Database, org: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_APPEND", writer._APPEND.replace("'10s'", "'200ms'"))
    other = AuditLog(db)

    async def stopped() -> None:
        async with db.tenant(org) as connection:
            sealed = [seal(entry(org))]
            assert await writer._append(connection, org, (0, GENESIS), sealed) is not None
            async with asyncio.timeout(60):
                await other.append(entry(org, 1))

    with pytest.raises(StoreUnavailableError):
        await stopped()
    assert [record.action for record in await other.list(org)] == ["step.1"]
    assert (await other.verify(org)).ok
