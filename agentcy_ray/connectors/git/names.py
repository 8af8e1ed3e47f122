"""Messages and times of a repository as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agentcy_ray.connectors.records import clean_text

_HEX_MESSAGE_BYTES = 16 * 1024
_MESSAGE_CHARS = 32 * 1024


def message_fields(raw: bytes, encoding: str | None) -> dict[str, Any]:
    """``title`` (first line) and, when there is more, ``description`` (the whole message).

    A message that its declared encoding cannot read keeps its bytes in ``message_hex``.
    """
    fields: dict[str, Any] = {}
    try:
        text = raw.decode(encoding or "utf-8")
    except (UnicodeDecodeError, LookupError):
        text = raw.decode("utf-8", "replace")
        fields["message_hex"] = raw[:_HEX_MESSAGE_BYTES].hex()
    text = clean_text(text).strip()
    title, _, rest = text.partition("\n")
    fields["title"] = title.strip()[:_MESSAGE_CHARS]
    if rest.strip():
        fields["description"] = text[:_MESSAGE_CHARS]
    return fields


def utc_time(seconds: int) -> str | None:
    """Seconds since 1970 as RFC 3339; None for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None
