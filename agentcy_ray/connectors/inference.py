"""Types of text columns, inferred from a sample: which values are numbers, truths and times."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

ColumnType = Literal["string", "integer", "float", "boolean", "datetime", "email", "url"]
SAMPLE_ROWS = 100

# A leading zero or plus marks a code (postcode, phone number), which is text; so are more digits
# than a number keeps.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_BOOLEAN = re.compile(r"true|false", re.IGNORECASE)
_DATETIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?\s?(?:Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
_EMAIL = re.compile(r"[^@\s<>\"]+@[^@\s<>\"]+\.[^@\s<>\".]{2,}")
_URL = re.compile(r"https?://[^\s/]+\S*", re.IGNORECASE)


def infer(values: Iterable[str]) -> ColumnType:
    """The narrowest type that every non-blank value of a sample has; ``string`` for none."""
    texts = [text for value in values if (text := value.strip())]
    if not texts:
        return "string"
    for name, matches in _TESTS.items():
        if all(map(matches, texts)):
            return name
    return "string"


def convert(text: str, kind: ColumnType) -> Any:
    """``text`` as a value of a type; None for blank, the text itself when it does not fit.

    A value past the sample may break the inferred type. It is kept as it stands: losing it would
    be worse than a mixed column. Times become RFC 3339 in UTC; one without a zone is UTC.
    """
    text = text.strip()
    if not text:
        return None
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    if kind == "boolean" and _BOOLEAN.fullmatch(text):
        return text.lower() == "true"
    if kind == "datetime" and (moment := read_datetime(text)) is not None:
        return moment
    return text


def read_datetime(text: str) -> datetime | None:
    """An ISO 8601 calendar date with or without a time, in UTC; None for anything else."""
    if not _DATETIME.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.replace(",", "."))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


_TESTS: Mapping[ColumnType, Callable[[str], object]] = {
    "integer": _INTEGER.fullmatch,
    "float": _FLOAT.fullmatch,
    "boolean": _BOOLEAN.fullmatch,
    "datetime": read_datetime,
    "email": _EMAIL.fullmatch,
    "url": _URL.fullmatch,
}
"""From narrow to wide: every integer is a float too."""
