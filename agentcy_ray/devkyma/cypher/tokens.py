"""Words of kyma's Cypher: keywords in any case, no comments, no parameters, no negative numbers."""

from __future__ import annotations

import re

from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.reader import Reader, Token

KEYWORDS = frozenset([
    "MATCH",
    "OPTIONAL",
    "WHERE",
    "RETURN",
    "DISTINCT",
    "ORDER",
    "BY",
    "DESC",
    "ASC",
    "LIMIT",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS",
    "NULL",
    "STARTS",
    "ENDS",
    "WITH",
    "CONTAINS",
])
_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
    | (?P<number>\d+(?:\.\d+)?)(?![A-Za-z_])
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign>\.\.|<=|>=|<>|[()\[\],.:=<>+\-*/%])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def cypher_error(message: str) -> EngineError:
    """A query that does not lower."""
    return EngineError(400, "cypher_parse_error", f"cypher: {message}")


def read_cypher(text: str) -> Reader:
    """The words of a query; a keyword is of kind ``keyword`` and in upper case.

    Raises:
        EngineError: 400 for a character that starts no word.
    """
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise cypher_error(f"unexpected {text[at]!r} at {at}")
        kind, value = found.lastgroup or "", found[0]
        if kind == "text":
            value = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), value[1:-1], flags=re.S)
        elif kind == "word" and value.upper() in KEYWORDS:
            kind, value = "keyword", value.upper()
        if kind != "space":
            tokens.append(Token(kind, value, at))
        at = found.end()
    return Reader([*tokens, Token("end", "", at)], cypher_error)
