"""Graph patterns: nodes, relationships, paths, and the expressions that hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from agentcy_ray.context.languages.cypher import tree
from agentcy_ray.context.languages.cypher.expressions import ExpressionParser
from agentcy_ray.core.errors import QueryRejectedError

MAX_HOPS = 6

_Found = TypeVar("_Found")
_BOUNDS = f"write bounds of at most {MAX_HOPS} hops, such as -[:TYPE*1..3]->"


class PatternParser(ExpressionParser):
    """Reads patterns. A parenthesis may open a pattern or an expression: the pattern is tried
    first, and a place where that failed is remembered, so that nesting costs no repeated tries.
    """  # fmt: skip

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._not_a_pattern: set[int] = set()
        self._trying = False
        self._certain = False
        self.in_subquery = False

    # -- inside expressions

    def pattern_predicate(self) -> tree.Expression | None:
        """``(a)-[:T]->(b)`` as a condition is the same as ``EXISTS`` of it."""
        path = self._attempt(self._predicate_path)
        return None if path is None else _subquery("EXISTS", path, None, None)

    def pattern_comprehension(self) -> tree.Expression | None:
        """``[p = (a)-->(b) WHERE c | x]`` is the same as ``COLLECT {… RETURN x}``."""
        path = self._attempt(self._comprehension_path)
        if path is None:
            return None
        where = self.expression() if self.take_words("WHERE") else None
        self.expect("|", "in the pattern comprehension")
        start = self.at
        result = self.expression()
        column = tree.Column(result, None, self.text_between(start, self.at))
        self.expect("]", "to close the pattern comprehension")
        return _subquery("COLLECT", path, where, column)

    def _attempt(self, read: Callable[[], _Found]) -> _Found | None:
        """What ``read`` finds, or None and the cursor where it was."""
        start, outer = self.at, self._trying
        if start in self._not_a_pattern:
            return None
        self._trying = True
        try:
            return read()
        except _NoPattern:
            pass
        except QueryRejectedError:
            # Not a pattern as far as it can be read. If it was meant as one, reading it as an
            # expression refuses it with a position, unless only a pattern can begin like this.
            if self._certain:
                raise
        finally:
            self._trying = outer
        self._not_a_pattern.add(start)
        self.at = start
        return None

    def _predicate_path(self) -> tree.Path:
        path = self._chain(None, shortest=False)
        if not path.relationships:
            raise _NoPattern
        return path

    def _comprehension_path(self) -> tree.Path:
        variable = None
        if self.token.kind in ("name", "quoted") and self.ahead().text == "=":
            variable = self.name("a path variable")
            self.next()
        path = self._chain(variable, shortest=False)
        if not path.relationships or not (self.is_words("WHERE") or self.is_sign("|")):
            raise _NoPattern
        return path

    # -- paths

    def path(self) -> tree.Path:
        """``[p =] (a)-[r]->(b)…``, or ``[p =] shortestPath(…)``."""
        variable = None
        if self.token.kind in ("name", "quoted") and self.ahead().text == "=":
            variable = self.name("a path variable")
            self.next()
        start = self.token
        if start.word == "ALLSHORTESTPATHS" or start.word in ("ALL", "ANY", "SHORTEST"):
            self.refuse(f"{start.text} is not supported",
                        "write MATCH p = shortestPath((a)-[*..6]-(b))")  # fmt: skip
        if start.word != "SHORTESTPATH":
            return self._bounded(self._chain(variable, shortest=False))
        if self.in_subquery:
            self.refuse("shortestPath inside EXISTS, COUNT or COLLECT is not supported",
                        "match the path before and use its variable")  # fmt: skip
        self.next()
        self.expect("(", "after shortestPath")
        path = self._chain(variable, shortest=True)
        self.expect(")", "to close shortestPath")
        if len(path.relationships) != 1:
            self.refuse("shortestPath takes one relationship pattern between two nodes",
                        "write shortestPath((a)-[*..6]-(b))", token=start)  # fmt: skip
        return self._bounded(path)

    def _bounded(self, path: tree.Path) -> tree.Path:
        hops = sum(part.hops[1] if part.hops else 1 for part in path.relationships)
        if hops > MAX_HOPS:
            self.refuse(
                f"the path may have {hops} hops, more than {MAX_HOPS}",
                "shorten it or split it by WITH", token=self.tokens[self.at - 1],
            )  # fmt: skip
        return path

    def _chain(self, variable: str | None, *, shortest: bool) -> tree.Path:
        nodes = [self._node()]
        relationships: list[tree.RelationshipPattern] = []
        while self.is_sign("-") or self.is_sign("<", "-"):
            before = self.at
            relationship = self._relationship()
            if relationship is None:
                self.at = before
                break
            relationships.append(relationship)
            nodes.append(self._node())
        path = tree.Path(variable, tuple(nodes), tuple(relationships), shortest)
        if self._trying and len(relationships) > 1:
            self._certain = True
            self._bounded(path)
            self._certain = False
        return path

    def _node(self) -> tree.NodePattern:
        self.expect("(", "to open a node pattern")
        if self.is_sign("(") and not self._trying:
            self.refuse("quantified path patterns are not supported", _BOUNDS)
        variable = self._optional_variable()
        labels = self._optional_labels("a node")
        properties = self._optional_properties()
        where = self.expression() if self.take_words("WHERE") else None
        self.expect(")", "to close the node pattern")
        return tree.NodePattern(variable, labels, properties, where)

    def _relationship(self) -> tree.RelationshipPattern | None:
        """One relationship pattern; None when what follows is arithmetic or a comparison."""
        start = self.token
        leftwards = self.take("<")
        self.expect("-", "in a relationship pattern")
        variable = types = hops = properties = where = None
        if self.take("["):
            variable = self._optional_variable()
            types = self._optional_labels("a relationship")
            hops = self._optional_hops()
            properties = self._optional_properties()
            where = self.expression() if self.take_words("WHERE") else None
            self.expect("]", "to close the relationship pattern")
            if hops and where is not None:
                self.refuse("WHERE inside a variable-length relationship is not supported",
                            "write WHERE all(r IN rs WHERE …) after the pattern")  # fmt: skip
        elif not self.is_sign("-"):
            return None
        self.expect("-", "in a relationship pattern")
        rightwards = self.take(">")
        if self.is_sign("{") or self.is_sign("+") or self.is_sign("*"):
            self.refuse("quantifiers after the arrow are not supported", _BOUNDS)
        if leftwards and rightwards:
            self.refuse("a relationship points one way", "write -[r]- for both", token=start)
        direction: Literal["out", "in", "both"] = (
            "in" if leftwards else "out" if rightwards else "both"
        )
        return tree.RelationshipPattern(variable, types, direction, hops, properties, where)

    def _optional_variable(self) -> str | None:
        token = self.token
        if token.kind == "quoted" or (token.kind == "name" and token.word != "WHERE"):
            self.next()
            return str(token.value)
        return None

    def _optional_properties(self) -> tree.MapOf | None:
        if self.token.kind == "parameter":
            self.refuse("a parameter cannot stand for all properties of a pattern",
                        "write {key: $value}")  # fmt: skip
        return self.map_literal() if self.is_sign("{") else None

    def _optional_hops(self) -> tuple[int, int] | None:
        """``*n``, ``*m..n``, ``*..n``; without an upper bound it is refused."""
        star = self.token
        if not self.take("*"):
            return None
        self._certain = True
        low = self._hop_count()
        if self.take(".."):
            high = self._hop_count()
            low = 1 if low is None else low
        else:
            high = low
        if low is None or high is None:
            self.refuse("the number of hops is not bounded", _BOUNDS, token=star)
        if low > high or high > MAX_HOPS:
            self.refuse(f"{low} to {high} hops are not allowed", _BOUNDS, token=star)
        self._certain = False
        return low, high

    def _hop_count(self) -> int | None:
        if self.token.kind == "float":
            self.refuse("hops are whole numbers", _BOUNDS)
        return int(self.next().value) if self.token.kind == "integer" else None

    # -- labels

    def _optional_labels(self, what: str) -> tree.LabelExpression | None:
        if self.is_words("IS"):
            self.refuse("IS before a label is not supported", "write a colon")
        if not self.take(":"):
            return None
        if self.token.kind == "parameter":
            self.refuse(f"the label of {what} cannot be computed", "write it out")
        return self.label_expression()

    def label_expression(self) -> tree.LabelExpression:
        """``A``, ``A:B``, ``A&B``, ``A|B``, ``!A``, ``%`` and parentheses."""
        with self.deeper():
            operands = [self._label_and()]
            while self.take("|"):
                self.take(":")  # the older form :A|:B
                operands.append(self._label_and())
            return operands[0] if len(operands) == 1 else tree.Labels("|", tuple(operands))

    def _label_and(self) -> tree.LabelExpression:
        operands = [self._label_not()]
        while self.take("&") or self.take(":"):
            operands.append(self._label_not())
        return operands[0] if len(operands) == 1 else tree.Labels("&", tuple(operands))

    def _label_not(self) -> tree.LabelExpression:
        if self.take("!"):
            with self.deeper():
                return tree.NotLabel(self._label_not())
        if self.take("%"):
            return tree.AnyLabel()
        if self.take("("):
            inner = self.label_expression()
            self.expect(")", "to close the label expression")
            return inner
        return tree.Label(self.name("a label"))


class _NoPattern(Exception):
    """What was tried as a pattern is an expression."""


def _subquery(
    kind: Literal["EXISTS", "COLLECT"],
    path: tree.Path,
    where: tree.Expression | None,
    column: tree.Column | None,
) -> tree.Subquery:
    match = tree.Match((path,), optional=False, where=where)
    if column is None:
        return tree.Subquery(kind, tree.Query(((match,),)))
    final = tree.Projection(final=True, distinct=False, star=False, columns=(column,))
    return tree.Subquery(kind, tree.Query(((match, final),)))
