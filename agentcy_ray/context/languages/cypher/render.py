"""A syntax tree to Cypher text.

Labels, types and property names are always quoted; strings and floats become parameters.
"""

from __future__ import annotations

import re
from typing import Any, assert_never

from agentcy_ray.context.languages.cypher import tree

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_KEYWORDS = frozenset(
    """
    ALL ALLSHORTESTPATHS ALTER AND ANY AS ASC ASCENDING ASSERT BY CALL CASE COLLECT CONSTRAINT
    CONTAINS COUNT CREATE CSV CYPHER DELETE DESC DESCENDING DETACH DISTINCT DROP ELSE END ENDS
    EXISTS EXPLAIN EXTRACT FALSE FIELDTERMINATOR FILTER FINISH FOR FOREACH FROM GRANT IN INDEX
    INSERT IS JOIN KEY LIMIT LOAD MANDATORY MATCH MERGE NODE NODETACH NONE NOT NULL OF OFFSET ON
    OPTIONAL OR ORDER PROFILE REDUCE REMOVE RETURN SCAN SET SHORTEST SHORTESTPATH SHOW SINGLE SKIP
    START STARTS THEN TO TRUE UNION UNIQUE UNWIND USE USING WHEN WHERE WITH XOR YIELD
    """.split()  # noqa: SIM905 one name a line would be a page
)

_ARROWS = {"out": ("-", "->"), "in": ("<-", "-"), "both": ("-", "-")}


def quote(name: str) -> str:
    """``name`` as a quoted identifier.

    Raises:
        ValueError: it holds a backslash or a control character, which a server might decode.
    """
    if not name or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} cannot be a Cypher name")
    return "`" + name.replace("`", "``") + "`"


def variable(name: str) -> str:
    """A variable, quoted only where it must be: the embedded server does not know a quoted one
    again inside ``all(x IN … WHERE …)``.
    """  # fmt: skip
    plain = _PLAIN.fullmatch(name) and name.upper() not in _KEYWORDS
    return name if plain else quote(name)


