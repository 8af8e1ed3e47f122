"""Refusing a query: where, at which token, why, and what would be accepted instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from agentcy_ray.core.errors import QueryRejectedError

MAX_TEXT_BYTES = 64 * 1024
MAX_DEPTH = 48
"""Nesting of expressions and sub-queries; far above real queries, far below Python's stack."""


def refuse(source: str, at: int, token: str, reason: str, instead: str = "") -> NoReturn:
    """Refuse a query at an offset.

    Raises:
        QueryRejectedError: always; ``details`` hold token, line, column (from 1) and ``instead``.
    """
    token = str(token)  # a parser's token would not cross processes
    line = source.count("\n", 0, at) + 1
    column = at - source.rfind("\n", 0, at)
    shown = token if len(token) <= 40 else f"{token[:37]}..."
    if token != shown:
        reason, instead = (text.replace(token, shown) for text in (reason, instead))
    hint = f"; {instead}" if instead else ""
    if not instead and reason.startswith("expected "):
        instead = reason.removeprefix("expected ")
    raise QueryRejectedError(
        f"line {line}, column {column}, at {shown!r}: {reason}{hint}",
        token=shown,
        line=line,
        column=column,
        **({"instead": instead} if instead else {}),
    )


def check_length(source: str) -> None:
    """Refuse a text that is longer than 64 KiB.

    Raises:
        QueryRejectedError: it is.
    """
    if len(source.encode(errors="replace")) > MAX_TEXT_BYTES:
        refuse(source, 0, source[:20], "the query is longer than 64 KiB", "split it")


def nearest(word: str, known: Iterable[str], most: int = 1) -> str:
    """``did you mean …`` for a word that is close to known ones, else the empty string."""
    by_fold = {each.lower(): each for each in known if each != word}
    found = get_close_matches(word.lower(), by_fold, n=most, cutoff=0.6)
    return f"did you mean {' or '.join(by_fold[each] for each in found)}?" if found else ""
