"""Which relations and columns a place of a query sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.frames import Reference
from agentcy_ray.context.languages.values import Kind, Value


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a relation; ``path`` is None unless it can be read into."""

    name: str
    kind: Kind
    item: Kind = "null"
    path: str | None = None

    @classmethod
    def of(cls, name: str, value: Value) -> Column:
        """The column that a selected value becomes."""
        return cls(name, value.kind, value.item, value.path if value.facts is not None else None)


@dataclass(frozen=True, slots=True)
class Relation:
    """Something in FROM; a table of ours has a ``reference`` that predicates may be pushed to."""

    alias: str
    columns: tuple[Column, ...]
    reference: Reference | None = None

    def find(self, name: str) -> Column | None:
        """The column of that name; without regard to case only when nothing matches exactly."""
        return next((each for each in self.columns if each.name == name), None)

    def value(self, found: Column) -> Value:
        """The column as an expression."""
        sql = column(found.name, self.alias)
        held = None if found.path is None else column(f"_facts:{found.name}", self.alias)
        return Value(sql, found.kind, True, held, found.path or "", item=found.item)


@dataclass(frozen=True, slots=True)
class Cte:
    """What WITH names: the relation of the plan that holds it, and its columns."""

    relation: str
    columns: tuple[Column, ...]


@dataclass(slots=True)
class Sight:
    """The relations of one SELECT, the tables that WITH names, and what lies around."""

    ctes: Mapping[str, Cte]
    outer: Sight | None = None
    relations: list[Relation] = field(default_factory=list)

    def resolve(self, name: str, relation: str | None) -> Value | None:
        """A column by name, of the innermost SELECT that has it."""
        here: Sight | None = self
        while here is not None:
            for each in here.relations:
                if relation in (None, each.alias) and (found := each.find(name)) is not None:
                    return each.value(found)
            here = here.outer
        return None

    def names(self, relation: str | None) -> list[str]:
        """Names that could be meant."""
        found: list[str] = []
        here: Sight | None = self
        while here is not None:
            for each in here.relations:
                if relation is None:
                    found += [each.alias, *(one.name for one in each.columns)]
                elif relation == each.alias:
                    found += [one.name for one in each.columns]
            here = here.outer
        return found


def name_of(found: exp.Expr | None) -> str:
    """An identifier's name as the engine means it: lower case unless quoted."""
    if isinstance(found, exp.Identifier):
        return found.this if found.args.get("quoted") else found.this.lower()
    return ""
