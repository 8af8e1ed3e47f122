"""A stage: what has been collected for one SQL statement, whatever order it was written in."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentcy_ray.devkyma.sqltext import named


@dataclass(slots=True)
class Stage:
    """Clauses over one source, which is a table or a sub-query in parentheses."""

    source: str
    where: list[str] = field(default_factory=list[str])
    project: list[str] | None = None
    away: list[str] = field(default_factory=list[str])
    extend: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    keys: list[str] = field(default_factory=list[str])
    aggregates: list[tuple[str, str]] | None = None
    order: list[str] = field(default_factory=list[str])
    limit: int | None = None
    distinct: list[str] | None = None
    count: bool = False

    def sql(self) -> str:
        """The statement: select, from, where, group by, order by, limit."""
        parts = [f"SELECT {self._columns()} FROM {self.source}"]
        if self.where:
            parts.append("WHERE " + " AND ".join(self.where))
        if self.aggregates is not None and self.keys:
            parts.append("GROUP BY " + ", ".join(self.keys))
        if self.order:
            parts.append("ORDER BY " + ", ".join(self.order))
        if self.limit is not None:
            parts.append(f"LIMIT {self.limit}")
        return " ".join(parts)

    def _columns(self) -> str:
        if self.count:
            return 'count(*) AS "Count"'
        if self.aggregates is not None:
            return ", ".join([*self.keys, *(f"{sql} AS {named(n)}" for n, sql in self.aggregates)])
        if self.distinct is not None:
            return "DISTINCT " + (", ".join(map(named, self.distinct)) or "*")
        if self.project is not None:
            columns = [named(name) for name in self.project if name not in self.away]
        else:
            away = ", ".join(map(named, self.away))
            columns = [f"* EXCEPT ({away})" if away else "*"]
        return ", ".join([*columns, *(f"{sql} AS {named(name)}" for name, sql in self.extend)])
