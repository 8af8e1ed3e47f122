"""Writing entities in batches, idempotently.

A batch is split into what exists and what does not: rows that exist are set, the others created.
``MERGE`` would say the same in one word, but the embedded server scans for a pattern with two
labels (50 rows/s against 8,000) and walks all edges of a hub for one with an edge id. Two writers
that race meet the uniqueness constraint; the loser runs again and finds the row.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from neo4j import AsyncManagedTransaction

from agentcy_ray.context.basic.bolt import Bolt, TooBigError, run
from agentcy_ray.context.basic.layout import ENTITY, Properties, name_of, weigh
from agentcy_ray.core.errors import EngineError

_FIND_NODES = """
UNWIND $ids AS id MATCH (n:Entity {id: id})
RETURN n.id AS id, n._labels AS labels, n.first_seen AS first_seen
"""
_SET_NODES = "UNWIND $rows AS row MATCH (n:Entity {id: row.id}) SET n = row"
_CREATE_NODES = "UNWIND $rows AS row CREATE (n:{labels}) SET n = row"
# A server that keeps one record type per label set makes a new record, which must not meet the old
# one in the unique index: so the id is taken off meanwhile.
_RELABEL = """
UNWIND $ids AS id MATCH (n:Entity {{id: id}}) WITH n, n.id AS kept
REMOVE n.id {remove} {add} SET n.id = kept
"""
_ARCHIVE_NODES = """
UNWIND $ids AS id MATCH (n:Entity {id: id})
WHERE n.org = $org AND n.archived_at IS NULL
SET n.archived_at = $at RETURN count(n) AS changed
"""
_PRUNE_NODES = """
MATCH (n:Entity)
WHERE n.org = $org AND n.source_id = $source AND n.archived_at < $before
WITH n LIMIT $many DETACH DELETE n RETURN count(*) AS changed
"""

_FIND_EDGES = (
    "MATCH ()-[r:{type}]->() WHERE r.id IN $ids RETURN r.id AS id, r.first_seen AS first_seen"
)
_SET_EDGES = "MATCH ()-[r:{type}]->() WHERE r.id IN $ids SET r = $rows[r.id]"
_CREATE_EDGES = """
UNWIND $rows AS row
MATCH (a:Entity {{id: row._src}}) MATCH (b:Entity {{id: row._dst}})
WHERE a.org = $org AND b.org = $org
CREATE (a)-[r:{type}]->(b) SET r = row RETURN count(r) AS changed
"""
_ARCHIVE_EDGES = """
MATCH ()-[r:{type}]->()
WHERE r.id IN $ids AND r.org = $org AND r.archived_at IS NULL
SET r.archived_at = $at RETURN count(r) AS changed
"""
_PRUNE_EDGES = """
MATCH ()-[r:{type}]->()
WHERE r.org = $org AND r.source_id = $source AND r.archived_at < $before
WITH r LIMIT $many DELETE r RETURN count(*) AS changed
"""
_ERASE = """
MATCH (n:Entity) WHERE n.org = $org WITH n LIMIT $many DETACH DELETE n RETURN count(*) AS changed
"""
_ANY_NODE = "MATCH (n:Entity) WHERE n.source_id = $source AND n.org = $org RETURN 1 AS n LIMIT 1"
_ANY_EDGE = "MATCH ()-[r]->() WHERE r.source_id = $source AND r.org = $org RETURN 1 AS n LIMIT 1"
_EDGE_TYPES = "CALL db.relationshipTypes() YIELD relationshipType RETURN relationshipType AS type"

PRUNE_ROWS = 1_000
PART_CHARS = 3_000_000
"""Text of one part. The embedded server takes messages of 16 MiB, and goes silent on longer ones
rather than refuse them; a character is at most four bytes."""
LISTED = 200
"""Ids of one ``IN`` list: the embedded server walks the list again for each row that it finds."""

_Row = TypeVar("_Row")


async def write_nodes(
    bolt: Bolt, rows: Sequence[Properties], size: int, *, fresh: bool = False
) -> int:
    """Upsert nodes, ``size`` rows per transaction; returns how many rows were written.

    With ``fresh`` the first attempt at a part does not look for what exists; a repeated one does,
    since the first may have been committed without our hearing of it.
    """
    tried: set[str] = set()

    async def unit(transaction: AsyncManagedTransaction, part: Sequence[Properties]) -> int:
        ids = [row["id"] for row in part]
        found: dict[str, Any] = {}
        if not fresh or ids[0] in tried:
            found = {r["id"]: r for r in await _fetch(transaction, _FIND_NODES, ids=ids)}
        tried.add(ids[0])
        created: dict[tuple[str, ...], list[Properties]] = {}
        known: list[Properties] = []
        moved: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for row in part:
            before = found.get(row["id"])
            labels = tuple(row["_labels"])
            if before is None:
                created.setdefault(labels, []).append(row)
                continue
            known.append(row | {"first_seen": before["first_seen"] or row["first_seen"]})
            if set(earlier := tuple(before["labels"])) != set(labels):
                moved.setdefault((earlier, labels), []).append(row["id"])
        for (earlier, labels), some in moved.items():
            await _relabel(transaction, earlier, labels, some)
        if known:
            await _fetch(transaction, _SET_NODES, rows=known)
        for labels, some in created.items():
            await _fetch(transaction, _CREATE_NODES.format(labels=_label_list(labels)), rows=some)
        return len(part)

    return await _in_parts(bolt, rows, size, unit)


async def write_edges(
    bolt: Bolt,
    org_id: UUID,
    type_: str,
    rows: Sequence[Properties],
    size: int,
    *,
    fresh: bool = False,
) -> int:
    """Upsert edges of one type; a row whose ends are not both there is not written.

    ``fresh`` as in ``write_nodes``.
    """
    tried: set[str] = set()

    async def unit(transaction: AsyncManagedTransaction, part: Sequence[Properties]) -> int:
        look = not fresh or part[0]["id"] in tried
        tried.add(part[0]["id"])
        return await _put_edges(transaction, org_id, type_, part, look=look)

    return await _in_parts(bolt, rows, size, unit)


async def load_edges(
    bolt: Bolt, org_id: UUID, groups: Mapping[str, Sequence[Properties]], size: int
) -> int:
    """Create edges of several types that are not there yet, all in one transaction.

    The embedded server writes each page that a transaction changes once, so what lies together in
    few large transactions costs a fraction of the same rows in many. Statements are of ``size``
    rows. Where the server does not take the whole, it goes by type and part.

    Args:
        bolt: the database.
        org_id: whose.
        groups: edge type → rows; those whose ends are not both there are not written.
        size: rows of a statement.
    """
    attempts = 0

    async def unit(transaction: AsyncManagedTransaction) -> int:
        nonlocal attempts
        attempts += 1  # a first one may have been committed without our hearing of it
        total = 0
        for type_, rows in groups.items():
            for part in _parts(rows, size, PART_CHARS):
                total += await _put_edges(transaction, org_id, type_, part, look=attempts > 1)
        return total

    try:
        return await bolt.write(unit)
    except TooBigError:
        first = attempts <= 1
        return sum([
            await write_edges(bolt, org_id, type_, rows, size, fresh=first)
            for type_, rows in groups.items()
        ])


async def _put_edges(
    transaction: AsyncManagedTransaction,
    org_id: UUID,
    type_: str,
    part: Sequence[Properties],
    *,
    look: bool,
) -> int:
    """Set the edges of one type that are there, if they are looked for, and create the others."""
    name = name_of("type", type_)
    found: dict[str, str | None] = {}
    for ids in _parts([row["id"] for row in part] if look else [], LISTED):
        rows = await _fetch(transaction, _FIND_EDGES.format(type=name), ids=ids)
        found |= {row["id"]: row["first_seen"] for row in rows}
    known = {
        row["id"]: row | {"first_seen": found[row["id"]] or row["first_seen"]}
        for row in part
        if row["id"] in found
    }
    for ids in _parts(list(known), LISTED):
        some = {id_: known[id_] for id_ in ids}
        await _fetch(transaction, _SET_EDGES.format(type=name), ids=ids, rows=some)
    created = [row for row in part if row["id"] not in found]
    if not created:
        return len(known)
    made = await _fetch(transaction, _CREATE_EDGES.format(type=name), rows=created, org=org_id.hex)
    return len(known) + made[0]["changed"]


async def archive_nodes(bolt: Bolt, org_id: UUID, ids: Sequence[str], at: str, size: int) -> int:
    """Mark live nodes as archived; returns how many were live."""

    async def unit(transaction: AsyncManagedTransaction, part: Sequence[str]) -> int:
        rows = await _fetch(transaction, _ARCHIVE_NODES, ids=list(part), org=org_id.hex, at=at)
        return rows[0]["changed"]

    return await _in_parts(bolt, ids, size, unit)


async def archive_edges(bolt: Bolt, org_id: UUID, ids: Sequence[str], at: str, size: int) -> int:
    """Mark live edges as archived. Their types are not given, so each type's index is asked."""
    texts = [_ARCHIVE_EDGES.format(type=name) for name in await edge_types(bolt)]

    async def unit(transaction: AsyncManagedTransaction, part: Sequence[str]) -> int:
        changed = 0
        for text in texts:
            for some in _parts(part, LISTED):
                rows = await _fetch(transaction, text, ids=some, org=org_id.hex, at=at)
                changed += rows[0]["changed"]
        return changed

    return await _in_parts(bolt, ids, size, unit)


