"""KQL text to its tree, and what is said when it is not KQL."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import NoReturn

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken, VisitError

from agentcy_ray.context.languages.kql.builder import Builder
from agentcy_ray.context.languages.kql.tree import Statements
from agentcy_ray.context.languages.refusals import check_length, nearest, refuse
from agentcy_ray.core.errors import QueryRejectedError

PACKAGE = "agentcy_ray.context.languages.kql"
OPERATORS = (
    "where", "project", "project-away", "project-keep", "project-reorder", "project-rename",
    "extend", "summarize", "sort by", "order by", "top", "take", "limit", "distinct", "count",
    "serialize", "join", "lookup", "union", "mv-expand", "make-series", "render", "make-graph",
    "graph-match",
)  # fmt: skip
"""The operators that may follow ``|``."""
SOURCES = ("print", "range", "datatable", "union", "let", "declare query_parameters")

_OTHER_WORDS = (
    "by", "on", "asc", "desc", "nulls first", "nulls last", "kind=", "withsource=", "step", "from",
    "to", "default", "and", "or", "in", "!in", "in~", "between", "has", "has_cs", "has_any",
    "has_all", "contains", "startswith", "endswith", "matches regex", "=~", "true", "false",
)  # fmt: skip

_INSTEAD = {
    "mv-apply": "use mv-expand, then summarize",
    "parse": "use extend with extract(regex, group, text)",
    "parse-where": "use where matches regex, then extend with extract(regex, group, text)",
    "parse-kv": "use extend with extract(regex, group, text)",
    "search": "use where name has 'word' or body has 'word'",
    "find": "use where name has 'word' or body has 'word'",
    "sample": "use take",
    "sample-distinct": "use distinct, then take",
    "top-nested": "use summarize, then top",
    "top-hitters": "use summarize count(), then top",
    "graph-to-table": "use graph-match with project",
    "graph-shortest-paths": "use graph-match with -[e*1..3]-> and project",
    "graph-traverse": "use make-graph, then graph-match with -[e*1..3]->",
    "graph-var-length": "use make-graph, then graph-match with -[e*1..3]->",
    "graph-var-match": "use graph-match with -[e*1..3]->",
    "graph-shortest-path": "use graph-match with -[e*1..3]->",
    "getschema": "ask GET /context/schema",
    "fork": "send several queries",
    "facet": "use summarize count() by <column>",
    "partition": "use summarize or row_number() over sorted rows",
    "scan": "use prev(), next() and row_number() over sorted rows",
    "reduce": "use summarize count() by <column>",
    "evaluate": "use summarize with make_list or make_set",
    "invoke": "write the stages out",
    "as": "use let name = …;",
    "consume": "use count",
    "externaldata": "only context_nodes, context_edges and context_events can be read",
}
_SIGNS = {
    "'": "close the quote", '"': "close the quote",
    "$": "declare query_parameters(name:string) and write name",
    "!": "write not(…), != or !in", "=": "compare with ==", "&": "write and", "?": "write iff()",
    "#": "comments begin with //", "@": "write @ before a text only", "[": "write dynamic([1, 2])",
    "`": "quote a name as ['the name']", "~": "compare without regard to case by =~ or !~",
}  # fmt: skip
_WORDS = {
    "select": "KQL begins with a table: context_nodes | where …", "like": "use has or contains",
    "is": "use isnull(x) or isnotnull(x)", "group": "use summarize … by",
    "not": "write not(…) or !in", "inner": "write join kind=inner (…) on id",
    "as": "write name = expression", "between": "write x between (1 .. 2)",
}  # fmt: skip
_COMPARING = (
    "and", "or", "in", "has", "contains", "startswith", "endswith", "between", "matches regex",
)  # fmt: skip
_FOLLOWS = {
    "by": ("sort", "order", "top", "summarize"), "on": ("join", "lookup", "make-series"),
    "from": ("range", "make-series"), "step": ("range", "make-series"), "to": ("range",),
}  # fmt: skip
_OPENS = {")": "(", "]": "["}
_SLIPS = (
    (r"(cluster|database|external_table|externaldata)\s*\(.*$",
     "only context_nodes, context_edges and context_events can be read"),
    (r"\bnot$", "write not(…) or !in"),
    (r"(\bin~?|\bhas_any|\bhas_all)$", "write the values in parentheses: name in ('a', 'b')"),
    (r"\bbetween$", "write x between (1 .. 2)"),
    (r"=\s*\[$", "write dynamic([1, 2])"),
    (r"\|\s*count$", "use summarize count() by <column>, or count alone"),
    (r"\bmake-graph\s+\w+\s*$", "write make-graph src --> dst with context_nodes on id"),
    (r"\bproject-rename\s+\w+$", "write project-rename new = old"),
    (r"\bquery_parameters\s*\(\s*\w+$", "write declare query_parameters(name:string)"),
    (r"^\s*(search|find)$", "use where name has 'word' or body has 'word'"),
    (r"(?i)^\s*select\b", "KQL begins with a table: context_nodes | where …"),
    (r"^set\b", "options are not supported: leave the set statement out"),
    (r"let\s+\w+\s*=\s*\([^)]*(\)\s*\{)?$",
     "functions of a query's own are not supported: use let x = …;"),
    (r"^\s*let\b[^;]*$", "write let name = value; and a query after it"),
)  # fmt: skip
_OPERATOR_WORD = {"WHERE", "SUMMARIZE", "EXTEND"}


@cache
def _grammar() -> Lark:
    """The parser's tables: the same for every query, made when the first one comes."""
    text = files(PACKAGE).joinpath("kql.lark").read_text()
    return Lark(
        text, parser="lalr", lexer="contextual", propagate_positions=True, maybe_placeholders=True
    )


