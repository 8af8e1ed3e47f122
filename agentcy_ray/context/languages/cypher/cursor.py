"""Walking over tokens, and refusing with a position; the base of the parser's layers."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

from agentcy_ray.context.languages.cypher.tokens import Token, tokenize
from agentcy_ray.context.languages.refusals import refuse

MAX_DEPTH = 48
"""Nesting of expressions and subqueries; far above real queries, far below Python's stack."""


class Cursor:
    """A position in the token list. Keywords are names, so ``word`` compares without case."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = tokenize(source)
        self.at = 0
        self._depth = 0

    @property
    def token(self) -> Token:
        """The token to be read next."""
        return self.tokens[self.at]

    @property
    def at_end(self) -> bool:
        """Whether every token was read."""
        return self.token.kind == "end"

    def ahead(self, steps: int = 1) -> Token:
        """A later token; the last one is of kind ``end`` and repeats."""
        return self.tokens[min(self.at + steps, len(self.tokens) - 1)]

    def next(self) -> Token:
        """Read one token."""
        token = self.token
        if token.kind != "end":
            self.at += 1
        return token

    def is_sign(self, *signs: str) -> bool:
        """Whether the next tokens are these signs."""
        return all(
            (found := self.ahead(step)).kind == "sign" and found.text == sign
            for step, sign in enumerate(signs)
        )

    def is_words(self, *words: str) -> bool:
        """Whether the next tokens are these keywords."""
        return all(self.ahead(step).word == word for step, word in enumerate(words))

    def take(self, sign: str) -> bool:
        """Read a sign when it is next."""
        if self.is_sign(sign):
            self.at += 1
            return True
        return False

    def take_words(self, *words: str) -> bool:
        """Read keywords when they are next."""
        if self.is_words(*words):
            self.at += len(words)
            return True
        return False

    def expect(self, sign: str, where: str) -> Token:
        """Read a sign or refuse."""
        if not self.is_sign(sign):
            self.refuse(f"expected {sign!r} {where}")
        return self.next()

    def expect_word(self, word: str, where: str) -> Token:
        """Read a keyword or refuse."""
        if not self.is_words(word):
            self.refuse(f"expected {word} {where}")
        return self.next()

    def name(self, what: str) -> str:
        """Read a name, quoted or not."""
        if self.token.kind not in ("name", "quoted"):
            self.refuse(f"expected {what}")
        return str(self.next().value)

    def text_between(self, start: int, end: int) -> str:
        """Source text of the tokens from index ``start`` up to ``end``, as the caller wrote it."""
        return self.source[self.tokens[start].start : self.tokens[end - 1].end]

    def refuse(self, reason: str, instead: str = "", *, token: Token | None = None) -> NoReturn:
        """Refuse the query at a token, the next one by default.

        Raises:
            QueryRejectedError: always.
        """
        found = self.token if token is None else token
        shown = found.text if found.kind != "end" else "end of the query"
        refuse(self.source, found.start, shown, reason, instead)

    @contextmanager
    def deeper(self) -> Generator[None]:
        """Count one level of nesting."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.refuse(f"nested deeper than {MAX_DEPTH} levels", "split the query by WITH")
        try:
            yield
        finally:
            self._depth -= 1