class Renderer:
    """Renders one query; ``literals`` collects the parameters that it makes (``_t0`` and on)."""

    def __init__(self) -> None:
        self.literals: dict[str, Any] = {}

    def query(self, query: tree.Query) -> str:
        """A whole query or the inside of a subquery."""
        union = " UNION ALL " if query.union_all else " UNION "
        return union.join(" ".join(self._clause(clause) for clause in part) for part in query.parts)

    # -- clauses

    def _clause(self, clause: tree.Clause) -> str:
        match clause:
            case tree.Match():
                word = "OPTIONAL MATCH" if clause.optional else "MATCH"
                paths = ", ".join(self._path(path) for path in clause.paths)
                return f"{word} {paths}{self._where(clause.where)}"
            case tree.Unwind():
                return f"UNWIND {self.expression(clause.source)} AS {variable(clause.variable)}"
            case tree.Projection():
                return self._projection(clause)
            case tree.CallSubquery():
                return f"CALL {{ {self.query(clause.query)} }}"
            case _:
                assert_never(clause)

    def _where(self, where: tree.Expression | None) -> str:
        return "" if where is None else f" WHERE {self.expression(where)}"

    def _projection(self, clause: tree.Projection) -> str:
        columns = ", ".join(self._column(column) for column in clause.columns)
        text = f"{'RETURN' if clause.final else 'WITH'} {'DISTINCT ' * clause.distinct}{columns}"
        if clause.order:
            text += " ORDER BY " + ", ".join(
                self.expression(key) + (" DESC" if descending else "")
                for key, descending in clause.order
            )
        if clause.skip is not None:
            text += f" SKIP {self.expression(clause.skip)}"
        if clause.limit is not None:
            text += f" LIMIT {self.expression(clause.limit)}"
        return text + self._where(clause.where)

    def _column(self, column: tree.Column) -> str:
        """``AS`` only where it renames: an importing ``WITH`` allows no alias."""
        text = self.expression(column.expression)
        same = (
            isinstance(column.expression, tree.Variable) and column.expression.name == column.alias
        )
        return text if same or column.alias is None else f"{text} AS {variable(column.alias)}"

    # -- patterns

    def _path(self, path: tree.Path) -> str:
        text = self._node(path.nodes[0])
        for relationship, node in zip(path.relationships, path.nodes[1:], strict=True):
            text += self._relationship(relationship) + self._node(node)
        if path.shortest:
            text = f"shortestPath({text})"
        return text if path.variable is None else f"{variable(path.variable)} = {text}"

    def _node(self, node: tree.NodePattern) -> str:
        parts = "" if node.variable is None else variable(node.variable)
        if node.labels is not None:
            parts += f":{self._labels(node.labels)}"
        if node.properties is not None:
            parts += f" {self.expression(node.properties)}"
        return f"({parts})"

    def _relationship(self, relationship: tree.RelationshipPattern) -> str:
        parts = "" if relationship.variable is None else variable(relationship.variable)
        if relationship.types is not None:
            parts += f":{self._labels(relationship.types)}"
        if relationship.hops is not None:
            parts += f"*{relationship.hops[0]}..{relationship.hops[1]}"
        if relationship.properties is not None:
            parts += f" {self.expression(relationship.properties)}"
        left, right = _ARROWS[relationship.direction]
        return f"{left}[{parts}]{right}"

    def _labels(self, labels: tree.LabelExpression) -> str:
        match labels:
            case tree.Label():
                return quote(labels.name)
            case tree.AnyLabel():
                return "%"
            case tree.NotLabel():
                return f"!({self._labels(labels.operand)})"
            case tree.Labels():
                # A bare list of types is what every server takes in variable-length patterns.
                return labels.operator.join(
                    f"({self._labels(part)})" if isinstance(part, tree.Labels)
                    else self._labels(part)
                    for part in labels.operands
                )  # fmt: skip
            case _:
                raise TypeError(f"no rendering for {type(labels).__name__}")

    # -- expressions

    def expression(self, expression: tree.Expression) -> str:
        """Any expression; operators get parentheses."""
        text = self.expression
        match expression:
            case tree.Constant(value=value):
                return self._literal(value)
            case tree.Parameter(name=name):
                return f"${name}"
            case tree.Variable(name=name):
                return variable(name)
            case tree.Property(subject=subject, key=key):
                return f"{text(subject)}.{quote(key)}"
            case tree.Item(subject=subject, index=index):
                return f"{text(subject)}[{text(index)}]"
            case tree.Slice(subject=subject, start=start, end=end):
                return f"{text(subject)}[{self._or_empty(start)}..{self._or_empty(end)}]"
            case tree.ListOf(items=items):
                return f"[{', '.join(text(item) for item in items)}]"
            case tree.MapOf(entries=entries):
                return f"{{{', '.join(f'{quote(key)}: {text(value)}' for key, value in entries)}}}"
            case tree.Unary(operator=operator, operand=operand):
                return f"({operator} {text(operand)})"
            case tree.Binary(operator="AND" | "OR" as operator):
                return f"({f' {operator} '.join(text(o) for o in _operands(expression))})"
            case tree.Binary(operator=operator, left=left, right=right):
                return f"({text(left)} {operator} {text(right)})"
            case tree.NullCheck(operand=operand, negated=negated):
                return f"({text(operand)} IS {'NOT ' * negated}NULL)"
            case tree.HasLabels(operand=operand, labels=labels):
                return f"({text(operand)}:{self._labels(labels)})"
            case tree.Call():
                inside = (
                    "*" if expression.star else ", ".join(text(a) for a in expression.arguments)
                )
                return f"{expression.name}({'DISTINCT ' * expression.distinct}{inside})"
            case _:
                return self._compound(expression)

    def _compound(self, expression: tree.Expression) -> str:
        text = self.expression
        match expression:
            case tree.Case(subject=subject, branches=branches, default=default):
                whens = " ".join(f"WHEN {text(a)} THEN {text(b)}" for a, b in branches)
                otherwise = "" if default is None else f" ELSE {text(default)}"
                return f"CASE {self._or_empty(subject)} {whens}{otherwise} END"
            case tree.ListComprehension(variable=bound, source=source, where=where):
                result = expression.result
                tail = "" if result is None else f" | {text(result)}"
                return f"[{variable(bound)} IN {text(source)}{self._where(where)}{tail}]"
            case tree.Quantifier(kind=kind, variable=bound, source=source, where=where):
                return f"{kind}({variable(bound)} IN {text(source)}{self._where(where)})"
            case tree.Reduce(accumulator=total, initial=initial, variable=bound):
                return (
                    f"reduce({variable(total)} = {text(initial)}, {variable(bound)} IN "
                    f"{text(expression.source)} | {text(expression.body)})"
                )
            case tree.MapProjection(subject=subject, items=items):
                return f"{variable(subject.name)} {{{', '.join(self._map_item(i) for i in items)}}}"
            case tree.Subquery(kind=kind, query=query):
                return f"{kind} {{ {self.query(query)} }}"
            case _:
                raise TypeError(f"no rendering for {type(expression).__name__}")

    def _map_item(self, item: tuple[str, str | tree.Expression]) -> str:
        key, value = item
        if key == "*":
            return ".*"
        return (
            f".{quote(value)}"
            if isinstance(value, str)
            else f"{quote(key)}: {self.expression(value)}"
        )

    def _or_empty(self, expression: tree.Expression | None) -> str:
        return "" if expression is None else self.expression(expression)

    def _literal(self, value: bool | int | float | str | None) -> str:
        match value:
            case None:
                return "null"
            case bool():
                return "true" if value else "false"
            case int():
                return str(value)
            case _:
                name = f"_t{len(self.literals)}"
                self.literals[name] = value
                return f"${name}"


def _operands(chain: tree.Binary) -> list[tree.Expression]:
    """The operands of ``a AND b AND c`` (or of ``OR``), which nests to the left."""
    operands: list[tree.Expression] = [chain.right]
    left = chain.left
    while isinstance(left, tree.Binary) and left.operator == chain.operator:
        operands.append(left.right)
        left = left.left
    return [left, *reversed(operands)]
