"""Clauses and whole queries: what may be asked, and why the rest is refused."""

from __future__ import annotations

from typing import Literal, cast

from agentcy_ray.context.languages.cypher import tree
from agentcy_ray.context.languages.cypher.patterns import PatternParser

_WRITES = "queries here only read; data comes in by syncing a source"
_OTHER_STATEMENTS = "only MATCH … RETURN queries are supported"
_REFUSED: dict[str, str] = (
    dict.fromkeys(
        ("CREATE", "MERGE", "SET", "DELETE", "DETACH", "NODETACH", "REMOVE", "FOREACH", "INSERT"),
        _WRITES,
    )
    | dict.fromkeys(
        (
            "DROP", "ALTER", "SHOW", "GRANT", "DENY", "REVOKE", "START", "STOP", "TERMINATE",
            "RENAME", "ENABLE", "DEALLOCATE", "REALLOCATE", "DRYRUN", "BEGIN", "COMMIT",
        ),
        _OTHER_STATEMENTS,
    )
    | {
        "USE": "a query cannot choose its database: its organisation does",
        "LOAD": "a query cannot read files or addresses",
        "EXPLAIN": "plans are not shown",
        "PROFILE": "plans are not shown",
        "CYPHER": "a query cannot set options of the planner",
    }
)  # fmt: skip
_CLAUSES = "expected MATCH, OPTIONAL MATCH, UNWIND, WITH, CALL { … } or RETURN"


