"""Canonical text: what of an entity is embedded, and the hash that tells when to do it again.

The product specification, §14.1: ``labels | name | description or title | key props as k=v``.
Labels, name, title and description decide whether an entity is embedded again; other properties
ride along in the text and may be as old as its vector.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

MAX_PROPERTIES = 16
"""Properties named in a canonical text, in the order of their names."""
MAX_VALUE_CHARS = 120
"""Longer values are prose or data, not key properties, and are left out."""
DECIDING = ("title", "description")
"""Properties that are text of their own and, with labels and name, decide the hash."""
_APART = frozenset({"url", "html_url", "external_id", "id", *DECIDING})
"""Properties that are no facts: addresses, and what is text of its own."""


def canonical_text(labels: Sequence[str], name: str, properties: Mapping[str, Any]) -> str:
    """The text of an entity; the same for the same content, whatever the order of its keys.

    Args:
        labels: labels of the node, the primary one first.
        name: its name.
        properties: JSON values by property name.
    """
    body = _text(properties.get("description")) or _text(properties.get("title"))
    parts = (", ".join(labels), name.strip(), body, _facts(properties))
    return " | ".join([part for part in parts if part])


def text_hash(labels: Sequence[str], name: str, properties: Mapping[str, Any]) -> str:
    """Hexadecimal BLAKE2b-128 of what decides whether an entity is embedded again."""
    digest = blake2b(digest_size=16)
    deciding = [list(labels), name, *(properties.get(key) for key in DECIDING)]
    digest.update(json.dumps(deciding, ensure_ascii=False, sort_keys=True).encode())
    return digest.hexdigest()


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _facts(properties: Mapping[str, Any]) -> str:
    """Key properties as ``k=v``, by name, at most ``MAX_PROPERTIES``."""
    facts: list[str] = []
    for key in sorted(properties.keys() - _APART):
        value = _short(properties[key])
        if value:
            facts.append(f"{key}={value}")
            if len(facts) == MAX_PROPERTIES:
                break
    return " ".join(facts)


def _short(value: Any) -> str:
    """A scalar, or a list of scalars, as short text; empty for everything else."""
    match value:
        case bool():
            text = str(value).lower()
        case int() | float() | str():
            text = str(value).strip()
        case list() | tuple():
            items = [_short(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
            text = ",".join(items) if items and all(items) else ""
        case _:
            text = ""
    return text if len(text) <= MAX_VALUE_CHARS and "\n" not in text else ""