def read(source: str) -> Statements:
    """Parse one query with its ``let`` and ``declare`` statements.

    Raises:
        QueryRejectedError: too long, or outside the language; with token, position and advice.
    """
    check_length(source)
    stripped = source.lstrip()
    if stripped.startswith("."):
        refuse(source, len(source) - len(stripped), stripped.split()[0],
               "commands are not queries: only reading is allowed")  # fmt: skip
    try:
        parsed = _grammar().parse(source)
        return Builder(source).transform(parsed)
    except VisitError as error:
        if isinstance(error.orig_exc, QueryRejectedError):
            raise error.orig_exc from None
        if isinstance(error.orig_exc, ValueError | OverflowError):  # 4,300 digits, or no float
            at = getattr(getattr(error.obj, "meta", None), "start_pos", 0)
            refuse(
                source, at, source[at : at + 20], "the value is too large", "write a smaller one"
            )
        raise
    except RecursionError:
        refuse(source, 0, source[:20], "the query is nested too deeply", "split it by let")
    except UnexpectedInput as error:
        _explain(source, error)


def _explain(source: str, error: UnexpectedInput) -> NoReturn:
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        token: Token = error.token
        at, word = token.start_pos or 0, str(token)
    elif isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream
        word = source[at : at + 1]
    else:
        at, word = len(source.rstrip()), "end of the query"
    expected: set[str] = set(getattr(error, "expected", None) or getattr(error, "allowed", ()))
    before = source[:at].rstrip()
    whole = _word_at(source, at) or word
    if whole.startswith("//") or not source.strip():
        refuse(source, 0, whole, "the query is empty", "write context_nodes | take 10")
    if expected & _OPERATOR_WORD and before.endswith("|"):
        advice = _INSTEAD.get(whole.lower(), "") or nearest(whole, OPERATORS)
        refuse(source, at, whole, "no such operator here",
               advice or f"use one of {', '.join(OPERATORS)}")  # fmt: skip
    if before.endswith(";") and whole != "end of the query":
        refuse(source, at, whole, "only one query may stand after the declarations",
               "send one query at a time")  # fmt: skip
    stage = before.rpartition("|")[2]
    if source[at - 1 : at].isdigit() and whole.isalpha():
        refuse(source, at, whole, "no unit of time", "write 1d, 2h, 30m, 10s or 5ms")
    instead = _WORDS.get(whole.lower(), "") or _SIGNS.get(word, "") or _known_slip(before)
    if not instead and "graph-match" in stage:
        instead = "write graph-match (a)-[e*1..3]->(b) where … project a.id, b.id"
    if not instead:
        begin = "begin with a table: context_nodes | where …"
        instead = _after(expected, whole, stage) if before else begin
    refuse(source, at, whole, "not expected here", instead)


def _known_slip(before: str) -> str:
    """Advice for what is written before the unexpected token."""
    for pattern, advice in _SLIPS:
        if re.search(pattern, before):
            return advice
    return ""


def _after(expected: set[str], word: str, stage: str) -> str:
    """Advice from what the grammar would have accepted."""
    if "MEMBER" in expected and (advice := nearest(word, _COMPARING)):
        return advice
    if {"NAME", "NUMBER"} <= expected:
        return "an expression is expected"
    operator = (stage.split() or [""])[0]
    words = [each for each, owners in _FOLLOWS.items() if operator in owners]
    wanted = [each for each in words if each.upper() in expected]
    open_ = [sign for sign, name in ((")", "RPAR"), ("]", "RSQB")) if name in expected and (
        stage.count(_OPENS[sign]) > stage.count(sign)
    )]  # fmt: skip
    options = [*open_, *wanted]
    if options:
        return f"expected {' or '.join(options)}"
    if "NAME" in expected:
        return "a name is expected"
    if word.lower() in OPERATORS:
        return f"write | {word.lower()}"
    if "VBAR" in expected:
        return "end the stage here, by | or nothing"
    return "leave it out, or see GET /context/completion?language=kql"


def _word_at(source: str, at: int) -> str:
    end = at
    while end < len(source) and (source[end].isalnum() or source[end] in "_-"):
        end += 1
    return source[at:end].rstrip("-")


def keywords() -> tuple[str, ...]:
    """Words of the language, for completion."""
    return tuple(dict.fromkeys((*OPERATORS, *SOURCES, *_OTHER_WORDS)))
