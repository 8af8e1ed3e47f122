"""FROM and its joins: tables by what the scope shows of them, sub-queries, values, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.facts import PROPERTY, function, text_of
from agentcy_ray.context.languages.frames import TABLES, base_column
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.sql.kinds import common_kind
from agentcy_ray.context.languages.sql.scopes import Column, Relation, Sight, name_of
from agentcy_ray.context.languages.values import Kind, Value

if TYPE_CHECKING:
    from agentcy_ray.context.languages.sql.selects import Queries


class Sources:
    """The relations of FROM."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self.merged: set[tuple[str, str]] = set()
        """(relation, column) of USING, which ``*`` shows once."""

    def add(self, rows: exp.Select, node: exp.Select, sight: Sight) -> None:
        """Put FROM and the joins of a SELECT into the new one; ``sight`` learns the relations."""
        held = node.args.get("from_")
        if held is None:
            return
        rows.set("from_", exp.From(this=self._relation(held.this, sight)))
        for join in node.args.get("joins") or []:
            rows.append("joins", self._join(join, sight))

    def _relation(self, node: exp.Expr, sight: Sight) -> exp.Expr:
        if node.args.get("joins"):
            self._queries.refuse(node, "joins in parentheses are not supported", "use a sub-query")
        match node:
            case exp.Table():
                return self._table(node, sight)
            case exp.Subquery():
                name = self._alias(node, sight)
                inner = node.copy()
                inner.set("alias", None)
                rows, columns = self._queries.derived(inner, sight.ctes, None)
                return self._derived(node, rows, columns, name, sight)
            case exp.Values():
                return self._values(node, sight)
            case exp.Unnest():
                return self._unnest(node, sight)
            case _:
                return self._queries.refuse(node, "not a table", "write from context_nodes")

    def _alias(self, node: exp.Expr, sight: Sight, default: str = "") -> str:
        held = node.args.get("alias")
        name = name_of(held.this) if held is not None else ""
        name = name or default or f"_t{len(sight.relations)}"
        if held is not None and name.startswith("_") and name_of(held.this):
            self._queries.refuse(node, "names with _ in front are reserved", "rename it")
        if any(each.alias == name for each in sight.relations):
            self._queries.refuse(node, f"{name} is there twice", "give one of them an alias")
        return name

    def _table(self, node: exp.Table, sight: Sight) -> exp.Expr:
        name = name_of(node.this)
        alias = self._alias(node, sight, default=name)
        names = [name_of(each) for each in (node.args["alias"].args.get("columns") or [])] if (
            node.args.get("alias") is not None
        ) else []  # fmt: skip
        if (cte := sight.ctes.get(name)) is not None:
            rows = exp.select(*(_all_of(each) for each in cte.columns)).from_(cte.relation)
            if not names:
                sight.relations.append(Relation(alias, cte.columns))
                return exp.to_table(cte.relation, alias=exp.to_identifier(alias, quoted=True))
            return self._derived(node, rows, cte.columns, alias, sight)
        if name not in TABLES:
            known = [*TABLES, *sight.ctes]
            self._queries.refuse(
                node, "no such table",
                nearest(name, known) or "use context_nodes, context_edges or context_events",
            )  # fmt: skip
        frame = self._queries.plan.table(name, _column)
        columns = tuple(
            Column(each.name, each.kind, _item_of(each.kind), each.path) for each in frame.fields
        )
        if names:
            self._queries.refuse(node, "the tables' columns keep their names", "use a sub-query")
        sight.relations.append(Relation(alias, columns, frame.reference))
        return exp.to_table(frame.relation, alias=exp.to_identifier(alias, quoted=True))

    def _derived(
        self, node: exp.Expr, rows: exp.Query, columns: tuple[Column, ...], alias: str, sight: Sight
    ) -> exp.Expr:
        held = node.args.get("alias")
        names = [name_of(each) for each in held.args.get("columns") or []] if held else []
        shown = self._queries.renamed(node, columns, names)
        if names:
            items = [
                exp.alias_(column(each.name, "_all"), new.name, quoted=True)
                for each, new in zip(columns, shown, strict=True)
            ]
            inner = exp.Subquery(this=rows, alias=_as("_all"))
            rows = exp.select(*items).from_(inner)
        sight.relations.append(Relation(alias, shown))
        return exp.Subquery(this=rows, alias=_as(alias))

    def _values(self, node: exp.Values, sight: Sight) -> exp.Expr:
        lowering = self._queries.lowering(Sight({}))
        rows: exp.Query | None = None
        lines = [[lowering.lower(each) for each in line.expressions] for line in node.expressions]
        width = len(lines[0])
        if any(len(line) != width for line in lines):
            self._queries.refuse(node, "the rows of values differ in length")
        kinds: list[Kind] = [common_kind([line[at] for line in lines])[0] for at in range(width)]
        for line in lines:
            one = exp.select(*(
                exp.alias_(each.sql, f"column{at + 1}", quoted=True) for at, each in enumerate(line)
            ))  # fmt: skip
            rows = one if rows is None else exp.union(rows, one, distinct=False, copy=False)
        assert rows is not None
        columns = tuple(Column(f"column{at + 1}", kind) for at, kind in enumerate(kinds))
        return self._derived(node, rows, columns, self._alias(node, sight), sight)

    def _unnest(self, node: exp.Unnest, sight: Sight) -> exp.Expr:
        """``unnest(list) AS t(x)``; the list cannot read the tables beside it."""
        if len(node.expressions) != 1 or node.args.get("offset"):
            self._queries.refuse(node, "unnest takes one list", "write unnest(x) as t(y)")
        found = self._queries.lowering(Sight({})).lower(node.expressions[0])
        if found.kind != "list":
            self._queries.refuse(node, f"a list is expected, not a {found.kind}")
        rows = exp.select(exp.alias_(function("unnest", found.sql), "unnest", quoted=True))
        columns = (Column("unnest", found.item),)
        return self._derived(node, rows, columns, self._alias(node, sight), sight)

    # -- joins

    def _join(self, node: exp.Join, sight: Sight) -> exp.Join:
        side, kind = str(node.side or "").upper(), str(node.kind or "").upper()
        if node.args.get("method") or side not in ("", "LEFT", "RIGHT", "FULL") or (
            kind not in ("", "INNER", "OUTER", "CROSS", "SEMI", "ANTI")
        ):  # fmt: skip
            word = node.args.get("method") or kind or side
            self._queries.refuse(node, f"{word} joins are not supported", "use join … on a.x = b.y")
        before = list(sight.relations)
        relation = self._relation(cast("exp.Expr", node.this), sight)
        conditions: list[exp.Expr] = []
        if (on := node.args.get("on")) is not None:
            conditions.append(self._queries.lowering(sight).condition(on))
        for name in node.args.get("using") or []:
            conditions.append(self._using(name, side, before, sight))
        if not conditions:
            if side or kind in ("SEMI", "ANTI", "INNER"):
                self._queries.refuse(node, "the join has no condition", "write on a.x = b.y")
            return exp.Join(this=relation, kind="CROSS")
        shown = kind if kind in ("SEMI", "ANTI") else ("INNER" if not side else None)
        if kind in ("SEMI", "ANTI"):
            side = side or "LEFT"
            sight.relations.pop()
        condition = exp.and_(*conditions, copy=False)
        return exp.Join(this=relation, side=side or None, kind=shown, on=condition)

    def _using(self, node: exp.Expr, side: str, before: list[Relation], sight: Sight) -> exp.Expr:
        name = name_of(node if isinstance(node, exp.Identifier) else node.this)
        joined = sight.relations[-1]
        first = next((each for each in before if each.find(name) is not None), None)
        if first is None or joined.find(name) is None:
            self._queries.refuse(node, "both sides need the column", "write on a.x = b.y")
        if side in ("RIGHT", "FULL"):
            self._queries.refuse(node, f"using is not supported in {side.lower()} joins",
                                 f"write on a.{name} = b.{name}")  # fmt: skip
        self.merged.add((joined.alias, name))
        return exp.EQ(this=column(name, first.alias), expression=column(name, joined.alias))

    # -- predicates below the choice of the newest version

    def push(self, node: exp.Select, sight: Sight, condition: exp.Expr) -> None:
        """Hand conjuncts on immutable columns of one table to its reference, where that is safe:
        not for the side of an outer join that may be absent.
        """  # fmt: skip
        joins = node.args.get("joins") or []
        inner = all(not join.side and str(join.kind or "").upper() in ("", "INNER", "CROSS")
                    for join in joins)  # fmt: skip
        left_only = all(str(join.side or "").upper() in ("", "LEFT") for join in joins)
        for place, relation in enumerate(sight.relations):
            reference = relation.reference
            if reference is None or not (inner or (left_only and place == 0)):
                continue
            for part in condition.flatten() if isinstance(condition, exp.And) else (condition,):
                bare = _bare(part, relation.alias)
                if bare is None:
                    continue
                names = {each.name for each in bare.find_all(exp.Column)}
                if names and self._queries.plan.pushable(reference, names):
                    reference.pushed.append(bare)


def _bare(condition: exp.Expr, alias: str) -> exp.Expr | None:
    """The condition without the relation's name, None when it reads anything else."""
    if condition.find(exp.Select, exp.Window):
        return None
    found = list(condition.find_all(exp.Column))
    if any(each.table != alias for each in found):
        return None
    bare = condition.copy()
    if isinstance(bare, exp.Column):
        return column(bare.name)
    for each in list(bare.find_all(exp.Column)):
        each.replace(column(each.name))
    return exp.Paren(this=bare)


def _column(name: str) -> Value:
    """A table's column; the labels of a node are a list of the engine's own here."""
    if name == "label_set":
        plain = function("btrim", column(name), text_of(PROPERTY))
        return Value(function("string_to_array", plain, text_of(PROPERTY)), "list", item="string")
    return base_column(name)


def _item_of(kind: Kind) -> Kind:
    return "string" if kind == "list" else "null"


def _all_of(each: Column) -> exp.Column:
    return column(each.name)


def _as(name: str) -> exp.TableAlias:
    return exp.TableAlias(this=exp.to_identifier(name, quoted=True))
