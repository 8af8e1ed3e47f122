"""SELECT, set operations and WITH: each table becomes what the scope shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.frames import Plan, some_row
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.sql.bodies import Body, Named, alias, bounded
from agentcy_ray.context.languages.sql.expressions import Lowering
from agentcy_ray.context.languages.sql.functions import FUNCTIONS
from agentcy_ray.context.languages.sql.reading import reject
from agentcy_ray.context.languages.sql.scopes import Column, Cte, Relation, Sight, name_of
from agentcy_ray.context.languages.sql.sources import Sources
from agentcy_ray.context.languages.values import NUMERIC, Kind, Value, convert

MAX_LIMIT = 5_000_000
MAX_COLUMNS = 1000
"""Of one SELECT; ``*`` over joins of parts with themselves doubles them with every part."""


class Queries:
    """Lowers the queries of one text; their WITH parts become CTEs of the plan."""

    def __init__(self, plan: Plan, params: Mapping[str, Any]) -> None:
        self.plan, self.params = plan, params
        self._named = 0
        self._sources = Sources(self)

    def refuse(self, node: exp.Expr, reason: str, instead: str = "") -> NoReturn:
        """Refuse the query at a node."""
        reject(self.plan.source, node, reason, instead)

    def lowering(self, sight: Sight) -> Lowering:
        """Expressions that see the relations of a SELECT."""
        return Lowering(self.plan.source, sight, self.params, self.plan.now, self.nested)

    # -- queries

    def nested(self, node: exp.Query, outer: Sight) -> tuple[exp.Query, tuple[Column, ...]]:
        """A sub-query of an expression."""
        return self.derived(node, outer.ctes, outer)

    def derived(
        self, node: exp.Expr, ctes: Mapping[str, Cte], outer: Sight | None
    ) -> tuple[exp.Query, tuple[Column, ...]]:
        """A query as a relation: its columns under their own names.

        Raises:
            QueryRejectedError: a part of it is not supported.
        """
        ctes = self.with_(node, ctes, outer)
        if isinstance(node, exp.Subquery):
            rows, columns = self.derived(node.this, ctes, outer)
            return self._bounded(node, rows, columns)
        if isinstance(node, exp.SetOperation):
            rows, columns = self._set(node, ctes, outer)
            return self._bounded(node, rows, columns)
        if not isinstance(node, exp.Select):
            self.refuse(node, "a query is expected", "write select …")
        body = self.select(node, ctes, outer)
        named = _unique(body.columns)
        items: list[exp.Expr] = []
        found: list[Column] = []
        for name, value in named:
            items.append(exp.alias_(value.copy, name, quoted=True))
            held = value.facts if not body.grouped else None
            if held is not None:
                items.append(exp.alias_(held.copy(), f"_facts:{name}", quoted=True))
            path = value.path if held is not None else None
            found.append(Column(name, value.kind, value.item, path))
        rows = bounded(body, items, [name for name, _ in named], outermost=False)
        return rows, tuple(found)

    def with_(
        self, node: exp.Expr, ctes: Mapping[str, Cte], outer: Sight | None
    ) -> Mapping[str, Cte]:
        """What WITH adds to the known names; each query of it becomes a CTE of the plan."""
        held = node.args.get("with_")
        if held is None:
            return ctes
        known = dict(ctes)
        for cte in held.expressions:
            name = name_of(cte.args["alias"].this)
            if name.startswith("_"):
                self.refuse(cte.args["alias"], "names with _ in front are reserved", "rename it")
            self._named += 1
            relation = f"_w{self._named}_{name}"
            names = [name_of(each) for each in cte.args["alias"].args.get("columns") or []]
            inner: Mapping[str, Cte] = known
            if held.args.get("recursive") and isinstance(cte.this, exp.SetOperation):
                # Its own columns are those of the part that does not read it.
                _, first = self.derived(cte.this.left, known, None)
                columns = tuple(replace(each, path=None) for each in first)
                inner = {**known, name: Cte(relation, self.renamed(cte, columns, names))}
            rows, columns = self.derived(cte.this, inner, None)
            renamed = self.renamed(cte, columns, names)
            if names:
                items = [
                    exp.alias_(column(each.name, "_all"), new.name, quoted=True)
                    for each, new in zip(columns, renamed, strict=True)
                ]
                rows = exp.select(*items).from_(exp.Subquery(this=rows, alias=alias("_all")))
            self.plan.hold(rows, relation)
            known[name] = Cte(relation, renamed)
        return known

    def renamed(
        self, node: exp.Expr, columns: tuple[Column, ...], names: list[str]
    ) -> tuple[Column, ...]:
        """Columns under the names of ``AS t(a, b)``, their own where there are none."""
        if not names:
            return columns
        if len(names) != len(columns):
            self.refuse(node, f"{len(names)} names for {len(columns)} columns", "name each column")
        return tuple(
            Column(name, each.kind, each.item) for name, each in zip(names, columns, strict=True)
        )

    def _bounded(
        self, node: exp.Expr, rows: exp.Query, columns: tuple[Column, ...]
    ) -> tuple[exp.Query, tuple[Column, ...]]:
        """The order and limit of a set operation or of a query in parentheses."""
        if not (node.args.get("order") or node.args.get("limit") or node.args.get("offset")):
            return rows, columns
        body = self.around(node, rows, columns)
        items: list[exp.Expr] = []
        for each in columns:
            items.append(column(each.name))
            if each.path is not None:
                items.append(column(f"_facts:{each.name}"))
        names = [each.name for each in columns]
        return bounded(body, items, names, outermost=False), columns

    def around(self, node: exp.Expr, rows: exp.Query, columns: tuple[Column, ...]) -> Body:
        """A SELECT of everything around a query, with the bounds that stand behind it."""
        relation = Relation("_all", columns)
        sight = Sight({}, None, [relation])
        chosen = exp.select().from_(exp.Subquery(this=rows, alias=alias("_all")), copy=False)
        named = [(each.name, relation.value(each)) for each in columns]
        lowering = self.lowering(sight)
        order = self._order(node, lowering, named)
        limit, offset = (self._count(node, lowering, key) for key in ("limit", "offset"))
        return Body(chosen, named, False, (), order, limit, offset)

    # -- set operations

    def _set(
        self, node: exp.SetOperation, ctes: Mapping[str, Cte], outer: Sight | None
    ) -> tuple[exp.Query, tuple[Column, ...]]:
        left, first = self.derived(node.left, ctes, outer)
        right, second = self.derived(node.right, ctes, outer)
        if len(first) != len(second):
            self.refuse(node.right, f"{len(second)} columns stand below {len(first)}",
                        "select the same columns in both")  # fmt: skip
        same = all(one.path == other.path for one, other in zip(first, second, strict=True))
        distinct = bool(node.args.get("distinct"))
        carried = same and not distinct
        sides: list[exp.Select] = []
        found: list[Column] = []
        for rows, own in ((left, first), (right, second)):
            items: list[exp.Expr] = []
            found = []
            for one, other, mine in zip(first, second, own, strict=True):
                kind = _joint(self, node, one, other)
                value = Relation("_one", own).value(mine)
                sql = convert(value, kind).sql if mine.kind == "dynamic" != kind else value.sql
                items.append(exp.alias_(sql, one.name, quoted=True))
                if carried and mine.path is not None:
                    held = column(f"_facts:{mine.name}", "_one")
                    items.append(exp.alias_(held, f"_facts:{one.name}", quoted=True))
                found.append(replace(one, kind=kind, path=one.path if carried else None))
            sides.append(exp.select(*items).from_(exp.Subquery(this=rows, alias=alias("_one"))))
        if not (distinct and isinstance(node, exp.Union)):
            return type(node)(this=sides[0], expression=sides[1], distinct=distinct), tuple(found)
        both = exp.Union(this=sides[0], expression=sides[1], distinct=False)
        once = exp.select(*(column(each.name) for each in found))
        once = once.from_(exp.Subquery(this=both, alias=alias("_both")))
        places = [exp.Literal.number(at + 1) for at in range(len(found))]
        return once.group_by(*places).having(some_row()), tuple(found)

    # -- SELECT

    def select(self, node: exp.Select, ctes: Mapping[str, Cte], outer: Sight | None) -> Body:
        """The parts of a SELECT."""
        sight = Sight(ctes, outer)
        rows = exp.Select()
        self._sources.add(rows, node, sight)
        lowering = self.lowering(sight)
        if (where := node.args.get("where")) is not None:
            condition = lowering.condition(where.this)
            self._sources.push(node, sight, condition)
            rows = rows.where(condition, copy=False)
        columns = self._items(node, lowering, sight)
        if len(columns) > MAX_COLUMNS:
            self.refuse(node, f"it has more than {MAX_COLUMNS} columns", "name those you need")
        keys, grouped = self._group(node, rows, lowering, columns)
        if (having := node.args.get("having")) is not None:
            named = replace(lowering, outputs=dict(columns))
            rows.set("having", exp.Having(this=named.condition(having.this)))
        if (distinct := node.args.get("distinct")) is not None:
            if distinct.args.get("on") is not None:
                self.refuse(distinct, "distinct on is not supported", "use row_number() over (…)")
            rows.set("distinct", exp.Distinct())
            grouped = True
        order = self._order(node, replace(lowering, outputs=dict(columns)), columns)
        limit, offset = (self._count(node, lowering, key) for key in ("limit", "offset"))
        return Body(rows, columns, grouped, keys, order, limit, offset)

    def _items(self, node: exp.Select, lowering: Lowering, sight: Sight) -> list[Named]:
        found: list[Named] = []
        for item in node.expressions:
            if item.is_star and not isinstance(item, exp.Anonymous):
                found += self._star(item, sight)
                continue
            inner = item.this if isinstance(item, exp.Alias) else item
            value = lowering.lower(inner)
            if isinstance(item, exp.Alias):
                name = name_of(item.args["alias"])
            elif isinstance(inner, exp.Column):
                name = name_of(inner.this)
            else:
                name = _text_of(inner)
            if name.startswith("_facts:"):
                self.refuse(item, "names with this beginning are reserved")
            found.append((name, value))
        if not found:
            self.refuse(node, "nothing is selected", "write select * from context_nodes")
        return found

    def _star(self, item: exp.Expr, sight: Sight) -> list[Named]:
        star = item if isinstance(item, exp.Star) else item.this
        if any(star.args.get(key) for key in ("except_", "replace", "rename", "except")):
            self.refuse(item, "* takes no exceptions", "write the columns out")
        wanted = name_of(item.args.get("table")) if isinstance(item, exp.Column) else ""
        found = [
            (each.name, relation.value(each))
            for relation in sight.relations
            if wanted in ("", relation.alias)
            for each in relation.columns
            if (relation.alias, each.name) not in self._sources.merged
        ]
        if not found:
            names = [each.alias for each in sight.relations]
            advice = nearest(wanted, names) or "write from context_nodes"
            self.refuse(item, "there is nothing to select from", advice)
        return found

    def _group(
        self, node: exp.Select, rows: exp.Select, lowering: Lowering, columns: list[Named]
    ) -> tuple[tuple[str, ...], bool]:
        group = node.args.get("group")
        if group is None:
            aggregated = node.args.get("having") is not None or any(
                value.sql.find(exp.Anonymous) and _aggregates(value.sql) for _, value in columns
            )
            return (), aggregated
        if any(group.args.get(key) for key in ("rollup", "cube", "grouping_sets", "totals", "all")):
            self.refuse(group, "only group by of columns and expressions", "use union all")
        keys: list[str] = []
        for item in group.expressions:
            at = self._place(item, columns)
            if at is not None:
                name, value = columns[at]
            else:
                name, value = "", self._key(item, lowering, columns)
            rows = rows.group_by(value.copy, copy=False)
            keys += [name] if name else [
                one for one, each in columns if each.sql == value.sql
            ]  # fmt: skip
        return tuple(dict.fromkeys(keys)), True

    def _key(self, item: exp.Expr, lowering: Lowering, columns: list[Named]) -> Value:
        """A key of GROUP BY: a column of the input before one of the output."""
        if isinstance(item, exp.Column) and not item.args.get("table"):
            name = name_of(item.this)
            if lowering.sight.resolve(name, None) is None:
                for one, value in columns:
                    if one == name:
                        return value
        return lowering.lower(item)

    def _place(self, item: exp.Expr, columns: list[Named]) -> int | None:
        """Which column a whole number in GROUP BY or ORDER BY stands for."""
        if not isinstance(item, exp.Literal) or item.is_string:
            return None
        at = int(item.this) - 1 if item.this.isdecimal() else -1
        if not 0 <= at < len(columns):
            self.refuse(item, f"there are {len(columns)} columns", "count from 1")
        return at

    def _order(
        self, node: exp.Expr, lowering: Lowering, columns: list[Named]
    ) -> list[tuple[exp.Expr | int, exp.Ordered]]:
        found: list[tuple[exp.Expr | int, exp.Ordered]] = []
        order = node.args.get("order")
        for ordered in [] if order is None else order.expressions:
            shape = exp.Ordered(
                desc=ordered.args.get("desc"), nulls_first=ordered.args.get("nulls_first")
            )
            item = ordered.this
            at = self._place(item, columns)
            if at is None and isinstance(item, exp.Column) and not item.args.get("table"):
                names = [name for name, _ in columns]
                at = names.index(name_of(item.this)) if name_of(item.this) in names else None
            if at is not None and columns[at][1].kind not in (
                "dynamic",
                "list",
                "interval",
                "date",
            ):
                found.append((at, shape))
                continue
            value = columns[at][1] if at is not None else lowering.lower(item)
            if value.kind == "dynamic":  # numbers by size, then texts
                found.append((convert(value, "real").sql, shape))
                value = convert(value, "string")
            found.append((value.copy, shape))
        return found

    def _count(self, node: exp.Expr, lowering: Lowering, key: str) -> int | None:
        held = node.args.get(key)
        if held is None:
            return None
        value = lowering.lower(held.expression)
        count = value.constant
        if not value.is_constant or not isinstance(count, int) or not 0 <= count <= MAX_LIMIT:
            self.refuse(held, f"{key} is a whole number up to {MAX_LIMIT}", f"write {key} 100")
        return count


def _aggregates(sql: exp.Expr) -> bool:
    return any(
        (known := FUNCTIONS.get(str(each.this).lower())) is not None and known.aggregate
        and not isinstance(each.parent, exp.Window)
        for each in sql.find_all(exp.Anonymous)
    )  # fmt: skip


def _joint(queries: Queries, node: exp.SetOperation, one: Column, other: Column) -> Kind:
    kinds: set[Kind] = {each.kind for each in (one, other) if each.kind != "null"}
    if len(kinds) <= 1:
        return next(iter(kinds)) if kinds else "null"
    if kinds <= NUMERIC:
        return "real"
    if kinds <= {"dynamic", "string"}:
        return "string"
    return queries.refuse(
        node.right, f"{one.name} is a {one.kind} above and a {other.kind} below", "cast one of them"
    )


def _unique(columns: list[Named]) -> list[Named]:
    found: dict[str, Value] = {}
    for name, value in columns:
        free, number = name, 0
        while free in found:
            number += 1
            free = f"{name}:{number}"
        found[free] = value
    return list(found.items())


def _text_of(node: exp.Expr) -> str:
    """What an unnamed item is called: its text."""
    return node.sql(dialect="postgres", normalize_functions="lower", comments=False)[:60]