async def holds(bolt: Bolt, org_id: UUID, source_id: UUID) -> bool:
    """Whether a node or an edge of the source exists, archived ones included."""
    for text in (_ANY_NODE, _ANY_EDGE):
        if await bolt.read(text, {"org": org_id.hex, "source": source_id.hex}):
            return True
    return False


async def prune(bolt: Bolt, org_id: UUID, source_id: UUID, before: str) -> int:
    """Delete what was archived before a time, a bounded number per transaction."""
    texts = [_PRUNE_EDGES.format(type=name) for name in await edge_types(bolt)]
    total = 0
    for text in (*texts, _PRUNE_NODES):
        changed = PRUNE_ROWS
        while changed == PRUNE_ROWS:

            async def work(transaction: AsyncManagedTransaction, text: str = text) -> int:
                rows = await _fetch(
                    transaction, text, org=org_id.hex, source=source_id.hex, before=before,
                    many=PRUNE_ROWS,
                )  # fmt: skip
                return rows[0]["changed"]

            changed = await bolt.write(work)
            total += changed
    return total


async def erase(bolt: Bolt, org_id: UUID) -> AsyncIterator[int]:
    """Delete everything of an organisation; yields how many nodes each step deleted."""

    async def work(transaction: AsyncManagedTransaction) -> int:
        rows = await _fetch(transaction, _ERASE, org=org_id.hex, many=PRUNE_ROWS)
        return rows[0]["changed"]

    while changed := await bolt.write(work):
        yield changed


