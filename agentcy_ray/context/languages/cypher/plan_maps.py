"""All properties of an entity at once: their names, and as a map.

They are made from ``facts`` by a few replacements over its whole text, since an engine without JSON
functions has nothing that goes through them one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlglot import Expr

from agentcy_ray.context.languages import facts
from agentcy_ray.context.languages.cypher import sql, values
from agentcy_ray.context.languages.cypher.plan_properties import (
    EDGE_FIELDS,
    EDGE_TAKEN,
    NODE_FIELDS,
    NODE_TAKEN,
    URL_CHARS,
)
from agentcy_ray.context.languages.cypher.values import Value
from agentcy_ray.context.languages.facts import ITEM, KEY, MARK, PROPERTY


def keys_of(subject: Value) -> Value:
    """The names of the properties of an entity or a map; those of every entity come first."""
    if subject.fields is None:
        return _map_keys(subject.sql)
    own = _each(_own(subject), f"{KEY}[^{PROPERTY}]*", "")
    trimmed = sql.function("rtrim", sql.function("replace", own, sql.lit(MARK), "."),
                           sql.lit(PROPERTY))  # fmt: skip
    archived = sql.case(
        (_archived(subject), sql.lit(f"{PROPERTY}archived_at")), default=sql.lit("")
    )
    whole = sql.joined([sql.lit(PROPERTY.join(_always(subject))), archived, trimmed])
    marked = sql.function("replace", whole, sql.lit(PROPERTY), sql.lit(f"{ITEM}s"))
    items = sql.function("string_to_array", sql.joined([sql.lit("s"), marked]), sql.lit(ITEM))
    return values.array_of(sql.case((_there(subject), items)), "text")


def _map_keys(tagged: Expr) -> Value:
    """Keys and values take turns, and no value is tagged as a key."""
    spread = sql.joined([sql.lit(ITEM), facts.body(tagged)])
    keys = _each(spread, f"{ITEM}[^k{ITEM}][^{ITEM}]*", "")
    texts = sql.function("replace", keys, sql.lit(f"{ITEM}k"), sql.lit(f"{ITEM}s"))
    items = sql.function("string_to_array", facts.body(texts), sql.lit(ITEM))
    none = sql.compare("=", tagged, sql.lit("d"))
    return values.array_of(sql.case((none, sql.empty_array()), default=items), "text")


def properties_of(entity: Value, *, without: Iterable[str] = ()) -> Value:
    """A node's or an edge's properties as a map, less some; null when there is no entity."""
    assert entity.fields is not None
    left_out = sorted(set(without))
    fixed = values.map_of({
        name: values.text(sql.function("coalesce", entity.fields[name], ""))
        for name in _always(entity)
        if name not in left_out
    })  # fmt: skip
    hidden = sql.case(
        (_archived(entity),
         sql.joined([sql.lit(f"{ITEM}karchived_at{ITEM}s"), entity.fields["archived_at"]])),
        default=sql.lit(""),
    )  # fmt: skip
    text = _own(entity)
    if left_out:
        names = "|".join(re.escape(name).replace(r"\.", MARK) for name in left_out)
        text = _each(text, f"{PROPERTY}(?:{names}){KEY}[^{PROPERTY}]*", "")
    # What no property graph holds as it is, is its JSON text.
    text = sql.function("replace", text, sql.lit(f"{KEY}m"), sql.lit(f"{KEY}s"))
    text = _each(text, f"{KEY}l[^{PROPERTY}{MARK}]*{MARK}\\[", f"{KEY}s[")
    text = sql.function("replace", text, sql.lit(MARK), ".")
    text = sql.function("replace", text, sql.lit(ITEM), sql.lit(f"{MARK}s"))
    text = sql.function("rtrim", text, sql.lit(PROPERTY))
    text = sql.function("replace", text, sql.lit(KEY), sql.lit(ITEM))
    text = sql.function("replace", text, sql.lit(PROPERTY), sql.lit(f"{ITEM}k"))
    parts = [fixed.sql, text] if "archived_at" in left_out else [fixed.sql, hidden, text]
    return Value("map", sql.case((_there(entity), sql.joined(parts))))


def merged(first: Value, entries: dict[str, Value]) -> Value:
    """A map with further entries, which it does not have itself."""
    if not entries:
        return first
    more = sql.function("substr", values.map_of(entries).sql, 2)
    return Value("map", sql.joined([first.sql, sql.lit(ITEM), more]))


def _own(entity: Value) -> Expr:
    """The ``facts`` of an entity's own properties, none nested, named as the Basic engine does."""
    assert entity.fields is not None
    key = f"[^{KEY}{PROPERTY}]*"
    text = _each(entity.fields["facts"], f"{PROPERTY}{key}\\.{key}{KEY}[^{PROPERTY}]*", "")
    names = "|".join(sorted(NODE_TAKEN if entity.kind == "node" else EDGE_TAKEN))
    text = _each(text, f"{PROPERTY}((?:{names})_*|url_+){KEY}", f"{PROPERTY}${{1}}_{KEY}")
    text = _each(text, f"{PROPERTY}(_*@{key}){KEY}", f"{PROPERTY}_${{1}}{KEY}")
    url = sql.function("nullif", facts.tagged(text, "url"), "")
    long = sql.compare(">", sql.function("character_length", url), sql.number(URL_CHARS + 1))
    longer = sql.function("replace", text, sql.lit(f"{PROPERTY}url{KEY}s"),
                          sql.lit(f"{PROPERTY}url_{KEY}s"))  # fmt: skip
    return sql.case((long, longer), default=text)


def _each(text: Expr, pattern: str, written: str) -> Expr:
    return sql.function("regexp_replace", text, sql.lit(pattern), sql.lit(written), "g")


def _always(entity: Value) -> list[str]:
    """Properties that every live entity has."""
    return sorted((NODE_FIELDS if entity.kind == "node" else EDGE_FIELDS) - {"archived_at"})


def _archived(entity: Value) -> Expr:
    assert entity.fields is not None
    stamp = sql.function("coalesce", entity.fields["archived_at"], "")
    return sql.compare("<>", stamp, sql.lit(""))


def _there(entity: Value) -> Expr:
    assert entity.fields is not None
    return sql.is_null(entity.fields["id"], negated=True)
