"""Texts as views inside of a query, plain on the way out.

Parquet pages are read into string views without copying a text, so that a summary which only groups
by one costs half. Callers get the types of the contract: ``Utf8`` and ``Binary``.
"""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa

_INSIDE = {pa.string(): pa.string_view(), pa.binary(): pa.binary_view()}
_OUTSIDE = {view: plain for plain, view in _INSIDE.items()}


def viewed(schema: pa.Schema) -> pa.Schema:
    """The schema of a table as queries read it."""
    return pa.schema([field.with_type(_INSIDE.get(field.type, field.type)) for field in schema])


def without_views(schema: pa.Schema) -> pa.Schema:
    """The schema of an answer, given that of its plan."""
    return pa.schema([field.with_type(_plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        fields = cast("pa.StructType", kind)
        return pa.struct([each.with_type(_plain(each.type)) for each in fields])
    if pa.types.is_map(kind):
        entries = cast("pa.MapType[Any, Any, Any]", kind)
        return pa.map_(
            entries.key_field.with_type(_plain(entries.key_type)),
            entries.item_field.with_type(_plain(entries.item_type)),
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        items = cast("pa.ListType[Any]", kind)
        item = items.value_field.with_type(_plain(items.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(item, cast("pa.FixedSizeListType[Any, Any]", kind).list_size)
        return pa.list_(item) if pa.types.is_list(kind) else pa.large_list(item)
    if pa.types.is_dictionary(kind):
        coded = cast("pa.DictionaryType[Any, Any, Any]", kind)
        return pa.dictionary(coded.index_type, _plain(coded.value_type), coded.ordered)
    return _OUTSIDE.get(kind, kind)
