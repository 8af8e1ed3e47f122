"""The relations that every read of the Advanced engine is built on.

The tables are append-only: each upsert is a row, and so is each archiving. ``relations`` says what
is there now, as common table expressions that a planner puts in front of its own:

``_nodes``   id, labels, label_set, name, realm, source_id, connector, external_id, facts, props,
             first_seen, last_seen, archived_at, content_hash
``_edges``   id, src, dst, type, realm, source_id, facts, props, first_seen, last_seen,
             archived_at, content_hash
``_events``  at, label, body, props, facts, realm, pipeline_id, event_id, service, severity,
             trace_id, span_id, duration_ms

Rows are ordered by ``version`` and, for equal ones, by ``op``: ``upsert`` wins over ``purge`` (the
entity is gone for good) and that over ``archive``. The three times are timestamps, ``props`` is the
JSON text of the properties. Each entity is there once, at its newest version, live unless archived
ones are asked for, in the realms of the scope. The organisation is the database, so no text names
it.

A predicate on a column that never changes for an id (see ``IMMUTABLE``) may be pushed below the
choice of the newest version; any other would bring old versions back to life. Pushing is what
keeps a query for one node from sorting the whole table.

The writer sends every column with every row ('' where there is no value), since a column that no
row has named yet does not exist, and SQL that names it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sqlglot import Expr, exp

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.facts import function

Table = Literal["context_nodes", "context_edges", "context_events"]

NODE_COLUMNS = (
    "id", "labels", "label_set", "name", "realm", "source_id", "connector", "external_id",
    "facts", "props", "first_seen", "last_seen", "archived_at", "content_hash",
)  # fmt: skip
EDGE_COLUMNS = (
    "id", "src", "dst", "type", "realm", "source_id", "facts", "props",
    "first_seen", "last_seen", "archived_at", "content_hash",
)  # fmt: skip
EVENT_COLUMNS = (
    "at", "label", "body", "props", "facts", "realm", "pipeline_id", "event_id", "service",
    "severity", "trace_id", "span_id", "duration_ms",
)  # fmt: skip

COLUMNS: dict[Table, tuple[str, ...]] = {
    "context_nodes": NODE_COLUMNS,
    "context_edges": EDGE_COLUMNS,
    "context_events": EVENT_COLUMNS,
}
RELATIONS: dict[Table, str] = {
    "context_nodes": "_nodes",
    "context_edges": "_edges",
    "context_events": "_events",
}
IMMUTABLE: dict[Table, frozenset[str]] = {
    "context_nodes": frozenset({
        "id", "realm", "source_id", "connector", "external_id", "labels",
    }),
    "context_edges": frozenset({"id", "src", "dst", "type", "realm", "source_id"}),
    "context_events": frozenset(EVENT_COLUMNS),
}  # fmt: skip

EPOCH = "1970-01-01T00:00:00"
"""``at`` of the row that made a table."""

_SHORT = frozenset({"label_set", "name", "content_hash"})
"""Changing columns that are cheap to carry along with the version."""
_TABLES: tuple[Table, ...] = ("context_nodes", "context_edges", "context_events")
_TIMES = ("first_seen", "last_seen", "archived_at")
Pushed = Mapping[Table, Sequence[Expr]]


def relations(
    tables: Iterable[Table],
    scope: Scope,
    *,
    include_archived: bool = False,
    pushed: Pushed | None = None,
    ends: bool = True,
    search: bool = False,
    narrow: Mapping[Table, Sequence[str]] | None = None,
) -> list[exp.CTE]:
    """What the scope may see of some tables, as CTEs in an order that SQL accepts.

    Args:
        tables: those that the query reads.
        scope: its realms; None = all of the organisation.
        include_archived: also entities whose newest row archives them.
        pushed: predicates on immutable columns, by unqualified column; all of a table must hold.
        ends: an edge shows only when both its ends do, which reads ``context_nodes`` too. False
            is for queries that join both ends themselves.
        search: ``_nodes`` also gets ``search_text``, which is not for callers.
        narrow: the only columns that the query reads of a table, ends of edges among them; a few
            are found faster than all.
    """
    asked = set(tables)
    wanted: list[Table] = [table for table in _TABLES if table in asked]
    below = pushed or {}
    found: list[exp.CTE] = []
    for table in wanted:
        if table == "context_events":
            found.append(_cte(RELATIONS[table], _events(scope, below)))
            continue
        columns = (narrow or {}).get(table) or COLUMNS[table]
        if search and table == "context_nodes":
            columns = (*columns, "search_text")
        rows = newest(
            table, scope, include_archived=include_archived, pushed=below.get(table, ()),
            columns=columns,
        )  # fmt: skip
        if table == "context_edges" and ends:
            # Its own relation: predicates pushed into _nodes must not hide the ends of edges.
            live = newest(
                "context_nodes", scope, include_archived=include_archived, columns=("id",)
            )
            found.append(_cte("_ends", live))
            for end in ("src", "dst"):
                known = exp.select(column("id"), copy=False).from_("_ends", copy=False).subquery()
                rows = rows.where(exp.In(this=column(end), query=known), copy=False)
        found.append(_cte(RELATIONS[table], rows))
    return found


def column(name: str, relation: str | None = None) -> exp.Column:
    """A column, quoted, so that its case is kept and no word of SQL is met."""
    return exp.column(exp.to_identifier(name, quoted=True), table=relation)


def _cte(name: str, rows: exp.Select) -> exp.CTE:
    return exp.CTE(this=rows, alias=exp.TableAlias(this=exp.to_identifier(name)))


def _conditions(scope: Scope, pushed: Sequence[Expr]) -> list[Expr]:
    conditions = [each.copy() for each in pushed]
    if scope.realms is not None:
        realms = [exp.Literal.string(realm) for realm in scope.realms]
        within = exp.In(this=column("realm"), expressions=realms) if realms else exp.false()
        conditions.append(within)
    return conditions


def newest(
    table: Table,
    scope: Scope,
    *,
    include_archived: bool = False,
    pushed: Sequence[Expr] = (),
    columns: Sequence[str] | None = None,
    times: bool = True,
) -> exp.Select:
    """The newest row of each id of nodes or edges, live unless archived ones are asked for.

    A row that was sent twice is one, since only the first rank counts.

    Args:
        table: ``context_nodes`` or ``context_edges``.
        scope: its realms.
        include_archived: also entities whose newest row archives them.
        pushed: predicates on immutable columns.
        columns: those that are wanted; all by default.
        times: whether times are timestamps; otherwise they stay RFC 3339 text, '' for none.
    """
    shown = columns or COLUMNS[table]
    ops = ("upsert", "archive") if include_archived else ("upsert",)  # nobody sees "purge"
    changing = [name for name in shown if name not in IMMUTABLE[table]]
    if len(changing) <= 1 and _SHORT.issuperset(changing):
        return _greatest(table, shown, _conditions(scope, pushed), ops)
    rank = exp.Window(
        this=function("row_number"),
        partition_by=[column("id")],
        order=exp.Order(
            # Of equal versions an upsert wins over an archiving, whichever came first.
            expressions=[
                exp.Ordered(this=column(name), desc=True, nulls_first=False)
                for name in ("version", "op")
            ]
        ),
    )
    inner: list[Expr] = [_raw(name) for name in shown if name != "first_seen"]
    if "first_seen" in shown:
        first = exp.Window(this=function("min", column("first_seen")), partition_by=[column("id")])
        inner.append(exp.alias_(first, "first_seen", quoted=True, copy=False))
    rows = exp.select(
        *inner, column("op"), exp.alias_(rank, "_rank", copy=False), copy=False
    ).from_(table, copy=False)
    for condition in _conditions(scope, pushed):
        rows = rows.where(condition, copy=False)
    outer = [
        exp.alias_(_timestamp(column(name)), name, quoted=True, copy=False)
        if times and name in _TIMES
        else column(name)
        for name in shown
    ]
    found = (
        exp
        .select(*outer, copy=False)
        .from_(rows.subquery("_versions", copy=False), copy=False)
        .where(exp.EQ(this=column("_rank"), expression=exp.Literal.number(1)), copy=False)
    )
    allowed = [exp.Literal.string(op) for op in ops]
    return found.where(exp.In(this=column("op"), expressions=allowed), copy=False)


def _greatest(
    table: Table, shown: Sequence[str], conditions: Sequence[Expr], ops: Sequence[str]
) -> exp.Select:
    """``newest`` for columns that never change and at most one that does: nothing is sorted.

    The greatest of version, first letter of op and the changing column, put together, is that of
    the newest row: versions have 20 digits, and the letters sort as the words do.
    """
    same = [name for name in shown if name in IMMUTABLE[table]]
    keys = [column(name) for name in dict.fromkeys(("id", *same))]
    letter = function("substr", column("op"), 1, 1)
    changing = [column(name) for name in shown if name not in IMMUTABLE[table]]
    top = function("max", function("concat", column("version"), letter, *changing))
    rows = exp.select(*keys, exp.alias_(top, "_top", copy=False), copy=False).from_(
        table, copy=False
    )
    for condition in conditions:
        rows = rows.where(condition, copy=False)
    rows = rows.group_by(*(key.copy() for key in keys), copy=False)
    outer = [
        column(name)
        if name in same
        else exp.alias_(function("substr", column("_top"), 22), name, quoted=True, copy=False)
        for name in shown
    ]
    allowed = [exp.Literal.string(op[0]) for op in ops]
    return (
        exp
        .select(*outer, copy=False)
        .from_(rows.subquery("_versions", copy=False), copy=False)
        .where(
            exp.In(this=function("substr", column("_top"), 21, 1), expressions=allowed), copy=False
        )
    )


def _events(scope: Scope, pushed: Pushed) -> exp.Select:
    rows = exp.select(*(_raw(name) for name in EVENT_COLUMNS), copy=False).from_(
        "context_events", copy=False
    )
    for condition in _conditions(scope, pushed.get("context_events", ())):
        rows = rows.where(condition, copy=False)
    # The row that made the table is of the epoch. Its empty id would tell it too, but to read the
    # ids of all events costs more than most summaries.
    epoch = exp.Cast(this=exp.Literal.string(EPOCH), to=exp.DataType.build("timestamp"))
    return rows.where(
        exp.or_(
            exp.Is(this=column("at"), expression=exp.Null()),
            exp.GT(this=column("at"), expression=epoch),
            copy=False,
        ),
        copy=False,
    )


def _raw(name: str) -> Expr:
    if name == "props":  # JSON bytes
        return exp.alias_(
            function("arrow_cast", column("props"), "Utf8"), name, quoted=True, copy=False
        )
    return column(name)


def _timestamp(text: Expr) -> Expr:
    return exp.Cast(this=function("nullif", text, ""), to=exp.DataType.build("timestamp"))
