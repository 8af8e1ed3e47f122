"""Putting organisation, realms and liveness into every pattern of a parsed query.

Each node pattern and each relationship gets the predicates of ``NodeScope``; a variable-length
path gets them for all its inner nodes and relationships too. Unnamed parts are given names for it,
so ``*`` is written out as the variables that the caller named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import reduce
from typing import Any, cast

from agentcy_ray.context.languages.cypher import tree
from agentcy_ray.context.languages.cypher.splitting import apart
from agentcy_ray.context.languages.cypher.tree import Expression

ORG_PARAMETER = "_org"
REALMS_PARAMETER = "_realms"
ENTITY = tree.Label("Entity")
INDEXED = frozenset({"id", "name", "url", "external_id"})
"""Properties that are indexed on ``Entity``, not on each label."""

HIDDEN = ("org", "_labels", "_text", "_json", "_src", "_dst")
"""Properties that are stored beside the caller's, see ``basic/layout.py``."""

_TRUE, _FALSE, _NULL = tree.Constant(True), tree.Constant(False), tree.Constant(None)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a query may see, and what the server can do."""

    realms: bool
    """Whether there is a list of realms; otherwise every realm of the organisation."""
    live_only: bool
    shortest_path_filters: bool
    row_limit: int
    prefix: str
    """Starts every name that is made up here; no name of the query starts with it."""


def and_all(predicates: Iterable[Expression]) -> Expression | None:
    """The conjunction, or None for no predicate at all."""
    found = list(predicates)
    return reduce(lambda a, b: tree.Binary("AND", a, b), found) if found else None


class Scoper:
    """Rewrites one query."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._minted = 0

    def top(self, query: tree.Query) -> tree.Query:
        """The whole query: scoped, its columns named by position, its rows limited."""
        return replace(
            query, parts=tuple(self._part(part, frozenset(), top=True) for part in query.parts)
        )

    def _mint(self) -> str:
        self._minted += 1
        return f"{self.rules.prefix}{self._minted}"

    # -- clauses

    def _part(
        self, clauses: tuple[tree.Clause, ...], visible: frozenset[str], *, top: bool = False
    ) -> tuple[tree.Clause, ...]:
        done: list[tree.Clause] = []
        for clause in clauses:
            match clause:
                case tree.Match():
                    done += self._match(clause, visible)
                    visible |= _variables(clause.paths)
                case tree.Unwind():
                    done.append(self._inside(clause, visible))
                    visible |= {clause.variable}
                case tree.CallSubquery():
                    done.append(self._call(clause, visible))
                    visible |= _returned(clause.query)
                case tree.Projection():
                    *before, projected = apart(
                        self._projection(clause, visible, top=top), self._mint
                    )
                    visible = frozenset(column.name for column in projected.columns)
                    done += [*before, *_cut_first(projected, sorted(visible))]
        return tuple(done)

    def _projection(
        self, clause: tree.Projection, visible: frozenset[str], *, top: bool
    ) -> tree.Projection:
        columns = list(clause.columns)
        if clause.star:
            taken = {column.name for column in columns}
            stars = sorted(name for name in visible - taken)
            columns = [tree.Column(tree.Variable(n), n, n) for n in stars] + columns
        scoped = self._inside(replace(clause, columns=tuple(columns), star=False), visible)
        if not clause.final:
            return scoped
        named = tuple(
            replace(column, alias=column.alias or f"{self.rules.prefix}c{position}")
            for position, column in enumerate(scoped.columns)
        )
        limit = scoped.limit
        if top and limit is None:
            limit = tree.Constant(self.rules.row_limit + 1)
        return replace(scoped, columns=named, limit=limit)

    def _call(self, clause: tree.CallSubquery, visible: frozenset[str]) -> tree.CallSubquery:
        """``CALL (a) { … }`` is written as ``CALL { WITH a … }``, which older servers know too."""
        parts = clause.query.parts
        if clause.imports:
            lead = _importing(clause.imports)
            parts = tuple((lead, *part) for part in parts)
        inner = tuple(
            self._part(part, visible if _imports(part) else frozenset()) for part in parts
        )
        return tree.CallSubquery(replace(clause.query, parts=inner), None)

    def _match(self, clause: tree.Match, visible: frozenset[str]) -> list[tree.Clause]:
        met: list[Expression] = []
        paths = tuple(self._once(self._named(path), visible, met) for path in clause.paths)
        within = visible | _variables(paths)
        ends = [*met, *(p for path in paths for p in self._node_predicates(path))]
        ends += [p for path in paths for p in self._extra(path, within)]
        if paths[0].shortest:  # servers differ in what leads from a node to itself: nothing does
            start, end = (tree.Variable(cast("str", node.variable)) for node in paths[0].nodes)
            ends.append(tree.Binary("<>", start, end))
        inner = [p for path in paths for p in self._path_predicates(path)]
        where = [] if clause.where is None else [self._inside(clause.where, within)]
        bare = tuple(self._bare(path, visible) for path in paths)
        if paths[0].shortest and not self.rules.shortest_path_filters:
            return self._shortest(bare[0], ends, [*inner, *where], visible)
        scoped = and_all([*ends, *inner, *where])
        return [tree.Match(bare, clause.optional, scoped)]

    def _shortest(
        self,
        path: tree.Path,
        ends: list[Expression],
        conditions: list[Expression],
        visible: frozenset[str],
    ) -> list[tree.Clause]:
        """For a server that finds the shortest path first and filters then.

        If the path that it finds passes, it is the shortest that passes. If it does not, the
        bounded paths between the two ends are enumerated.
        """
        start, end = (cast("str", node.variable) for node in path.nodes)
        pair = tuple(tree.Path(None, (node,), ()) for node in path.nodes)
        name, other = cast("str", path.variable), self._mint()
        relationship = path.relationships[0]
        renames = {name: other}
        alternative = relationship
        if relationship.variable is not None:
            renames[relationship.variable] = self._mint()
            alternative = replace(relationship, variable=renames[relationship.variable])
        bound = tuple(tree.NodePattern(node, None, None, None) for node in (start, end))
        passes = and_all(conditions) or _TRUE
        fails = tree.Binary(
            "=", tree.Call("coalesce", (renamed(passes, renames), _FALSE)), _FALSE
        )  # fmt: skip
        first = tree.Match((replace(path, nodes=bound),), optional=False, where=passes)
        probe = tree.Path(other, bound, (alternative,), shortest=True)
        again = replace(path, nodes=bound, shortest=False)
        lead = _importing(sorted({*visible, start, end}))
        results = [name] if relationship.variable is None else [name, relationship.variable]
        columns = tuple(tree.Column(tree.Variable(each), each, each) for each in results)
        found = tree.Projection(final=True, distinct=False, star=False, columns=columns)
        length = tree.Call("length", (tree.Variable(name),))
        best = replace(found, order=((length, False),), limit=tree.Constant(1))
        return [
            tree.Match(pair, optional=False, where=and_all(ends)),
            tree.CallSubquery(
                tree.Query((
                    (lead, first, found),
                    (
                        lead,
                        tree.Match((probe,), optional=False, where=fails),
                        tree.Match((again,), optional=False, where=passes),
                        best,
                    ),
                )),
                None,
            ),
        ]

    # -- patterns

    def _named(self, path: tree.Path) -> tree.Path:
        """The path with a variable wherever a predicate needs one."""
        nodes = tuple(replace(n, variable=n.variable or self._mint()) for n in path.nodes)
        relationships = tuple(
            r if r.hops is not None else replace(r, variable=r.variable or self._mint())
            for r in path.relationships
        )
        needs_name = path.varies or path.shortest
        variable = path.variable or (self._mint() if needs_name else None)
        return replace(path, variable=variable, nodes=nodes, relationships=relationships)

    def _once(
        self, path: tree.Path, visible: frozenset[str], met: list[Expression]
    ) -> tree.Path:  # fmt: skip
        """Relationships that were bound before by names of their own, and what they must equal.

        The embedded server binds such a name anew and forgets what it stood for.
        """
        found: list[tree.RelationshipPattern] = []
        for relationship in path.relationships:
            name = relationship.variable
            if name is not None and name in visible and relationship.hops is None:
                again = self._mint()
                met.append(tree.Binary("=", tree.Variable(again), tree.Variable(name)))
                relationship = replace(relationship, variable=again)
            found.append(relationship)
        return replace(path, relationships=tuple(found))

    def _bare(self, path: tree.Path, visible: frozenset[str]) -> tree.Path:
        """The path as it is matched: inline conditions gone, an indexed label first."""
        nodes = tuple(
            replace(self._inside(n, visible), where=None, labels=_leading(n, visible))
            for n in path.nodes
        )
        relationships = tuple(
            replace(self._inside(r, visible), where=None) for r in path.relationships
        )
        return replace(path, nodes=nodes, relationships=relationships)

    def _extra(self, path: tree.Path, visible: frozenset[str]) -> list[Expression]:
        parts = (*path.nodes, *path.relationships)
        return [self._inside(part.where, visible) for part in parts if part.where is not None]

    def _node_predicates(self, path: tree.Path) -> list[Expression]:
        found: list[Expression] = []
        for node in path.nodes:
            variable = tree.Variable(cast("str", node.variable))
            found += self._visible(variable)
            if node.labels is not None and node.properties is not None:
                found.append(tree.HasLabels(variable, node.labels))
        for relationship in path.relationships:
            if relationship.hops is None and not path.shortest:
                found += self._visible(tree.Variable(cast("str", relationship.variable)))
        return found

    def _path_predicates(self, path: tree.Path) -> list[Expression]:
        if not (path.varies or path.shortest):
            return []
        whole = tree.Variable(cast("str", path.variable))
        found: list[Expression] = []
        for part in ("nodes", "relationships"):
            each = tree.Variable(self._mint())
            condition = and_all(self._visible(each)) or _TRUE
            source = tree.Call(part, (whole,))
            found.append(tree.Quantifier("all", each.name, source, condition))
        return found

    def _visible(self, thing: tree.Variable) -> list[Expression]:
        """The predicates of the scope on one node or relationship."""
        found: list[Expression] = [
            tree.Binary("=", tree.Property(thing, "org"), tree.Parameter(ORG_PARAMETER))
        ]
        if self.rules.realms:
            realm = tree.Property(thing, "realm")
            found.append(tree.Binary("IN", realm, tree.Parameter(REALMS_PARAMETER)))
        if self.rules.live_only:
            found.append(tree.NullCheck(tree.Property(thing, "archived_at"), negated=False))
        return found

    # -- expressions

    def _inside(self, value: Any, visible: frozenset[str]) -> Any:
        """The same value with every subquery in it scoped; patterns occur nowhere else."""
        if isinstance(value, tree.Subquery):
            parts = tuple(self._part(part, visible) for part in value.query.parts)
            return replace(value, query=replace(value.query, parts=parts))
        if isinstance(value, tuple):
            return tuple(self._inside(each, visible) for each in cast("tuple[Any, ...]", value))
        if is_dataclass(value) and not isinstance(value, type):
            changed = {f.name: self._inside(getattr(value, f.name), visible) for f in fields(value)}
            made = replace(value, **changed)
            return self._call_of(made) if isinstance(made, tree.Call) else made
        return value

    def _call_of(self, call: tree.Call) -> Expression:
        """A call that means the same on every server."""
        if call.name in ("stDev", "stDevP"):  # of nothing it is 0, and not nothing
            return tree.Call("coalesce", (call, tree.Constant(0.0)))
        return self._own_keys(call)

    def _own_keys(self, call: tree.Call) -> Expression:
        """``keys(n)`` without the properties that only we store."""
        if call.name != "keys" or any(isinstance(each, tree.MapOf) for each in call.arguments):
            return call
        key = tree.Variable(self._mint())
        hidden = tree.ListOf(tuple(tree.Constant(name) for name in HIDDEN))
        shown = tree.Unary("NOT", tree.Binary("IN", key, hidden))
        return tree.ListComprehension(key.name, call, shown, None)


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same value with variables renamed."""
    if isinstance(value, tree.Variable):
        return tree.Variable(names.get(value.name, value.name))
    if isinstance(value, tuple):
        return tuple(renamed(each, names) for each in cast("tuple[Any, ...]", value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: renamed(getattr(value, f.name), names)
                                 for f in fields(value)})  # fmt: skip
    return value


def _leading(node: tree.NodePattern, visible: frozenset[str]) -> tree.LabelExpression | None:
    """The label to match by: ``Entity`` where its indexes serve, and where there is none.

    With properties the caller's labels are checked as a predicate instead.
    """
    if node.variable in visible:
        return node.labels
    keys = {key for key, _ in node.properties.entries} if node.properties else set[str]()
    return ENTITY if node.labels is None or keys & INDEXED else node.labels


def _cut_first(clause: tree.Projection, names: list[str]) -> list[tree.Clause]:
    """``WHERE`` after ``LIMIT`` as a clause of its own: the embedded server filters first."""
    if clause.where is None or (clause.limit is None and clause.skip is None):
        return [clause]
    return [replace(clause, where=None), replace(_importing(names), where=clause.where)]


def _importing(names: Iterable[str]) -> tree.Projection:
    columns = tuple(tree.Column(tree.Variable(name), name, name) for name in names)
    return tree.Projection(final=False, distinct=False, star=False, columns=columns)


def _imports(part: tuple[tree.Clause, ...]) -> bool:
    """Whether a subquery begins with a ``WITH`` and so sees what is outside."""
    return isinstance(part[0], tree.Projection) and not part[0].final


def _returned(query: tree.Query) -> frozenset[str]:
    last = query.parts[0][-1]
    return (
        frozenset(c.name for c in last.columns)
        if isinstance(last, tree.Projection)
        else frozenset()
    )


def _variables(paths: tuple[tree.Path, ...]) -> frozenset[str]:
    names = [name for path in paths for name in (
        path.variable,
        *(node.variable for node in path.nodes),
        *(relationship.variable for relationship in path.relationships),
    )]  # fmt: skip
    return frozenset(name for name in names if name is not None)
