# ruff: noqa: D102  # each public method is the rule of the grammar that it is called like
"""From what the grammar recognises to the frozen tree, bottom up while the text is parsed."""

from __future__ import annotations

import re
from typing import Any, cast

from lark import Token
from lark.tree import Meta
from lark.visitors import v_args

from agentcy_ray.context.languages.kql import tree
from agentcy_ray.context.languages.kql.expression_builder import ExpressionBuilder
from agentcy_ray.context.languages.kql.tree import Expression

MAX_HOPS = 6

_TAKE_FIRST = {"first": True, "last": False}
_JOINS = (
    "innerunique", "inner", "leftouter", "rightouter", "fullouter",
    "leftsemi", "rightsemi", "leftanti", "rightanti", "anti", "leftantisemi", "rightantisemi",
)  # fmt: skip


@v_args(meta=True)
class Builder(ExpressionBuilder):  # pyright: ignore[reportUntypedBaseClass, reportGeneralTypeIssues]
    """The rules of statements, queries and operators."""

    # -- statements

    def start(self, meta: Meta, children: list[Any]) -> tree.Statements:
        return children[0]

    def statements(self, meta: Meta, children: list[Any]) -> tree.Statements:
        *before, query = children
        parameters = [each for one in before if isinstance(one, tuple) for each in one]
        lets = tuple(each for each in before if isinstance(each, tree.Let))
        names = [each.name for each in (*lets, *parameters)]
        for each in (*lets, *parameters):
            if names.count(each.name) > 1:
                self._refuse(each.at, each.name, "the name is declared twice", "rename one")
        return tree.Statements(tuple(parameters), lets, query)

    def let_value(self, meta: Meta, children: list[Any]) -> tree.Let:
        word, name, query = children
        return tree.Let(word.start_pos, name.name, query)

    def let_function(self, meta: Meta, children: list[Any]) -> Any:
        return self._refuse(
            children[0].start_pos, "let", "functions of a query's own are not supported",
            "write let name = <query or value>;",
        )  # fmt: skip

    def declare(self, meta: Meta, children: list[Any]) -> tuple[tree.ParameterDeclaration, ...]:
        return children[2]

    def parameters(self, meta: Meta, children: list[Any]) -> tuple[Any, ...]:
        return tuple(children)

    def parameter(self, meta: Meta, children: list[Any]) -> tree.ParameterDeclaration:
        name, kind, default = children
        return tree.ParameterDeclaration(name.at, name.name, str(kind), default)

    # -- queries

    def source_only(self, meta: Meta, children: list[Any]) -> tree.Query:
        return tree.Query(meta.start_pos, meta.end_pos, children[0], ())

    def pipeline(self, meta: Meta, children: list[Any]) -> tree.Query:
        return tree.Query(meta.start_pos, meta.end_pos, children[0], tuple(children[1:]))

    def print_row(self, meta: Meta, children: list[Any]) -> tree.Print:
        return tree.Print(meta.start_pos, meta.end_pos, children[1])

    def range_rows(self, meta: Meta, children: list[Any]) -> tree.Range:
        _, name, _, start, _, stop, _, step = children
        return tree.Range(meta.start_pos, meta.end_pos, name.name, start, stop, step)

    def datatable(self, meta: Meta, children: list[Any]) -> tree.DataTable:
        _, columns, cells = children
        found = cells or ()
        if len(found) % len(columns):
            self._refuse(
                meta.start_pos, "datatable",
                f"{len(found)} values do not fill rows of {len(columns)} columns",
                "give one value for each column of each row",
            )  # fmt: skip
        return tree.DataTable(meta.start_pos, meta.end_pos, columns, found)

    def column_types(self, meta: Meta, children: list[Any]) -> tuple[tuple[str, str], ...]:
        return tuple(children)

    def column_type(self, meta: Meta, children: list[Any]) -> tuple[str, str]:
        return children[0].name, str(children[1])

    def cells(self, meta: Meta, children: list[Any]) -> tuple[Expression, ...]:
        return tuple(children)

    def _union(self, meta: Meta, children: list[Any]) -> tree.Union:
        options, arms = children[1]
        source, kind = options.get("withsource"), str(options.get("kind", "outer"))
        if kind not in ("outer", "inner"):
            self._refuse(meta.start_pos, kind, "not a kind of union", "use kind=outer or inner")
        return tree.Union(meta.start_pos, meta.end_pos, source, kind == "inner", arms)

    union_source = union_with = _union

    def union_arms(self, meta: Meta, children: list[Any]) -> tuple[dict[str, str], tuple[Any, ...]]:
        options = dict(each for each in children if isinstance(each, tuple))
        return options, tuple(each for each in children if isinstance(each, tree.Query))

    def option(self, meta: Meta, children: list[Any]) -> tuple[str, str]:
        return str(children[0]), str(children[1]).strip("'\"")

    union_option = option

    def _options(self, meta: Meta, children: list[Any]) -> dict[str, str]:
        return dict(children)

    join_options = expand_options = graph_options = _options

    def arm(self, meta: Meta, children: list[Any]) -> tree.Query:
        (found,) = children
        if isinstance(found, tree.Query):
            return found
        return tree.Query(found.at, found.end, found, ())

    # -- operators

    def where(self, meta: Meta, children: list[Any]) -> tree.Where:
        return tree.Where(meta.start_pos, meta.end_pos, children[1])

    def project(self, meta: Meta, children: list[Any]) -> tree.Project:
        return tree.Project(meta.start_pos, meta.end_pos, children[1])

    def _pick(self, meta: Meta, mode: Any, patterns: Any) -> tree.Pick:
        return tree.Pick(meta.start_pos, meta.end_pos, mode, patterns)

    def project_away(self, meta: Meta, children: list[Any]) -> tree.Pick:
        return self._pick(meta, "away", children[1])

    def project_keep(self, meta: Meta, children: list[Any]) -> tree.Pick:
        return self._pick(meta, "keep", children[1])

    def project_reorder(self, meta: Meta, children: list[Any]) -> tree.Pick:
        return self._pick(meta, "reorder", children[1])

    def patterns(self, meta: Meta, children: list[Any]) -> tuple[tuple[int, str], ...]:
        return tuple(children)

    def pattern(self, meta: Meta, children: list[Any]) -> tuple[int, str]:
        (found,) = children
        return meta.start_pos, found.name if isinstance(found, tree.Name) else str(found)

    def project_rename(self, meta: Meta, children: list[Any]) -> tree.Rename:
        return tree.Rename(meta.start_pos, meta.end_pos, children[1])

    def renames(self, meta: Meta, children: list[Any]) -> tuple[tuple[str, tree.Name], ...]:
        return tuple(children)

    def rename(self, meta: Meta, children: list[Any]) -> tuple[str, tree.Name]:
        return children[0].name, children[1]

    def extend(self, meta: Meta, children: list[Any]) -> tree.Extend:
        return tree.Extend(meta.start_pos, meta.end_pos, children[1] or ())

    serialize = extend

    def summarize(self, meta: Meta, children: list[Any]) -> tree.Summarize:
        _, aggregates, by, keys = children
        if not aggregates and by is None:
            self._refuse(
                meta.start_pos, "summarize", "there is nothing to summarize",
                "write summarize count() by <column>",
            )  # fmt: skip
        return tree.Summarize(meta.start_pos, meta.end_pos, aggregates or (), keys or ())

    def sort(self, meta: Meta, children: list[Any]) -> tree.Sort:
        return tree.Sort(meta.start_pos, meta.end_pos, children[2])

    def top(self, meta: Meta, children: list[Any]) -> tree.Top:
        return tree.Top(meta.start_pos, meta.end_pos, children[1], children[3])

    def sort_keys(self, meta: Meta, children: list[Any]) -> tuple[tree.SortKey, ...]:
        return tuple(children)

    def sort_key(self, meta: Meta, children: list[Any]) -> tree.SortKey:
        expression, order, _, nulls = children
        descending = str(order) != "asc"
        # Kusto: nulls come first when ascending, last when descending.
        first = not descending if nulls is None else _TAKE_FIRST[str(nulls)]
        return tree.SortKey(expression, descending, first)

    def take(self, meta: Meta, children: list[Any]) -> tree.Take:
        return tree.Take(meta.start_pos, meta.end_pos, children[1])

    def star(self, meta: Meta, children: list[Any]) -> tree.Star:
        return tree.Star(meta.start_pos, meta.end_pos)

    def distinct(self, meta: Meta, children: list[Any]) -> tree.Distinct:
        items = () if isinstance(children[1], tree.Star) else children[1]
        return tree.Distinct(meta.start_pos, meta.end_pos, items)

    def count_rows(self, meta: Meta, children: list[Any]) -> tree.Count:
        return tree.Count(meta.start_pos, meta.end_pos)

    def join(self, meta: Meta, children: list[Any]) -> tree.Join:
        _, options, right, _, conditions = children
        kind = options.get("kind", "innerunique")
        if kind not in _JOINS:
            self._refuse(meta.start_pos, kind, "not a kind of join", f"use {', '.join(_JOINS[:9])}")
        return tree.Join(meta.start_pos, meta.end_pos, kind, right, conditions, lookup=False)

    def lookup(self, meta: Meta, children: list[Any]) -> tree.Join:
        _, options, right, _, conditions = children
        kind = options.get("kind", "leftouter")
        if kind not in ("leftouter", "inner"):
            self._refuse(
                meta.start_pos, kind, "not a kind of lookup", "use kind=leftouter or kind=inner"
            )
        return tree.Join(meta.start_pos, meta.end_pos, kind, right, conditions, lookup=True)

    def conditions(self, meta: Meta, children: list[Any]) -> tuple[Expression, ...]:
        return tuple(children)

    def mv_expand(self, meta: Meta, children: list[Any]) -> tree.Expand:
        _, options, items, _, limit = children
        for name in ("kind", "bagexpansion"):
            if options.get(name, "bag") != "bag":
                self._refuse(meta.start_pos, name, "only lists are expanded",
                             "read a map by its keys, such as props.owner.team")  # fmt: skip
        return tree.Expand(
            meta.start_pos, meta.end_pos, items, options.get("with_itemindex"), limit
        )

    def expand_list(self, meta: Meta, children: list[Any]) -> tuple[tree.ExpandItem, ...]:
        return tuple(children)

    def expand_item(self, meta: Meta, children: list[Any]) -> tree.ExpandItem:
        named, _, _, kind = children
        return tree.ExpandItem(named, None if kind is None else str(kind))

    def make_series(self, meta: Meta, children: list[Any]) -> tree.MakeSeries:
        _, items, _, axis, (start, stop, step, closed), _, keys = children
        return tree.MakeSeries(
            meta.start_pos, meta.end_pos, items, axis, start, stop, step, closed, keys or ()
        )

    def series_list(self, meta: Meta, children: list[Any]) -> tuple[tree.SeriesItem, ...]:
        return tuple(children)

    def series_item(self, meta: Meta, children: list[Any]) -> tree.SeriesItem:
        return tree.SeriesItem(children[0], children[2])

    def series_from_to(self, meta: Meta, children: list[Any]) -> tuple[Any, ...]:
        _, start, _, stop, _, step = children
        return start, stop, step, False

    def series_in_range(self, meta: Meta, children: list[Any]) -> tuple[Any, ...]:
        _, start, stop, step = children
        return start, stop, step, True

    def render(self, meta: Meta, children: list[Any]) -> tree.Render:
        _, chart, _, *parts = children
        found: dict[str, list[str]] = {}
        for each in parts:
            if each is None:
                continue
            key, value = each
            if key is not None:
                found[str(key)] = [value]
            elif found:  # a further one of `ycolumns = a, b`
                found[next(reversed(found))].append(value)
        properties = tuple((key, tuple(values)) for key, values in found.items())
        return tree.Render(meta.start_pos, meta.end_pos, str(chart), properties)

    def render_part(self, meta: Meta, children: list[Any]) -> tuple[str | None, str]:
        return children[0], str(children[1]).strip("'\"")

    # -- graphs

    def make_graph(self, meta: Meta, children: list[Any]) -> tree.MakeGraph:
        _, source, _, target, _, nodes = children
        return tree.MakeGraph(meta.start_pos, meta.end_pos, source, target, nodes or ())

    def graph_nodes(self, meta: Meta, children: list[Any]) -> tuple[Any, ...]:
        return tuple(children)

    def graph_node(self, meta: Meta, children: list[Any]) -> tuple[tree.Query, tree.Name]:
        return children[0], children[2]

    def graph_match(self, meta: Meta, children: list[Any]) -> tree.GraphMatch:
        _, options, paths, _, predicate, _, items = children
        cycles = options.get("cycles", "unique_edges")
        if cycles not in ("all", "none", "unique_edges"):
            self._refuse(
                meta.start_pos, cycles, "not a kind of cycles", "use all, none or unique_edges"
            )
        return tree.GraphMatch(meta.start_pos, meta.end_pos, cycles, paths, predicate, items)

    def graph_paths(self, meta: Meta, children: list[Any]) -> tuple[tree.GraphPath, ...]:
        return tuple(children)

    def graph_path(self, meta: Meta, children: list[Any]) -> tree.GraphPath:
        return tree.GraphPath(meta.start_pos, tuple(children[::2]), tuple(children[1::2]))

    def graph_point(self, meta: Meta, children: list[Any]) -> str | None:
        return children[0].name if children[0] is not None else None

    def graph_hop(self, meta: Meta, children: list[Any]) -> tree.Hop:
        directions = {"-->": "out", "<--": "in", "--": "both"}
        direction = cast("Any", directions[str(children[0])])
        return tree.Hop(meta.start_pos, None, direction, None)

    def _hop(self, meta: Meta, children: list[Any], direction: Any) -> tree.Hop:
        _, name, hops, _ = children
        found = None if hops is None else self._hops(hops)
        return tree.Hop(meta.start_pos, name.name if name else None, direction, found)

    def hop_out(self, meta: Meta, children: list[Any]) -> tree.Hop:
        return self._hop(meta, children, "out")

    def hop_in(self, meta: Meta, children: list[Any]) -> tree.Hop:
        return self._hop(meta, children, "in")

    def hop_both(self, meta: Meta, children: list[Any]) -> tree.Hop:
        return self._hop(meta, children, "both")

    def _hops(self, token: Token) -> tuple[int, int]:
        at, shown = cast("int", token.start_pos), str(token)
        found = re.fullmatch(r"\*\s*(\d+)\s*\.\.\s*(\d+)", shown)
        if not found:
            self._refuse(at, shown, "the number of hops is not bounded", "write *1..3")
        low, high = int(cast("re.Match[str]", found)[1]), int(cast("re.Match[str]", found)[2])
        if not 1 <= low <= high <= MAX_HOPS:
            self._refuse(at, shown, f"at most {MAX_HOPS} hops, at least one", "write *1..3")
        return low, high
