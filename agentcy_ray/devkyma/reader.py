"""Reading a query word by word, for the two languages that are lowered here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentcy_ray.devkyma.errors import EngineError


@dataclass(frozen=True, slots=True)
class Token:
    """A word with its kind; of a text the value is the unescaped text."""

    kind: str
    value: str
    at: int


class Reader:
    """Reads words one by one."""

    def __init__(self, tokens: list[Token], error: Callable[[str], EngineError]) -> None:
        self._tokens = tokens
        self._next = 0
        self.error = error

    @property
    def token(self) -> Token:
        """The word that comes next."""
        return self._tokens[self._next]

    def after(self, steps: int) -> Token:
        """A word further on."""
        return self._tokens[min(self._next + steps, len(self._tokens) - 1)]

    def take(self) -> Token:
        """Read a word."""
        token = self.token
        if token.kind != "end":
            self._next += 1
        return token

    def sees(self, value: str, kind: str | None = None) -> bool:
        """Whether the next word is this one, and no text."""
        token = self.token
        return token.value == value and token.kind == (kind or token.kind) and token.kind != "text"

    def accept(self, *values: str) -> bool:
        """Read these words if they come next."""
        for step, value in enumerate(values):
            token = self.after(step)
            if token.value != value or token.kind == "text":
                return False
        self._next += len(values)
        return True

    def expect(self, value: str) -> None:
        """Read this word.

        Raises:
            EngineError: 400 when another one comes.
        """
        if not self.accept(value):
            raise self.unexpected(f"{value!r}")

    def word(self, what: str = "a name") -> str:
        """Read a name, folded to lower case.

        Raises:
            EngineError: 400 when something else comes.
        """
        if self.token.kind != "word":
            raise self.unexpected(what)
        return self.take().value.lower()

    def text(self) -> str:
        """Read a string literal.

        Raises:
            EngineError: 400 when something else comes.
        """
        if self.token.kind != "text":
            raise self.unexpected("a string")
        return self.take().value

    def integer(self) -> int:
        """Read a whole number.

        Raises:
            EngineError: 400 when something else comes.
        """
        if self.token.kind != "number" or "." in self.token.value:
            raise self.unexpected("a whole number")
        return int(self.take().value)

    def unexpected(self, wanted: str) -> EngineError:
        """The refusal of the next word."""
        shown = repr(self.token.value) if self.token.kind != "end" else "the end"
        return self.error(f"expected {wanted}, found {shown} at {self.token.at}")
