"""The functions that a SQL query may call, what they take and what they give.

``takes`` has one sign for each argument, the last one for all further ones: ``s`` text, ``n``
number, ``d`` datetime, ``x`` anything. A dynamic argument is converted by it. ``gives`` is a type,
or ``same`` (that of the first argument), ``common`` (of all), ``item`` (of the list), ``list``
(of the first argument as item), ``same_list``.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentcy_ray.context.languages.values import Kind


@dataclass(frozen=True, slots=True)
class Function:
    """One function; ``most`` None = any number of arguments."""

    takes: str
    gives: str
    least: int = 1
    most: int | None = 1
    aggregate: bool = False
    window: bool = False
    item: Kind = "null"
    """The item type of a result that is a list."""


def _each(names: str, takes: str, gives: str, least: int, most: int | None) -> dict[str, Function]:
    return {name: Function(takes, gives, least, most) for name in names.split()}


def _aggregates(names: str, takes: str, gives: str, most: int = 1) -> dict[str, Function]:
    return {name: Function(takes, gives, most, most, aggregate=True) for name in names.split()}


FUNCTIONS: dict[str, Function] = {
    # text
    **_each("lower upper reverse initcap md5", "s", "string", 1, 1),
    **_each("trim btrim ltrim rtrim", "s", "string", 1, 2),
    **_each("left right repeat", "sn", "string", 2, 2),
    **_each("substr substring", "sn", "string", 2, 3),
    **_each("lpad rpad", "sns", "string", 2, 3),
    **_each("replace translate", "s", "string", 3, 3),
    **_each("split_part", "ssn", "string", 3, 3),
    **_each("concat", "s", "string", 1, None), **_each("concat_ws", "s", "string", 2, None),
    **_each("regexp_replace", "s", "string", 3, 4), **_each("chr to_hex", "n", "string", 1, 1),
    **_each("length char_length character_length octet_length ascii", "s", "long", 1, 1),
    **_each("strpos position instr levenshtein", "s", "long", 2, 2),
    **_each("regexp_count", "s", "long", 2, 2),
    **_each("starts_with ends_with contains", "s", "bool", 2, 2),
    **_each("regexp_like", "s", "bool", 2, 3),
    "string_to_array": Function("s", "list", 2, 3, item="string"),
    "regexp_match": Function("s", "list", 2, 3, item="string"),
    # numbers
    **_each("abs", "n", "same", 1, 1),
    **_each("ceil floor sqrt cbrt exp ln log2 log10 signum", "n", "real", 1, 1),
    **_each("sin cos tan asin acos atan radians degrees", "n", "real", 1, 1),
    **_each("round trunc log", "n", "real", 1, 2), **_each("power pow atan2", "n", "real", 2, 2),
    **_each("pi", "n", "real", 0, 0), **_each("isnan", "n", "bool", 1, 1),
    # choice
    **_each("coalesce greatest least", "x", "common", 1, None),
    **_each("nullif nvl ifnull", "x", "common", 2, 2),
    # times
    **_each("now", "x", "datetime", 0, 0), **_each("current_date today", "x", "date", 0, 0),
    **_each("date_trunc", "sd", "datetime", 2, 2), **_each("date_bin", "xdd", "datetime", 2, 3),
    **_each("date_part", "sd", "real", 2, 2), **_each("to_char date_format", "ds", "string", 2, 2),
    **_each("to_timestamp to_timestamp_seconds to_timestamp_millis to_timestamp_micros", "x",
            "datetime", 1, 1),
    **_each("to_unixtime", "d", "long", 1, 1),
    # lists
    "make_array": Function("x", "list", 1, None),
    **_each("cardinality array_length", "x", "long", 1, 1),
    **_each("array_has array_has_any array_has_all", "x", "bool", 2, 2),
    "array_to_string": Function("xs", "string", 2, 3),
    "array_element": Function("xn", "item", 2, 2), "array_slice": Function("xn", "same_list", 3, 3),
    "array_distinct": Function("x", "same_list"), "array_sort": Function("xs", "same_list", 1, 3),
    "array_position": Function("x", "long", 2, 2),
    "array_append": Function("x", "same_list", 2, 2),
    "array_concat": Function("x", "same_list", 2, None),
    "unnest": Function("x", "item"),
    "generate_series": Function("x", "list", 2, 3), "range": Function("x", "list", 1, 3),
    # properties
    "json_get": Function("xs", "dynamic", 2, None),
    "json_get_str": Function("xs", "string", 2, None),
    "json_get_int": Function("xs", "long", 2, None),
    "json_get_float": Function("xs", "real", 2, None),
    "json_get_bool": Function("xs", "bool", 2, None),
    "json_as_text": Function("xs", "string", 2, None),
    "json_contains": Function("xs", "bool", 2, None),
    # aggregates
    "count": Function("x", "long", 0, 1, aggregate=True),
    **_aggregates("sum", "n", "same"), **_aggregates("min max", "x", "same"),
    **_aggregates("avg mean median stddev stddev_pop stddev_samp", "n", "real"),
    **_aggregates("var var_pop var_samp", "n", "real"),
    **_aggregates("approx_median", "n", "real"), **_aggregates("approx_distinct", "x", "long"),
    **_aggregates("corr covar_pop covar_samp", "n", "real", 2),
    "approx_percentile_cont": Function("n", "real", 2, 3, aggregate=True),
    "string_agg": Function("s", "string", 2, 2, aggregate=True),
    "array_agg": Function("x", "list", aggregate=True),
    **_aggregates("bool_and bool_or", "x", "bool"),
    **_aggregates("first_value last_value", "x", "same"),
    "nth_value": Function("xn", "same", 2, 2, aggregate=True),
    # windows
    **{name: Function("x", "long", 0, 0, window=True)
       for name in ("row_number", "rank", "dense_rank")},
    **{name: Function("x", "real", 0, 0, window=True) for name in ("percent_rank", "cume_dist")},
    "ntile": Function("n", "long", window=True),
    "lag": Function("xnx", "same", 1, 3, window=True),
    "lead": Function("xnx", "same", 1, 3, window=True),
}  # fmt: skip

INSTEAD = {
    "json_extract": "write props ->> 'key'", "json_value": "write props ->> 'key'",
    "jsonb_array_elements": "write unnest(props -> 'key')",
    "get_json_object": "write props ->> 'key'",
    "if": "write case when … then … else … end", "iif": "write case when … then … else … end",
    "isnull": "write x is null", "strftime": "write to_char(at, '%Y-%m-%d')",
    "date_diff": "subtract two times", "datediff": "subtract two times",
    "group_concat": "write string_agg(x, ',')", "len": "write length(x)",
    "percentile_cont": "write approx_percentile_cont(x, 0.95)",
    "arrow_cast": "write cast(x as …)", "pg_sleep": "only reading is allowed",
    "read_parquet": "only context_nodes, context_edges and context_events can be read",
    "version": "ask GET /context/capabilities", "array_remove": "filter before array_agg",
}  # fmt: skip
