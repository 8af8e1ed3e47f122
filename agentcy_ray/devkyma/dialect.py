"""What this DataFusion understands and kyma's older one (44) does not, refused here as there."""

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
_NEWER_PAIRS = frozenset({("within", "group"), ("by", "name"), ("by", "all")})

_NEWER_LISTS = (
    "add", "avg", "compact", "max", "min", "normalize", "product", "scale", "subtract", "sum",
)  # fmt: skip
_NEWER_SCALARS = frozenset({
    *(f"{kind}_{name}" for name in _NEWER_LISTS for kind in ("array", "list")),
    "arrays_overlap", "arrays_zip", "arrow_field", "arrow_metadata", "arrow_try_cast",
    "cast_to_type", "cosine_distance", "dot_product", "file_row_index", "inner_product",
    "input_file_name", "list_zip", "make_time", "map_entries", "rand", "regexp_instr", "to_time",
    "try_cast_to_type", "union_tag", "with_metadata",
})  # fmt: skip
_NEWER_AGGREGATES = frozenset({"any_value", "percentile_cont", "quantile_cont"})
_NEWER_TABLES = ("generate_series", "range")


def forget_newer(context: SessionContext) -> None:
    """Take away the functions that kyma's engine does not have."""
    for name in _NEWER_SCALARS & set(context.udfs()):
        context.deregister_udf(name)
    for name in _NEWER_AGGREGATES & set(context.udafs()):
        context.deregister_udaf(name)
    for name in _NEWER_TABLES:
        context.deregister_udtf(name)


def check_dialect(sql: str) -> None:
    """Refuse syntax that came after kyma's DataFusion.

    Raises:
        EngineError: 400 ``sql_parse_error``.
    """
    before = ""
    for token in _TOKENS.finditer(sql):
        word = (token["word"] or "").lower()
        if not word and not token["pipe"] and token[0][0] not in "'\"":
            continue  # a comment
        newer = word in _NEWER_WORDS or (before, word) in _NEWER_PAIRS
        if token["pipe"] or newer or (word == "from" and not before):
            shown = token[0].upper()
            raise EngineError(400, "sql_parse_error", f"{shown} is not supported by this engine")
        before = word or "literal"
