"""What this DataFusion understands and kyma's older one does not, refused here as there."""

from __future__ import annotations

import re

from datafusion import SessionContext

from agentcy_ray.devkyma.errors import EngineError

_TOKENS = re.compile(
    r"""
    --[^\n]* | /\*.*?\*/            # comments
    | '(?:[^']|'')*'                # text
    | "(?:[^"]|"")*"                # quoted names
    | (?P<word>[A-Za-z_]\w*)
    | (?P<pipe>\|>)
    """,
    re.VERBOSE | re.DOTALL,
)

_NEWER_WORDS = frozenset({"qualify", "lateral"})

_NEWER_FUNCTIONS = (
    "array_max",
    "array_min",
    "list_max",
    "list_min",
    "regexp_instr",
    "quantile_cont",
    "percentile_cont",
    "spark_cast",
    "try_url_decode",
)


def newer_functions(context: SessionContext) -> list[str]:
    """Functions of this engine that kyma's does not have."""
    return [name for name in _NEWER_FUNCTIONS if name in context.udfs()]


def check_dialect(sql: str) -> None:
    """Refuse syntax that came after kyma's DataFusion.

    Raises:
        EngineError: 400 ``sql_parse_error``.
    """
    first = True
    for token in _TOKENS.finditer(sql):
        word = (token["word"] or "").lower()
        if token["pipe"] or word in _NEWER_WORDS or (first and word == "from"):
            shown = token[0].upper()
            raise EngineError(400, "sql_parse_error", f"{shown} is not supported by this engine")
        first = first and not (word or token[0][0] in "'\"")