async def edge_types(bolt: Bolt) -> list[str]:
    """Every edge type of the database, quoted."""
    return [name_of("type", record["type"]) for record in await bolt.read(_EDGE_TYPES)]


async def _relabel(
    transaction: AsyncManagedTransaction,
    earlier: Sequence[str],
    labels: Sequence[str],
    ids: Sequence[str],
) -> None:
    gone = [name for name in earlier if name not in labels and name != ENTITY]
    added = [name for name in labels if name not in earlier and name != ENTITY]
    text = _RELABEL.format(
        remove=f"REMOVE n:{':'.join(name_of('label', n) for n in gone)}" if gone else "",
        add=f"SET n:{':'.join(name_of('label', n) for n in added)}" if added else "",
    )
    await _fetch(transaction, text, ids=list(ids))


def _label_list(labels: Sequence[str]) -> str:
    own = dict.fromkeys(name for name in labels if name != ENTITY)
    return ":".join((ENTITY, *(name_of("label", name) for name in own)))


async def _fetch(
    transaction: AsyncManagedTransaction, text: str, **params: Any
) -> list[dict[str, Any]]:
    result = await run(transaction, text, params)
    return [record.data() async for record in result]


async def _in_parts(
    bolt: Bolt,
    rows: Sequence[_Row],
    size: int,
    unit: Callable[[AsyncManagedTransaction, Sequence[_Row]], Awaitable[int]],
) -> int:
    """Run ``unit`` on parts of ``size`` rows; a part that is too big for the server is halved.

    Raises:
        EngineError: the server cannot even take one row.
    """
    total = 0
    for part in _parts(rows, size, PART_CHARS):
        waiting: list[Sequence[_Row]] = [part]
        while waiting:
            some = waiting.pop()
            try:
                total += await bolt.write(lambda transaction, some=some: unit(transaction, some))
            except TooBigError as error:
                if len(some) == 1:
                    raise EngineError(
                        "the graph server has too little memory for a single entity; give it more"
                    ) from error
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]
    return total


def _parts(rows: Sequence[_Row], size: int, chars: int | None = None) -> Iterator[list[_Row]]:
    """Runs of at most ``size`` rows, and of about ``chars`` characters where rows are maps."""
    part: list[_Row] = []
    weight = 0
    for row in rows:
        more = weigh(row) if chars is not None and isinstance(row, dict) else 0
        if part and (len(part) == size or (chars is not None and weight + more > chars)):
            yield part
            part, weight = [], 0
        part.append(row)
        weight += more
    if part:
        yield part
