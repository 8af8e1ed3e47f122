"""Words of kyma's KQL."""

from __future__ import annotations

import re

from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.reader import Reader, Token

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
    | (?P<duration>\d+[smhd](?![A-Za-z0-9_]))
    | (?P<number>\d+(?:\.\d+)?)(?![A-Za-z_])
    | (?P<text>"(?:[^"\\]|\\.)*"|'[^']*')
    | (?P<word>[A-Za-z_](?:[A-Za-z0-9_]|-(?=[A-Za-z]))*)
    | (?P<sign>-->|->|==|!=|<=|>=|\.\.|[|()\[\],.:=<>+\-*/%])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def kql_error(message: str) -> EngineError:
    """A query that does not lower."""
    return EngineError(400, "kql_parse_error", message)


def read_kql(text: str) -> Reader:
    """The words of a query; the last one is of kind ``end``.

    Raises:
        EngineError: 400 for a character that starts no word.
    """
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise kql_error(f"unexpected {text[at]!r} at {at}")
        kind = found.lastgroup or ""
        if kind == "text":
            tokens.append(Token(kind, _unescaped(found[0]), at))
        elif kind != "space":
            tokens.append(Token(kind, found[0], at))
        at = found.end()
    return Reader([*tokens, Token("end", "", at)], kql_error)


def _unescaped(literal: str) -> str:
    inner = literal[1:-1]
    if literal[0] == "'":
        return inner
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), inner, flags=re.DOTALL)
