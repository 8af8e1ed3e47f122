"""Clauses and whole queries over frames.

Inside a subquery every grouping, sorting and cutting is done for each outer row by itself: the
frame's ``keys`` say which that is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from sqlglot import Expr, exp

from agentcy_ray.context.languages.cypher import operators, sql, tree, values
from agentcy_ray.context.languages.cypher.frames import Frame, columns_of, united
from agentcy_ray.context.languages.cypher.plan_aggregates import aggregate
from agentcy_ray.context.languages.cypher.plan_grouping import (
    Aggregated,
    Order,
    aggregates,
    or_none,
    over_groups,
    row_count,
    with_aliases,
    with_variables,
)
from agentcy_ray.context.languages.cypher.plan_lists import collected, imports
from agentcy_ray.context.languages.cypher.plan_patterns import PatternPlanner, named_shortest
from agentcy_ray.context.languages.cypher.plan_walks import unlisted
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import Value


class QueryPlanner(PatternPlanner):
    """Plans clauses one after another."""

    def query(self, query: tree.Query, frame: Frame) -> Frame:
        """The rows of all parts; the frame's bindings are the columns of the last ``RETURN``."""
        parts: list[Frame] = []
        for part in query.parts:
            branch = frame.fork()
            self.part(part, branch)
            parts.append(branch)
        if len(parts) == 1:
            return parts[0]
        return self._union(parts, frame, distinct=not query.union_all)

    def part(self, clauses: tuple[tree.Clause, ...], frame: Frame) -> None:
        """Clauses from first to last."""
        for clause in clauses:
            match clause:
                case tree.Match():
                    self.match(named_shortest(clause, self.plan.mint), frame)
                case tree.Unwind():
                    self._unwind(clause, frame)
                case tree.CallSubquery():
                    self._call_subquery(clause, frame)
                case tree.Projection():
                    self._project(clause, frame)

    def _union(self, parts: list[Frame], outer: Frame, *, distinct: bool) -> Frame:
        names = list(parts[0].bindings)
        merged = Frame(self.plan, "", [*outer.keys], keys=list(outer.keys), base=outer.base)
        queries: list[exp.Query] = []
        columns = {name: self.plan.mint("x") for name in names}
        kinds: dict[str, values.Kind] = {
            name: values.common([part.bindings[name] for part in parts]) for name in names
        }
        for part in parts:
            shown: list[Expr] = [sql.col(key) for key in outer.keys]
            for name in names:
                value = values.as_kind(part.bindings[name], kinds[name])
                made = values.to_any(value) if kinds[name] == "list" else value.sql
                shown.append(sql.alias(made, columns[name]))
            queries.append(
                exp.select(*(shown or [sql.number(1)]), copy=False).from_(part.name, copy=False)
            )
        whole = united(queries)
        if distinct:
            alike = {columns[name]: values.alike(sql.col(columns[name], "u"))
                     for name in names if kinds[name] == "any"}  # fmt: skip
            by = [(each, alike.get(each, sql.col(each, "u")))
                  for each in (*outer.keys, *columns.values())]  # fmt: skip
            shown = [
                sql.alias(sql.function("min", sql.col(each, "u")) if each in alike else key, each)
                for each, key in by
            ]
            rows = exp.Subquery(this=whole, alias=exp.TableAlias(this=exp.to_identifier("u")))
            whole = exp.select(*shown, copy=False).from_(rows, copy=False)
            whole = whole.group_by(*(key for _, key in by), copy=False)
        merged.name = self.plan.step(whole)
        merged.columns += columns.values()
        for name, column in columns.items():
            kind = kinds[name]
            if kind in ("node", "edge", "list"):
                merged.bindings[name] = values.of_tagged(sql.col(column), kind)
            else:
                merged.bindings[name] = Value(kind, sql.col(column))
        return merged

    # -- UNWIND

    def _unwind(self, clause: tree.Unwind, frame: Frame) -> None:
        source = self.expression(clause.source, frame)
        position = self.plan.mint("x")
        if source.is_null or source.items == ():
            frame.filter(sql.FALSE)
            frame.bindings[clause.variable] = values.null()
            return
        entries = [item.entries for item in source.items or ()]
        # Maps of the same keys become a column for each key.
        shapes = {None if each is None else frozenset(each) for each in entries}
        if len(shapes) == 1 and None not in shapes:
            count = sql.number(len(entries))
            series = sql.function("generate_series", sql.number(1), count)
            frame.add({position: sql.function("unnest", series)})
            maps = [each for each in entries if each is not None]
            picked = {key: self._picked([each[key] for each in maps], position) for key in maps[0]}
            item = values.map_of(frame.keep(picked))
        else:
            items = operators.as_array(source)
            kind = source.item if source.kind == "list" else "any"
            length = sql.cast(sql.function("array_length", items), "bigint")
            name = self.plan.mint("x")
            frame.filter(sql.compare(">", length, sql.number(0)))
            frame.add({
                name: sql.function("unnest", items),
                position: sql.function("unnest", sql.function("generate_series",
                                                              sql.number(1), length)),
            })  # fmt: skip
            item = values.item_value(sql.col(name), kind)
            item = frame.keep({"": item})[""]
        frame.bindings[clause.variable] = item
        frame.order = [*frame.order, exp.Ordered(this=sql.col(position), nulls_first=False)]

    def _picked(self, options: list[Value], position: str) -> Value:
        """The option that a row's position names."""
        kind = values.common(options)
        if kind not in values.SCALARS:
            kind = "any"
        branches = [
            (sql.compare("=", sql.col(position), sql.number(at)), values.as_kind(each, kind).sql)
            for at, each in enumerate(options, 1)
        ]
        return Value(kind, sql.case(*branches))

    # -- subqueries

    def subquery(self, subquery: tree.Subquery, frame: Frame) -> Value:
        """``EXISTS|COUNT|COLLECT { … }`` over the distinct values of what it imports."""
        inner, pairs = frame.imported(imports(subquery.query, frame))
        found = self.query(subquery.query, inner)
        keys = [(self.plan.mint("k"), there) for _, there in pairs]
        column = self.plan.mint("x")
        kind: values.Kind = "any"
        match subquery.kind:
            case "EXISTS":
                result: Expr = sql.function("count", sql.number(1))
            case "COUNT":
                result = sql.function("count", sql.number(1))
            case _:
                value = next(iter(found.bindings.values()))
                kind = value.kind
                item = values.escaped(value)
                order = [each.this for each in found.order] or [item]
                result = collected(item, order)
        shown = [*(sql.alias(there, key) for key, there in keys), sql.alias(result, column)]
        grouped = Frame(self.plan, "", [])
        grouped.name = self.plan.step(found.grouped(shown, [there for _, there in keys]))
        back: list[tuple[Expr, Expr]] = [
            (here, sql.col(key)) for (here, _), (key, _) in zip(pairs, keys, strict=True)
        ]
        frame.rejoin(grouped, back, [column], outer=True)
        if subquery.kind == "COLLECT":
            filled = sql.function("coalesce", sql.col(column), sql.empty_array())
            return values.array_of(filled, kind)
        count = sql.function("coalesce", sql.col(column), sql.number(0))
        if subquery.kind == "EXISTS":
            return values.boolean(sql.compare(">", count, sql.number(0)))
        return values.integer(count)

    def _call_subquery(self, clause: tree.CallSubquery, frame: Frame) -> None:
        if clause.imports is not None:
            names = list(clause.imports)
        else:
            lead = clause.query.parts[0][0]
            names = []
            if isinstance(lead, tree.Projection) and not lead.final:
                names = imports(lead, frame)
        for name in names:
            if name not in frame.bindings:
                refuse(name, f"the variable {name} is not defined", "bind it before CALL")
        inner, pairs = frame.imported(names)
        found = self.query(clause.query, inner)
        results = {name: unlisted(value) for name, value in found.bindings.items()}
        for name in results:
            if name in frame.bindings:
                refuse(name, f"CALL returns {name}, which is bound outside", "rename it by AS")
        self.bring_back(frame, found, pairs, results, outer=False)

    # -- WITH and RETURN

    def _project(self, clause: tree.Projection, frame: Frame) -> None:
        columns = list(clause.columns)
        if clause.star:
            taken = {column.name for column in columns}
            names = sorted(name for name in frame.bindings if name not in taken)
            columns = [tree.Column(tree.Variable(n), n, n) for n in names] + columns
        order = with_aliases(clause.order, columns)
        if any(aggregates(column.expression) for column in columns):
            scope, order = self._aggregate(columns, order, frame)
        else:
            found = {c.name: self.expression(c.expression, frame) for c in columns}
            scope = dict(frame.bindings)
            frame.bindings = frame.keep(found)
            if not clause.distinct:
                scope |= frame.bindings
        if clause.distinct:
            self._distinct(frame)
            scope = dict(frame.bindings)
        else:
            scope |= frame.bindings
        self._sort_and_cut(clause, order, scope, frame)
        if clause.where is not None:
            frame.filter(self.condition(clause.where, frame))

    def _aggregate(
        self, columns: list[tree.Column], order: Order, frame: Frame
    ) -> tuple[dict[str, Value], Order]:
        """Group by the columns without aggregates; gives what ``ORDER BY`` may speak of."""
        keys = [column for column in columns if not aggregates(column.expression)]
        known = {column.expression: tree.Variable(column.name) for column in keys}
        calls: dict[tree.Call, Aggregated] = {}

        def take(expression: tree.Expression) -> tree.Expression:
            """The expression over the grouped frame."""
            return over_groups(expression, known, calls, self.plan.mint)

        mixed = {c.name: take(c.expression) for c in columns if aggregates(c.expression)}
        sorting = tuple((with_variables(take(each)), descending) for each, descending in order)
        grouping = frame.keep({c.name: self.expression(c.expression, frame) for c in keys})
        arguments = {
            call: [self.expression(each, frame) for each in call.arguments] for call in calls
        }
        columns_before: dict[str, Expr] = {}

        def column(expression: Expr) -> Expr:
            name = self.plan.mint("x")
            columns_before[name] = expression
            return sql.col(name)

        results = {
            stand_in.name: aggregate(call, arguments[call], order=list(frame.order), column=column)
            for call, stand_in in calls.items()
        }
        frame.add(columns_before)
        alone = bool(frame.keys) and not keys
        base, outer_keys = frame.base, list(frame.keys)
        made = self._group(frame, grouping, results)
        if alone:
            made = self._refill(frame, base, outer_keys, made, {
                stand_in.name: call.name for call, stand_in in calls.items()
            })  # fmt: skip
        frame.bindings = made
        finished = {
            name: self.expression(with_variables(expression), frame)
            for name, expression in mixed.items()
        }
        kept = frame.keep(finished)
        everything = {**made, **kept}
        frame.bindings = {column.name: everything[column.name] for column in columns}
        return everything, sorting

    def _group(
        self, frame: Frame, grouping: dict[str, Value], results: dict[str, Value]
    ) -> dict[str, Value]:
        """One row for each combination of some values, with aggregates over its rows."""
        selected: list[Expr] = [sql.col(key) for key in frame.keys]
        by: list[Expr] = [sql.col(key) for key in frame.keys]
        keys = list(frame.keys)
        after = Frame(self.plan, "", list(frame.keys), keys=list(frame.keys), base=frame.base)
        found: dict[str, Value] = {}
        for name, value in grouping.items():
            if value.constant is not values.UNSET:
                found[name] = value
            elif value.kind in values.SCALARS:
                column = self.plan.mint("x")
                by.append(value.sql)
                keys.append(column)
                selected.append(sql.alias(value.sql, column))
                after.columns.append(column)
                found[name] = Value(value.kind, sql.col(column))
            else:
                by.append(values.key_of(value))
                found[name] = frame.regrouped(value, selected, after)
        for name, value in results.items():
            column = self.plan.mint("x")
            selected.append(sql.alias(value.sql, column))
            after.columns.append(column)
            found[name] = replace(value, sql=sql.col(column))
        if not selected:  # constants alone: one row if there is any
            column = self.plan.mint("x")
            selected.append(sql.alias(sql.function("count", sql.number(1)), column))
            after.columns.append(column)
        query = exp.select(*selected, copy=False).from_(frame.name, copy=False)
        if by:
            query = query.group_by(*by, copy=False)
        elif grouping:  # only constants to group by: no rows, no group
            some = sql.compare(">", sql.function("count", sql.number(1)), sql.number(0))
            query = query.having(some, copy=False)
        after.name = self.plan.grouped(query, after.columns, keys)
        frame.become(after)
        return found

    def _refill(
        self, frame: Frame, base: str, keys: list[str], made: dict[str, Value],
        names: dict[str, str],
    ) -> dict[str, Value]:  # fmt: skip
        """An aggregate without groups has a row for every outer row, also where there was none."""
        whole = Frame(self.plan, base, list(keys), keys=list(keys), base=base)
        renamed = {key: self.plan.mint("k") for key in keys}
        query = exp.select(
            *(sql.alias(sql.col(key), name) for key, name in renamed.items()), copy=False
        )
        whole.name = self.plan.step(query.from_(base, copy=False))
        whole.columns = list(renamed.values())
        pairs = [(sql.col(renamed[key]), sql.col(key)) for key in keys]
        columns = [column for value in made.values() for column in columns_of(value)]
        whole.rejoin(frame, cast("list[tuple[Expr, Expr]]", pairs), columns, outer=True)
        # The rows keep the names of their keys, by which they are joined back later.
        shown: list[Expr] = [sql.alias(sql.col(renamed[key]), key) for key in keys]
        shown += [sql.col(column) for column in columns]
        whole.name = self.plan.step(exp.select(*shown, copy=False).from_(whole.name, copy=False))
        whole.columns = [*keys, *columns]
        frame.become(whole)
        frame.keys, frame.base = list(keys), base
        return {name: or_none(value, names.get(name, "")) for name, value in made.items()}

    def _distinct(self, frame: Frame) -> None:
        """One row for each combination of the bindings."""
        frame.bindings = self._group(frame, frame.bindings, {})

    def _sort_and_cut(
        self, clause: tree.Projection, order: Order, scope: dict[str, Value], frame: Frame
    ) -> None:
        if order:
            shown, frame.bindings = frame.bindings, scope
            keys: list[exp.Ordered] = []
            for expression, descending in order:
                value = self.expression(expression, frame)
                try:
                    parts = operators.sort_keys(value)
                except operators.NoOrderError:
                    refuse("ORDER", "a list cannot be sorted by", "sort by size(list) or an item",
                           at=expression.at)  # fmt: skip
                keys += [exp.Ordered(this=key, desc=descending, nulls_first=descending)
                         for key in parts]  # fmt: skip
            named: dict[str, Expr] = {}
            fixed: list[exp.Ordered] = []
            for key in keys:
                if isinstance(key.this, exp.Column):
                    fixed.append(key)
                    continue
                column = self.plan.mint("x")
                named[column] = key.this
                fixed.append(exp.Ordered(this=sql.col(column), desc=key.args["desc"],
                                         nulls_first=key.args["nulls_first"]))  # fmt: skip
            frame.add(named)
            frame.bindings = shown
            frame.order = fixed
        if clause.skip is None and clause.limit is None:
            return
        skip = 0 if clause.skip is None else row_count(clause.skip, self.params, "SKIP")
        limit = None if clause.limit is None else row_count(clause.limit, self.params, "LIMIT")
        # The engine may compute a step twice, so which rows are cut must not be left to chance.
        # Rows are counted: DataFusion 44 filters before an inner LIMIT what is filtered after it.
        steady = [
            *frame.order,
            *(
                exp.Ordered(this=values.key_of(value), nulls_first=False)
                for value in frame.bindings.values()
                if value.constant is values.UNSET
            ),
        ]
        rank = self.plan.mint("x")
        window = exp.Window(
            this=sql.function("row_number"),
            partition_by=[sql.col(key) for key in frame.keys],
            order=exp.Order(expressions=steady) if steady else None,
        )
        frame.add({rank: window})
        tests = [sql.compare(">", sql.col(rank), sql.number(skip))]
        if limit is not None:
            tests.append(sql.compare("<=", sql.col(rank), sql.number(skip + limit)))
        frame.filter(sql.all_of(tests))
