"""Which tables a SQL text reads, to find out whether one of them does not exist yet."""

from __future__ import annotations

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError


def tables_of(sql: str) -> list[str]:
    """Names of the tables in a text, without those that it defines itself; empty if unreadable.

    Only used to explain an error: a text that this does not read stays "refused".
    """
    try:
        tree = parse_one(sql, dialect="postgres")
    except SqlglotError:
        return []
    own = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)}
    names = {table.name.lower() for table in tree.find_all(exp.Table) if table.name}
    return sorted(name for name in names - own if name.replace("_", "").isalnum())
