"""SQL of the engine's own reads: the relations of the scope in front, texts quoted by one function.

There is no parameter binding in kyma's query route, so every value becomes a literal here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
from sqlglot import Expr, exp, parse_one

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.current import Table, column, relations
from agentcy_ray.context.languages.facts import text_of
from agentcy_ray.context.languages.planned import to_sql

_MOMENT = pa.timestamp("us", tz="UTC")

NODE = (
    "id", "label_set", "name", "realm", "source_id", "connector", "external_id", "props",
    "first_seen", "last_seen", "archived_at", "content_hash",
)  # fmt: skip
ENDS = ("id", "src", "dst")
EDGE = ("id", "src", "dst", "type", "realm", "props")


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return to_sql(text_of(text))


def listed(texts: Iterable[str]) -> str:
    """Texts as the inside of an ``IN`` list; an empty list is one that nothing is in."""
    return ", ".join(quoted(text) for text in texts) or "NULL"


def one_of(name: str, texts: Iterable[str]) -> Expr:
    """The condition that an unqualified column is one of some texts."""
    found = [text_of(text) for text in texts]
    return exp.In(this=column(name), expressions=found) if found else exp.false()


def among(name: str, query: str) -> Expr:
    """The condition that an unqualified column is among what a query gives."""
    return exp.In(this=column(name), query=exp.Subquery(this=parse_one(query)))


def named(columns: Iterable[str]) -> str:
    """Columns as a select list."""
    return ", ".join(f'"{name}"' for name in columns)


def over(
    scope: Scope,
    tables: Mapping[Table, Sequence[Expr]],
    *,
    include_archived: bool = False,
    ends: bool = True,
    search: bool = False,
    narrow: Mapping[Table, Sequence[str]] | None = None,
) -> str:
    """``_nodes``, ``_edges`` or ``_events`` as the inside of a ``WITH``; see ``relations``.

    Args:
        scope: whose, and which realms.
        tables: those to read, each with the conditions on immutable columns that its rows meet.
        include_archived: as in ``relations``.
        ends: as in ``relations``.
        search: as in ``relations``.
        narrow: as in ``relations``.
    """
    found = relations(
        tables.keys(), scope, include_archived=include_archived, pushed=tables, ends=ends,
        search=search, narrow=narrow,
    )  # fmt: skip
    return ", ".join(to_sql(each) for each in found)


def texts(*names: str) -> pa.Schema:
    """The schema of an answer of text columns."""
    return pa.schema([pa.field(name, pa.string()) for name in names])


def counts(*names: str) -> pa.Schema:
    """The schema of text columns and a ``count``."""
    return texts(*names).append(pa.field("count", pa.int64()))


def entities(names: Sequence[str]) -> pa.Schema:
    """The schema of columns of ``_nodes`` or ``_edges``."""
    moments = ("first_seen", "last_seen", "archived_at")
    return pa.schema([pa.field(n, _MOMENT if n in moments else pa.string()) for n in names])
