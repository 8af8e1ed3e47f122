"""Saying no while planning; the place in the text is found afterwards."""

from __future__ import annotations

from typing import NoReturn


class UnplannableError(Exception):
    """A part of a query that has no SQL; becomes a ``QueryRejectedError`` with its position."""

    def __init__(self, token: str, reason: str, instead: str = "") -> None:
        super().__init__(reason)
        self.token, self.reason, self.instead = token, reason, instead


def refuse(token: str, reason: str, instead: str = "") -> NoReturn:
    """Refuse what the text shows as ``token``.

    Raises:
        UnplannableError: always.
    """
    raise UnplannableError(token, reason, instead)
