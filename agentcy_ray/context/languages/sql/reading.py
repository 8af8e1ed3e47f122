"""SQL text to sqlglot's tree: one query that only reads, made of known parts.

Read in the PostgreSQL dialect, the closest to DataFusion's that sqlglot knows: ``->`` and ``->>``,
``::``, ``ILIKE``, ``~``, ``INTERVAL '1 hour'``, plain texts without escapes. Its rewriting of
functions is off, so that a function is the one that the caller wrote, or refused.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from agentcy_ray.context.languages.refusals import check_length, nearest, refuse
from agentcy_ray.context.languages.sql.parts import PARTS

_STARTS = frozenset({TokenType.SELECT, TokenType.WITH, TokenType.L_PAREN})
_WRITES = frozenset({
    "insert", "update", "delete", "create", "drop", "alter", "truncate", "merge", "copy", "grant",
    "revoke", "set", "begin", "commit", "rollback", "vacuum", "call", "execute", "prepare", "do",
    "attach", "detach", "load", "install", "use", "explain", "analyze", "describe", "show",
    "pragma",
    "refresh", "lock", "unload", "replace", "export", "import",
})  # fmt: skip
MAX_NESTING = 60
KEYWORDS = (
    "select", "from", "where", "group by", "having", "order by", "limit", "offset", "with",
    "recursive", "union all", "union", "intersect", "except", "distinct", "join", "left join",
    "right join", "full join", "cross join", "on", "using", "as", "and", "or", "not", "in",
    "between", "like", "ilike", "is null", "is not null", "case", "when", "then", "else", "end",
    "cast", "over", "partition by", "filter", "exists", "interval", "asc", "desc", "nulls first",
    "nulls last", "true", "false", "null",
)  # fmt: skip


class _Reader(Postgres):
    INDEX_OFFSET = 0

    class Parser(Postgres.Parser):
        FUNCTIONS: ClassVar = {}
        NO_PAREN_FUNCTIONS: ClassVar = {}
        FUNCTION_PARSERS: ClassVar = {
            name: parser
            for name, parser in Postgres.Parser.FUNCTION_PARSERS.items()
            if name in ("CAST", "TRY_CAST", "EXTRACT", "POSITION", "SUBSTRING", "TRIM")
        }


_INSTEAD: dict[str, str] = {
    "qualify": "filter by where over a sub-query",
    "laterals": "use a join, or unnest in the select list",
    "into": "only reading is allowed",
    "locks": "only reading is allowed",
    "materialized": "leave it out",
    "symmetric": "write the smaller bound first",
    "windows": "write the window out behind over",
    "Qualify": "filter by where over a sub-query",
    "Lateral": "use a join, or unnest in the select list",
    "TableSample": "use limit",
    "sample": "use limit",
    "kind": "cast to varchar, bigint, double, boolean, timestamp or date",
    "Into": "only reading is allowed",
    "Lock": "only reading is allowed",
    "Pivot": "use case inside of aggregates",
    "ByteString": "write plain texts as 'text'",
    "RawString": "write plain texts as 'text'",
    "UnicodeString": "write plain texts as 'text'",
    "HexString": "write plain texts as 'text'",
    "BitString": "write plain texts as 'text'",
    "Heredoc": "write plain texts as 'text'",
    "SimilarTo": "use ~ with a pattern",
    "Command": "only select is allowed",
    "JSONBContainsTopKey": "write props -> 'key' is not null",
    "JSONBContains": "compare props ->> 'key'",
    "NamedWindow": "write the window out behind over",
    "AtTimeZone": "all times are UTC",
    "Fetch": "use limit",
}


_DIGITS = 400


def read(source: str) -> exp.Query:
    """Parse one reading query.

    Raises:
        QueryRejectedError: it writes, holds several statements or parts that are not supported.
    """
    check_length(source)
    try:
        tokens = _Reader().tokenize(source)
    except TokenError:
        refuse(source, 0, source[:20], "a text or comment is not closed", "close it")
    while tokens and tokens[-1].token_type == TokenType.SEMICOLON:
        tokens.pop()
    if not tokens:
        refuse(source, 0, "", "the query is empty", "write select * from context_nodes limit 10")
    _check_tokens(source, tokens)
    try:
        found = sqlglot.parse(_text_until(source, tokens[-1]), dialect=_Reader)
    except ParseError as error:
        _explain(source, error)
    except (SqlglotError, RecursionError):
        refuse(source, 0, tokens[0].text, "the query cannot be read", "simplify it")
    if len(found) != 1 or not isinstance(found[0], exp.Query):
        refuse(source, tokens[0].start, tokens[0].text, "only select is allowed", "write select …")
    query = found[0]
    _check_nodes(source, query)
    return query


def _text_until(source: str, last: Token) -> str:
    return source[: last.end + 1]


def _check_tokens(source: str, tokens: list[Token]) -> None:
    depth = 0
    first = tokens[0]
    if first.token_type not in _STARTS:
        word = first.text.lower()
        if word in _WRITES:
            refuse(source, first.start, first.text, "only reading is allowed", "write select …")
        advice = nearest(word, ("select", "with")) or "write select … or with …"
        refuse(source, first.start, first.text, "a query begins with select", advice)
    for token in tokens:
        if token.token_type == TokenType.NUMBER and len(token.text) > _DIGITS:
            refuse(source, token.start, token.text, "the number is too long", "write fewer digits")
        if token.token_type == TokenType.SEMICOLON:
            refuse(source, token.start, ";", "several statements", "send one query at a time")
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1, TokenType.CASE: 1,
                  TokenType.END: -1}.get(token.token_type, 0)  # fmt: skip
        if depth > MAX_NESTING:
            refuse(source, token.start, token.text, f"nested deeper than {MAX_NESTING} levels",
                   "split it by with")  # fmt: skip


def _check_nodes(source: str, query: exp.Query) -> None:
    """Nothing of the tree may be unknown here: what is not looked at would be lost silently."""
    for node in query.walk():
        name = type(node).__name__
        known = PARTS.get(type(node))
        if known is None:
            reject(source, node, f"{name} is not supported", _INSTEAD.get(name, ""))
        for key, value in node.args.items():
            if value not in (None, False, [], "") and key not in known:
                word = {"locks": "for update"}.get(key, key.strip("_").replace("_", " "))
                reject(source, node, f"{word} is not supported here", _INSTEAD.get(key, ""))
        if isinstance(node, exp.Table):
            _check_table(source, node)


def _check_table(source: str, node: exp.Table) -> None:
    if node.args.get("db") or node.args.get("catalog"):
        reject(source, node, "tables have no schema or catalog here", "write context_nodes")
    if not isinstance(node.this, exp.Identifier):
        reject(source, node, "functions are not tables here",
               "write from unnest(generate_series(1, 10)) as t(x)")  # fmt: skip


def reject(source: str, node: exp.Expr, reason: str, instead: str = "") -> NoReturn:
    """Refuse a query at a node: at its first token that sqlglot knows the place of.

    Raises:
        QueryRejectedError: always.
    """
    here: exp.Expr | None = node
    while here is not None:
        places = [
            (each.meta["start"], each.meta["end"]) for each in here.walk() if "start" in each.meta
        ]
        if places:
            start, end = min(places)
            refuse(source, start, source[start : end + 1], reason, instead)
        here = here.parent
    refuse(source, 0, source.split(maxsplit=1)[0], reason, instead)


def _explain(source: str, error: ParseError) -> NoReturn:
    found = error.errors[0] if error.errors else {}
    line, column = int(found.get("line") or 1), int(found.get("col") or 1)
    word = str(found.get("highlight") or "")
    lines = source.split("\n")
    start = sum(len(each) + 1 for each in lines[: line - 1]) + column - len(word)
    if str(found.get("description")).startswith("Required keyword"):
        refuse(source, max(0, start), word or source[:20], "something is missing after this",
               "complete the clause")  # fmt: skip
    reason = str(found.get("description") or "not expected here").rstrip(".").split("<")[0].strip()
    refuse(source, max(0, min(start, len(source))), word or source[:20],
           reason[:1].lower() + reason[1:],
           nearest(word, KEYWORDS) or "write select … from context_nodes where …")  # fmt: skip
