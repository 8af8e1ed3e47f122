"""``audit_entries_per_sec``: appending to one organisation's hash chain, 320 callers at once.

Subject: ``AuditLog.append`` of entries as governed calls leave them, each caller waiting until its
own is durable. Control: the same texts inserted by bare asyncpg, as many at a time, with no chain,
no hash and nobody who waits for a single row. ``audit_entry_us`` is what an entry costs this
process; ``audit_lone_ms`` how long an append takes when there is no other.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import orjson

from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.ids import encode, new_id
from benchmarks.figures import Figure, absolute, compared
from benchmarks.stores import Bench, fresh_stores

ENTRIES, AT_ONCE, ROUNDS, LONE = 20_000, 320, 5, 200
_BARE = """
CREATE TABLE bench_audit (id uuid PRIMARY KEY, org_id uuid, ts timestamptz, input jsonb,
                          resource jsonb, context jsonb);
CREATE INDEX ON bench_audit (org_id, ts)
"""
_INSERT = """
INSERT INTO bench_audit (id, org_id, ts, input, resource, context)
SELECT id, org_id, ts, input, resource, context
FROM json_to_recordset($1::text::json) AS e (id uuid, org_id uuid, ts timestamptz, input jsonb,
                                             resource jsonb, context jsonb)
"""


async def run() -> list[Figure]:
    """Rates of both, the cost of an entry, and the wait of a lone caller."""
    rates: list[float] = []
    bare: list[float] = []
    cost: list[float] = []
    async with fresh_stores() as bench:
        log = AuditLog(bench.db)
        connection = await asyncpg.connect(bench.endpoints.database_url)
        await connection.execute(_BARE)
        for _ in range(ROUNDS):
            bare.append(await _inserted(connection, _entries(bench)))
            rate, each = await _appended(log, _entries(bench))
            rates.append(rate)
            cost.append(each)
        lone = [await _alone(log, entry) for entry in _entries(bench)[:LONE]]
        checked = await log.verify(bench.owner.org_id)
        assert checked.ok, "the chain broke under the benchmark"
        await connection.close()
        await log.close()
    return [
        compared("audit_entries_per_sec", "/s", "bare insert, no chain", rates, bare),
        absolute("audit_entry_us", "µs of Python", cost, at_most=25),
        absolute("audit_lone_ms", "ms", [statistics.median(lone)], at_most=5),
    ]


async def _appended(log: AuditLog, entries: Sequence[AuditEntry]) -> tuple[float, float]:
    """Entries a second, and µs of this process for each."""
    left = iter(entries)

    async def caller() -> None:
        for entry in left:
            await log.append(entry)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    used, took = time.process_time() - cpu, time.perf_counter() - began
    return len(entries) / took, used / len(entries) * 1e6


async def _inserted(
    connection: asyncpg.Connection[asyncpg.Record], entries: Sequence[AuditEntry]
) -> float:
    rows: list[dict[str, Any]] = [
        {name: getattr(entry, name) for name in ("id", "org_id", "ts", *_JSON)} for entry in entries
    ]
    began = time.perf_counter()
    for start in range(0, len(rows), AT_ONCE):
        text = orjson.dumps(rows[start : start + AT_ONCE]).decode()
        await connection.execute(_INSERT, text)
    return len(rows) / (time.perf_counter() - began)


async def _alone(log: AuditLog, entry: AuditEntry) -> float:
    began = time.perf_counter()
    await log.append(replace(entry, id=new_id()))
    return (time.perf_counter() - began) * 1e3


_JSON = ("input", "resource", "context")


def _entries(bench: Bench) -> list[AuditEntry]:
    """Entries of the size that the gateway writes: about 1,100 bytes of JSON."""
    owner = bench.owner
    org, user = encode("org", owner.org_id), encode("usr", owner.user_id)
    other = encode("run", new_id())
    call = {
        "type": "tool", "connector": "github", "source": encode("src", new_id()),
        "tool": "github.list_pulls", "tool_effect": "read", "builtin": False,
    }  # fmt: skip
    where = {"ip": "10.0.0.7", "request_id": "req_1234567890", "run_id": other}
    return [
        AuditEntry(
            id=new_id(),
            org_id=owner.org_id,
            user_id=owner.user_id,
            category="chat",
            action="chat.tool.execute",
            decision="allow",
            resource={**call, "status": "completed", "error": None},
            input={
                "subject": {
                    "user_id": user, "org_id": org, "role": "member", "external_id": None,
                    "api_key_id": None, "channel": "ui",
                },
                "action": "chat.tool.execute",
                "resource": {
                    **call, "args": {"repo": "a/b", "state": "open", "page": number},
                    "args_sha256": "ab" * 32,
                },
                "context": {
                    **where, "approval_granted": False, "realm": "development", "agent": "default",
                    "parent_run_id": None,
                },
                "env": {"now": "2026-04-24T12:00:00.000Z", "instance_mode": "self-hosted"},
            },
            context={
                **where, "conversation_id": other, "tool_call_id": other, "approval_id": None,
                "latency_ms": 0.031, "usage_ms": 1.5,
            },
        )
        for number in range(ENTRIES)
    ]  # fmt: skip