class QueryParser(PatternParser):
    """Reads one whole query."""

    def whole(self) -> tree.Query:
        """The query from the first token to the last.

        Raises:
            QueryRejectedError: it is outside the language; the message names the place.
        """
        if self.at_end:
            self.refuse("the query is empty", "write MATCH (n) RETURN n LIMIT 10")
        query = self._query(closing="", needs_return=True)
        if self.take(";") and not self.at_end:
            self.refuse("several statements in one text", "send them one by one")
        if self.is_words("WHERE"):
            self.refuse("WHERE stands before RETURN", "write WITH … WHERE … RETURN …")
        if not self.at_end:
            after = "expected the end of the query, or UNION, after RETURN"
            self.refuse(_REFUSED.get(self.token.word, after))
        return query

    def subquery(self, kind: str) -> tree.Expression:
        """The braces of ``EXISTS|COUNT|COLLECT``; a bare pattern stands for ``MATCH`` of it."""
        self.expect("{", f"after {kind}")
        outer, self.in_subquery = self.in_subquery, True
        with self.deeper():
            if kind != "COLLECT" and (self.is_sign("(") or self.ahead().text == "="):
                query = tree.Query(((self._match_rest(optional=False),),))
            else:
                query = self._query(closing="}", needs_return=kind == "COLLECT")
        self.in_subquery = outer
        self.expect("}", f"to close {kind} {{ … }}")
        known = cast("Literal['EXISTS', 'COUNT', 'COLLECT']", kind)
        return tree.Subquery(known, query)

    def _query(self, *, closing: str, needs_return: bool) -> tree.Query:
        parts = [self._part(closing, needs_return)]
        kinds: set[bool] = set()
        while self.take_words("UNION"):
            kinds.add(self.take_words("ALL"))
            if len(kinds) > 1:
                self.refuse("UNION and UNION ALL in one query", "use one of them")
            parts.append(self._part(closing, needs_return))
            names = [[column.name for column in _final_columns(part)] for part in parts]
            if names[0] != names[-1]:
                self.refuse("the parts of a UNION return different columns",
                            "give them the same names by AS")  # fmt: skip
        return tree.Query(tuple(parts), union_all=kinds == {True})

    def _part(self, closing: str, needs_return: bool) -> tuple[tree.Clause, ...]:
        clauses: list[tree.Clause] = []
        while True:
            clause = self._clause()
            clauses.append(clause)
            if isinstance(clause, tree.Projection) and clause.final:
                return tuple(clauses)
            if closing and self.is_sign(closing):
                if needs_return:
                    self.refuse("expected RETURN at the end of the subquery")
                return tuple(clauses)
            if self.at_end:
                self.refuse("expected RETURN at the end of the query")

    def _clause(self) -> tree.Clause:
        token = self.token
        if self.take_words("MATCH"):
            return self._match_rest(optional=False)
        if self.take_words("OPTIONAL", "MATCH"):
            return self._match_rest(optional=True)
        if self.take_words("UNWIND"):
            source = self.expression()
            self.expect_word("AS", "after the list of UNWIND")
            return tree.Unwind(source, self.name("a variable"))
        if self.take_words("WITH"):
            return self._projection(final=False)
        if self.take_words("RETURN"):
            return self._projection(final=True)
        if token.word == "CALL":
            return self._call_subquery()
        if token.kind == "sign" and token.text == ";":
            self.refuse("several statements in one text", "send them one by one")
        if token.kind == "sign" and token.text in ("-", "<", ">"):
            self.refuse("not a hop", "write (a)-->(b) or (a)-[:TYPE]->(b)")
        return self.refuse(_REFUSED.get(token.word, _CLAUSES))

    def _match_rest(self, *, optional: bool) -> tree.Match:
        start = self.token
        paths = [self.path()]
        while self.take(","):
            paths.append(self.path())
        where = self.expression() if self.take_words("WHERE") else None
        if any(path.shortest for path in paths) and (optional or len(paths) > 1):
            self.refuse("shortestPath stands alone in its MATCH, which is not optional",
                        "match the two ends first, then MATCH p = shortestPath(…)",
                        token=start)  # fmt: skip
        if self.is_words("USING"):
            self.refuse("hints to the planner are not supported", "leave USING out")
        return tree.Match(tuple(paths), optional, where)

    def _call_subquery(self) -> tree.CallSubquery:
        call = self.next()
        imports: tuple[str, ...] | None = None
        if self.is_sign("("):
            imports = self._imports()
        if not self.is_sign("{"):
            self.refuse("procedures cannot be called", "CALL { … } with a query inside is allowed",
                        token=call)  # fmt: skip
        self.next()
        with self.deeper():
            query = self._query(closing="}", needs_return=True)
        self.expect("}", "to close CALL { … }")
        if any(column.alias is None for part in query.parts for column in _final_columns(part)):
            self.refuse("an expression returned by CALL { … } needs a name", "add AS name",
                        token=call)  # fmt: skip
        if self.is_words("IN"):
            self.refuse("transactions of a subquery belong to writing", "leave IN … out")
        return tree.CallSubquery(query, imports)

    def _imports(self) -> tuple[str, ...]:
        self.next()
        if self.is_sign("*"):
            self.refuse("CALL (*) is not supported", "name the variables: CALL (a, b) { … }")
        names: list[str] = []
        while not self.is_sign(")"):
            names.append(self.name("a variable"))
            if not self.take(","):
                break
        self.expect(")", "to close the imports")
        return tuple(names)

    def _projection(self, *, final: bool) -> tree.Projection:
        what = "RETURN" if final else "WITH"
        distinct = self.take_words("DISTINCT")
        star = self.take("*")
        columns: list[tree.Column] = []
        while not star or self.take(","):
            columns.append(self._column(final=final))
            if not star and not self.take(","):
                break
        names = [column.name for column in columns]
        if len(set(names)) < len(names):
            self.refuse(f"two columns of {what} have one name", "rename one by AS")
        order: list[tuple[tree.Expression, bool]] = []
        if self.take_words("ORDER", "BY"):
            order.append(self._order())
            while self.take(","):
                order.append(self._order())
        skip = self.expression() if self.take_words("SKIP") or self.take_words("OFFSET") else None
        limit = self.expression() if self.take_words("LIMIT") else None
        where = self.expression() if not final and self.take_words("WHERE") else None
        return tree.Projection(
            final, distinct, star, tuple(columns), tuple(order), skip, limit, where
        )

    def _column(self, *, final: bool) -> tree.Column:
        start = self.at
        expression = self.expression()
        text = self.text_between(start, self.at)
        if self.take_words("AS"):
            return tree.Column(expression, self.name("a column name"), text)
        if isinstance(expression, tree.Variable):
            return tree.Column(expression, expression.name, text)
        if not final:
            self.refuse("an expression in WITH needs a name", "add AS name")
        return tree.Column(expression, None, text)

    def _order(self) -> tuple[tree.Expression, bool]:
        expression = self.expression()
        for word, descending in (
            ("DESC", True), ("DESCENDING", True), ("ASC", False), ("ASCENDING", False),
        ):  # fmt: skip
            if self.take_words(word):
                return expression, descending
        return expression, False


def _final_columns(part: tuple[tree.Clause, ...]) -> tuple[tree.Column, ...]:
    last = part[-1]
    return last.columns if isinstance(last, tree.Projection) else ()
