"""Saying no while planning. Expressions know their place in the text, clauses are looked for."""

from __future__ import annotations

from typing import NoReturn


class UnplannableError(Exception):
    """A part of a query that has no SQL; becomes a ``QueryRejectedError`` with its position.

    ``at`` is the offset of the innermost expression around it that knows its own, else -1.
    """

    def __init__(self, token: str, reason: str, instead: str = "", at: int = -1) -> None:
        super().__init__(reason)
        self.token, self.reason, self.instead = token, reason, instead
        self.at = at

    def within(self, at: int) -> None:
        """It happened inside of an expression at an offset."""
        if self.at < 0:
            self.at = at


def refuse(token: str, reason: str, instead: str = "", *, at: int = -1) -> NoReturn:
    """Refuse what the text shows as ``token``, at an offset or last before it.

    Raises:
        UnplannableError: always.
    """
    raise UnplannableError(token, reason, instead, at)
