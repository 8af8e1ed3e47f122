"""Bytes of a repository as text: paths, names, messages and times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from agentcy_ray.connectors.records import clean_text

_HEX_MESSAGE_BYTES = 16 * 1024
_MESSAGE_CHARS = 32 * 1024


def decoded(raw: bytes) -> str:
    """UTF-8 with U+FFFD for what is not; never a surrogate, never a NUL."""
    return clean_text(raw.decode("utf-8", "replace"))


def key_of(raw: bytes) -> str:
    """An external id for a path or a ref name: its text, or ``hex:…`` when that would be lossy."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"hex:{raw.hex()}"


def raw_of(key: str) -> bytes:
    """The bytes behind a key of ``key_of``."""
    if key.startswith("hex:"):
        try:
            return bytes.fromhex(key[4:])
        except ValueError:
            pass
    return key.encode("utf-8", "surrogateescape")


def lossless(raw: bytes, field: str) -> dict[str, str]:
    """``{field: hexadecimal}`` when ``raw`` is not UTF-8, else nothing."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return {field: raw.hex()}
    return {}


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
