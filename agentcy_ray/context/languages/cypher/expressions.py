"""Expressions, by precedence climbing; https://opencypher.org/resources/ (grammar of Cypher 9)."""

from __future__ import annotations

from abc import ABC, abstractmethod

from agentcy_ray.context.languages.cypher import tree
from agentcy_ray.context.languages.cypher.cursor import Cursor
from agentcy_ray.context.languages.cypher.functions import (
    AGGREGATES,
    known_function,
    near_functions,
)
from agentcy_ray.context.languages.cypher.tokens import Token
from agentcy_ray.context.languages.cypher.tree import Expression

_COMPARISONS = ("=", "<>", "<=", ">=", "<", ">")
_QUANTIFIERS = ("ALL", "ANY", "NONE", "SINGLE")
_SUBQUERIES = ("EXISTS", "COUNT", "COLLECT")


class ExpressionParser(Cursor, ABC):
    """Reads expressions; patterns and subqueries inside them are read by the layers above."""

    @abstractmethod
    def pattern_predicate(self) -> Expression | None:
        """An expression that is a pattern, such as ``(a)-->(b)``; None when it is none."""

    @abstractmethod
    def pattern_comprehension(self) -> Expression | None:
        """``[(a)-->(b) WHERE … | …]`` after its bracket; None when it is none."""

    @abstractmethod
    def subquery(self, kind: str) -> Expression:
        """``EXISTS|COUNT|COLLECT { … }`` after the keyword."""

    @abstractmethod
    def label_expression(self) -> tree.LabelExpression:
        """What follows a colon."""

    def expression(self) -> Expression:
        """One expression of any kind."""
        with self.deeper():
            left = self._xor()
            while self.take_words("OR"):
                left = tree.Binary("OR", left, self._xor())
            return left

    def _xor(self) -> Expression:
        left = self._and()
        while self.take_words("XOR"):
            left = tree.Binary("XOR", left, self._and())
        return left

    def _and(self) -> Expression:
        left = self._not()
        while self.take_words("AND"):
            left = tree.Binary("AND", left, self._not())
        return left

    def _not(self) -> Expression:
        if self.take_words("NOT"):
            with self.deeper():
                return tree.Unary("NOT", self._not())
        return self._comparison()

    def _comparison(self) -> Expression:
        """``a < b <= c`` means ``a < b AND b <= c``."""
        left = self._predicate()
        result: Expression | None = None
        while self.token.kind == "sign" and self.token.text in _COMPARISONS:
            sign = self.next()
            if sign.text == "=" and self.is_sign("="):
                self.refuse("Cypher has no ==", "write =")
            right = self._predicate()
            link = tree.Binary(sign.text, left, right, at=sign.start)
            result = link if result is None else tree.Binary("AND", result, link)
            left = right
        if self.is_sign("!", "="):
            self.refuse("Cypher has no !=", "write <>")
        return left if result is None else result

    def _predicate(self) -> Expression:
        left = self._sum()
        while True:
            if self.take_words("IS", "NOT", "NULL"):
                left = tree.NullCheck(left, negated=True)
            elif self.take_words("IS", "NULL"):
                left = tree.NullCheck(left, negated=False)
            elif self.take_words("STARTS", "WITH"):
                left = tree.Binary("STARTS WITH", left, self._sum())
            elif self.take_words("ENDS", "WITH"):
                left = tree.Binary("ENDS WITH", left, self._sum())
            elif self.take_words("CONTAINS"):
                left = tree.Binary("CONTAINS", left, self._sum())
            elif self.take_words("IN"):
                at = self.ahead(-1).start
                left = tree.Binary("IN", left, self._sum(), at=at)
            elif self.take("=~"):
                left = tree.Binary("=~", left, self._sum())
            else:
                return left

    def _sum(self) -> Expression:
        left = self._product()
        while self.is_sign("+") or self.is_sign("-"):
            sign = self.next()
            left = tree.Binary(sign.text, left, self._product(), at=sign.start)
        return left

    def _product(self) -> Expression:
        left = self._power()
        while self.is_sign("*") or self.is_sign("/") or self.is_sign("%"):
            sign = self.next()
            left = tree.Binary(sign.text, left, self._power(), at=sign.start)
        return left

    def _power(self) -> Expression:
        left = self._signed()
        while self.take("^"):
            left = tree.Binary("^", left, self._signed())
        return left

    def _signed(self) -> Expression:
        for sign in ("-", "+"):
            if self.take(sign):
                with self.deeper():
                    return tree.Unary(sign, self._signed())
        return self._postfix()

    def _postfix(self) -> Expression:
        subject = self._atom()
        while True:
            if self.take("."):
                at = self.token.start
                key = self.name("a property name after the dot")
                subject = tree.Property(subject, key, at=at)
            elif self.take("["):
                subject = self._item_or_slice(subject)
            elif self.is_sign(":") and not self.is_sign(":", ":"):
                self.next()
                subject = tree.HasLabels(subject, self.label_expression())
            else:
                return subject

    def _item_or_slice(self, subject: Expression) -> Expression:
        at = self.ahead(-1).start
        start = None if self.is_sign("..") else self.expression()
        if self.take(".."):
            end = None if self.is_sign("]") else self.expression()
            self.expect("]", "to close the slice")
            return tree.Slice(subject, start, end, at=at)
        self.expect("]", "to close the index")
        if start is None:
            self.refuse("expected an index")
        return tree.Item(subject, start, at=at)

    def _atom(self) -> Expression:
        token = self.token
        match token.kind:
            case "integer" | "float" | "string":
                self.next()
                return tree.Constant(token.value, at=token.start)
            case "parameter":
                self.next()
                return tree.Parameter(str(token.value), at=token.start)
            case "quoted":
                self.next()
                return self._variable(token)
            case "name":
                return self._named()
            case "sign" if token.text == "(":
                return self._parenthesised()
            case "sign" if token.text == "[":
                self.next()
                return self._bracketed()
            case "sign" if token.text == "{":
                return self.map_literal()
            case _:
                return self.refuse("expected an expression")

    def _parenthesised(self) -> Expression:
        if (pattern := self.pattern_predicate()) is not None:
            return pattern
        self.expect("(", "")
        inner = self.expression()
        self.expect(")", "to close the parenthesis")
        return inner

    def _variable(self, token: Token) -> Expression:
        variable = tree.Variable(str(token.value), at=token.start)
        return self._map_projection(variable) if self.is_sign("{") else variable

    def _named(self) -> Expression:
        token = self.token
        after = self.ahead()
        if token.word in ("NULL", "TRUE", "FALSE") and after.text not in ("(", "."):
            self.next()
            return tree.Constant({"NULL": None, "TRUE": True, "FALSE": False}[token.word])
        if token.word == "CASE":
            return self._case()
        if token.word in _SUBQUERIES and after.text == "{":
            self.next()
            return self.subquery(token.word)
        if name := self._function_name():
            return self._call(token, name)
        self.next()
        return self._variable(token)

    def _function_name(self) -> str:
        """A dotted name that a parenthesis follows, read up to it; else empty."""
        step, parts = 0, [self.token.text]
        while self.ahead(step + 1).text == "." and self.ahead(step + 2).kind in ("name", "quoted"):
            step += 2
            parts.append(self.ahead(step).text)
        if not (self.ahead(step + 1).kind == "sign" and self.ahead(step + 1).text == "("):
            return ""
        self.at += step + 2
        return ".".join(parts)

    def _call(self, token: Token, name: str) -> Expression:
        word = name.upper()
        if word in _QUANTIFIERS:
            return self._quantifier(name.lower())
        if word == "REDUCE":
            return self._reduce(token)
        if word == "EXISTS":
            self.refuse("exists() is not of Cypher 5", "write EXISTS { … } or IS NOT NULL",
                        token=token)  # fmt: skip
        if word in ("SHORTESTPATH", "ALLSHORTESTPATHS"):
            self.refuse(f"{name} is a pattern, not a function",
                        "write MATCH p = shortestPath((a)-[*..6]-(b))", token=token)  # fmt: skip
        known = known_function(name)
        if known is None:
            near = near_functions(name)
            self.refuse(f"the function {name!r} is not allowed",
                        f"nearest: {', '.join(near)}" if near else "", token=token)  # fmt: skip
        if known == "count" and self.take("*"):
            self.expect(")", "after count(*")
            return tree.Call("count", (), star=True, at=token.start)
        distinct = self.take_words("DISTINCT")
        if distinct and known not in AGGREGATES:
            self.refuse("DISTINCT belongs into an aggregate", token=token)
        arguments: list[Expression] = []
        if not self.is_sign(")"):
            arguments.append(self.expression())
            while self.take(","):
                arguments.append(self.expression())
        self.expect(")", f"to close the arguments of {known}")
        if known == "count" and not arguments:
            self.refuse("there is nothing to count", "write count(*) or count(n)", token=token)
        return tree.Call(known, tuple(arguments), distinct, at=token.start)

    def _quantifier(self, kind: str) -> Expression:
        variable = self.name("a variable")
        self.expect_word("IN", f"in {kind}()")
        source = self.expression()
        self.expect_word("WHERE", f"in {kind}()")
        where = self.expression()
        self.expect(")", f"to close {kind}()")
        return tree.Quantifier(kind, variable, source, where)

    def _reduce(self, token: Token) -> Expression:
        accumulator = self.name("a variable")
        self.expect("=", "in reduce()")
        initial = self.expression()
        self.expect(",", "in reduce()")
        variable = self.name("a variable")
        self.expect_word("IN", "in reduce()")
        source = self.expression()
        self.expect("|", "in reduce()")
        body = self.expression()
        self.expect(")", "to close reduce()")
        return tree.Reduce(accumulator, initial, variable, source, body, at=token.start)

    def _case(self) -> Expression:
        self.next()
        subject = None if self.is_words("WHEN") else self.expression()
        branches: list[tuple[Expression, Expression]] = []
        while self.take_words("WHEN"):
            condition = self.expression()
            self.expect_word("THEN", "after WHEN")
            branches.append((condition, self.expression()))
        if not branches:
            self.refuse("expected WHEN in CASE")
        default = self.expression() if self.take_words("ELSE") else None
        self.expect_word("END", "to close CASE")
        return tree.Case(subject, tuple(branches), default)

    def _bracketed(self) -> Expression:
        if self.token.kind in ("name", "quoted") and self.ahead().word == "IN":
            return self._list_comprehension()
        if (pattern := self.pattern_comprehension()) is not None:
            return pattern
        items: list[Expression] = []
        if not self.is_sign("]"):
            items.append(self.expression())
            while self.take(","):
                items.append(self.expression())
        self.expect("]", "to close the list")
        return tree.ListOf(tuple(items))

    def _list_comprehension(self) -> Expression:
        variable = self.name("a variable")
        self.next()
        source = self.expression()
        where = self.expression() if self.take_words("WHERE") else None
        result = self.expression() if self.take("|") else None
        self.expect("]", "to close the list comprehension")
        return tree.ListComprehension(variable, source, where, result)

    def map_literal(self) -> tree.MapOf:
        """``{key: value, …}``."""
        self.expect("{", "to open a map")
        entries: list[tuple[str, Expression]] = []
        while not self.is_sign("}"):
            key = self.name("a key")
            self.expect(":", "after the key")
            entries.append((key, self.expression()))
            if not self.take(","):
                break
        self.expect("}", "to close the map")
        return tree.MapOf(tuple(entries))

    def _map_projection(self, subject: tree.Variable) -> Expression:
        self.next()
        items: list[tuple[str, str | Expression]] = []
        place = subject.at
        while not self.is_sign("}"):
            if self.take("."):
                if self.is_sign("*"):
                    place = self.next().start
                    items.append(("*", ""))
                else:
                    items.append((".", self.name("a property name")))
            else:
                at = self.token.start
                key = self.name("a key or .property")
                value = self.expression() if self.take(":") else tree.Variable(key, at=at)
                items.append((key, value))
            if not self.take(","):
                break
        self.expect("}", "to close the map projection")
        return tree.MapProjection(subject, tuple(items), at=place)
