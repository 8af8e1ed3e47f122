"""Text that every store accepts.

Postgres refuses NUL in text and JSON, UTF-8 knows no half of a surrogate pair, and both arrive:
from binary files, and from providers that cut an emoji in two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

_NUL = b"\\u0000"


def repaired_text(text: str) -> str:
    """``text`` with U+FFFD in the place of NUL and of halves of surrogate pairs.

    Halves that stand next to each other become the character that they make up.
    """
    if text.isascii():
        return text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\x00", "\ufffd")


def repaired(value: Any) -> Any:
    """A JSON value with all of its texts repaired; the given one is not changed."""
    if isinstance(value, str):
        return repaired_text(value)
    return value if _clean(value) else _walked(value)


def _clean(value: Any) -> bool:
    try:
        return _NUL not in orjson.dumps(value)
    except TypeError:  # half of a surrogate pair, or no plain JSON
        return False


def _walked(value: Any) -> Any:
    if isinstance(value, str):
        return repaired_text(value)
    if isinstance(value, Mapping):
        return {repaired_text(str(key)): _walked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walked(item) for item in value]
    return value
